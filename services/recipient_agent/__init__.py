"""The voice of the provider that a VM joins: capacity, quotes, reservation, placement, provisioning."""
