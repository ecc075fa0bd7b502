"""Lanes: reliable, resumable, ordered byte streams between two node agents.

protocol.py is the sans-I/O core, link.py the route that it needs, session.py the asyncio shell, pump.py joins a
socket to a stream.
"""
