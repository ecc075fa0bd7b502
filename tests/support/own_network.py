"""A network namespace of a test's own, in this very thread: what the test changes is gone with it."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_CLONE_NEWNET = 0x40000000

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace, which needs root")


@contextmanager
def own_network() -> Iterator[None]:
    """Meanwhile this thread, and what it starts, is in an empty network with its loopback up."""
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "no network namespace")
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)
            yield
        finally:
            if libc.setns(outside, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "cannot leave the network namespace")
    finally:
        os.close(outside)
