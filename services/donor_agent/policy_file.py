"""Keeps the policy file and its last good reading in step. A broken file leaves the last good policy in force."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from services.donor_agent.policy import Policy, PolicyError, parse_policy
from shared.logs import get_logger

log = get_logger(__name__)

_Stamp = tuple[int, int, int]


class PolicyFile:
    """The policy in force. Made by `open`, so that a service never starts without a policy."""

    def __init__(self, path: Path, policy: Policy, stamp: _Stamp) -> None:
        self.path = path
        self.policy = policy
        self.problem: str | None = None
        """Why the file as it stands now is not in force; None when it is. For ``/readyz``."""
        self._stamp: _Stamp | None = stamp

    @classmethod
    def open(cls, path: Path) -> PolicyFile:
        """Read the file for the first time; raises `PolicyError`."""
        stamp, policy = _read(path)
        return cls(path, policy, stamp)

    def refresh(self) -> bool:
        """Look at the file; True if another policy came into force. Never raises."""
        try:
            if _stamp(self.path) == self._stamp:
                return False
            stamp, policy = _read(self.path)
        except PolicyError as error:
            self._broken(str(error))
            return False
        changed = policy != self.policy
        self.problem, self._stamp, self.policy = None, stamp, policy
        if changed:
            log.info("policy in force", file=str(self.path), accounts=len(policy.accounts))
        return changed

    def _broken(self, problem: str) -> None:
        if problem != self.problem:
            log.error("policy file invalid; last valid one stays in force", file=str(self.path), error=problem)
        # No stamp: look again each time, since a file half written now may have the same stamp when it is whole.
        self.problem, self._stamp = problem, None

    async def watch(self, every_s: float, on_change: Callable[[], None]) -> None:
        """Look at the file at intervals until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            if await asyncio.to_thread(self.refresh):
                on_change()

    async def readiness(self) -> str | None:
        """A check for ``/readyz``."""
        return self.problem


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror}") from error
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> tuple[_Stamp, Policy]:
    stamp = _stamp(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: cannot be read: {error}") from error
    try:
        return stamp, parse_policy(text)
    except PolicyError as error:
        raise PolicyError(f"{path}: {error}") from error
