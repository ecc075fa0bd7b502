"""The tenant's side: SDK and ``vmport`` command line."""
