"""Probes of the path between two nodes before a port: how large packets may be, and which sources are let out."""
