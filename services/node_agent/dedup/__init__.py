"""What need not cross the network because the recipient has it: base images, quarantine, earlier ports, seeds."""
