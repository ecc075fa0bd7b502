"""What a port changes in this host's network, so that the VM keeps its addresses: planned, journalled, made, undone."""
