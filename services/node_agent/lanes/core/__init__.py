"""The lane protocol and its accounts. Pure: bytes in, events out; no socket, no clock."""
