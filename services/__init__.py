"""The four vmport services; separate processes that meet only on the wire, never by import."""
