"""The network of VMs that move: what keeps their addresses working during a port and after it."""
