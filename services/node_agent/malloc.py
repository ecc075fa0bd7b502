"""Returns memory that a transfer has used to the host. glibc's allocator only; no effect with another one.

A node agent runs for months. glibc gives every thread an arena of its own and never shrinks it: after ten ports the
agent held 100 MB that it did not use. So there is one arena (the interpreter's lock allows only one thread to allocate
at a time in any case), and after a transfer its free pages are returned. Source: mallopt(3), malloc_trim(3).
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8  # malloc.h


def use_one_arena() -> None:
    """Call it before other threads are started."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Return free whole pages to the host; takes some milliseconds and releases the interpreter's lock."""
    if (malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        malloc_trim(ctypes.c_size_t(0))
