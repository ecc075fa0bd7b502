"""QEMU's memory stream as pages: parsed, deduplicated, packed, and put together again. Pure."""
