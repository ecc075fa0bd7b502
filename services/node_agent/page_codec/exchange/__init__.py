"""What both ends say about contents before a transfer (`known`) and before its window (`seed`). Pure."""
