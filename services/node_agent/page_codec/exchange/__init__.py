"""What both sides say about contents before and ahead of a transfer. Pure."""
