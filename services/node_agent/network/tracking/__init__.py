"""Entries of connection tracking that move with a VM, so that stateful firewalls let its open connections go on."""
