"""The provider's voice towards those who come: quotes, reserves, checks the platform, relays to its nodes, provisions.

It knows its own provider only; it moves no byte of a VM and grants no switchover.
"""
