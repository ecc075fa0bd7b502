"""The provider's voice towards those who leave: approves by its own records, relays to its nodes, disconnects.

It knows its own provider only; it moves no byte of a VM and decides nothing about recipients but who is a partner.
"""
