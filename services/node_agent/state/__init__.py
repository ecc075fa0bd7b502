"""What the node agent remembers across its own death: the journal of transfers and the outbox of messages."""
