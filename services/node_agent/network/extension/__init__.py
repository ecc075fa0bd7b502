"""A layer-2 extension for one VM: frames from a TAP device to a lane and back, for the VM's own addresses only."""
