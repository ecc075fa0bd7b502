"""One state directory, one process: a lock that is the kernel's, so it ends with its process, however that dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from shared.errors import VmportError

LOCK_NAME = "lock"


class StateInUse(VmportError):
    """Another process works on this state directory."""

    code = "state_in_use"

    def __init__(self, directory: Path, pid: str) -> None:
        self.directory = directory
        self.pid = pid
        super().__init__(f"{directory} is in use by process {pid or 'unknown'}; a state directory serves one process")


class StateLock:
    """The lock of one state directory. Two agents on one journal would end each other's transfers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Lock the directory until `release` or this process's death. Raises `StateInUse`, OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Python's descriptors are not inherited, so that no program that is started here holds the lock on.
        descriptor = os.open(self._directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(descriptor, 20).decode(errors="replace").strip()
            os.close(descriptor)
            raise StateInUse(self._directory, pid) from None
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        try:
            # The pid is for the other process's message only.
            os.truncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Unlock; nothing happens where nothing is locked. The file stays: to remove it would be a race."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
