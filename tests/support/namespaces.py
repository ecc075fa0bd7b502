"""Network namespaces of a test's own, and things that are made inside them. Needs root."""

from __future__ import annotations

import ctypes
import os
import secrets
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000


def ip(*arguments: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


@contextmanager
def namespaces(*roles: str) -> Iterator[tuple[str, ...]]:
    """Namespaces of these roles, with loopback up; removed at the end, with all that is in them."""
    mine = f"vmport-test-{os.getpid()}-{secrets.token_hex(2)}"
    names = tuple(f"{mine}-{role}" for role in roles)
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=10)


def inside(namespace: str, make: Callable[[], T]) -> T:
    """What `make` returns, called by a thread that has entered the namespace. Files and sockets of it stay there."""
    made: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with Path(f"/run/netns/{namespace}").open("rb") as entry:
                if ctypes.CDLL(None, use_errno=True).setns(entry.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "cannot enter the namespace")
            made.append(make())
        except BaseException as error:  # noqa: BLE001  # raised again by who asked
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return made[0]
