"""Lanes: reliable, resumable, ordered byte streams between two node agents.

core/ is the lane protocol without I/O, routes/ is how its frames travel (relay or direct TCP), session.py the asyncio
shell around both, tls.py the secrecy, pump.py joins a socket to a stream. They are documented where they stand.
"""
