"""Memory that a port has used goes back to the host. Knows glibc's allocator; where there is another, does nothing.

A node agent lives for months and its ports come one by one. glibc gives every thread an arena of its own, which is
never given back once it has grown: after ten ports the agent held 100 MB that nobody used. So there is one arena (the
interpreter's lock lets no two threads allocate at once in any case), and after a port what is free in it is given back.
Source: mallopt(3), malloc_trim(3).
"""

from __future__ import annotations

import ctypes
from typing import Final

_M_ARENA_MAX: Final = -8  # malloc.h


def use_one_arena() -> None:
    """Call it before there is another thread."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Return whole pages that are free; takes some milliseconds, without the interpreter's lock."""
    if (malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        malloc_trim(ctypes.c_size_t(0))
