"""NBD's stream as blocks: parsed, deduplicated, packed, and put together again. Pure."""
