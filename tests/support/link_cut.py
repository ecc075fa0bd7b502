"""Cuts a lab host's link far away: nothing that it sends arrives, nothing comes, and no error tells it so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from deploy.labkit.plan import HUB, WAN_BRIDGE
from deploy.labkit.processes import run

if TYPE_CHECKING:
    from deploy.labkit.lab import Lab

WRITER = {"region_mib": 32, "hot_mib": 1, "pages_s": 50}
"""A guest that keeps writing, and that 30 Mbit/s can move."""


def cut(lab: Lab, host: str) -> None:
    """The hub drops everything of this host: its way to RabbitMQ and to the other provider."""
    run(["ip", "-n", lab.plan.namespace(HUB), "link", "set", lab.plan.hub_port(host), "nomaster"])


def mend(lab: Lab, host: str) -> None:
    """The link is back."""
    run(["ip", "-n", lab.plan.namespace(HUB), "link", "set", lab.plan.hub_port(host), "master", WAN_BRIDGE])


class CutOnce:
    """Cuts a host's link for so many seconds as soon as something holds, which is looked at all the time from entry to
    exit. `cut_s` is how long it was away, 0 until it is back.
    """

    def __init__(self, lab: Lab, host: str, seconds: float, holds: Callable[[], bool]) -> None:
        self._lab = lab
        self._host = host
        self._seconds = seconds
        self._holds = holds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.cut_s = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._holds():
            if self._over.wait(0.02):
                return
        began_s = time.monotonic()
        cut(self._lab, self._host)
        try:
            time.sleep(self._seconds)
        finally:
            mend(self._lab, self._host)
        self.cut_s = time.monotonic() - began_s


class CutInMemoryPhase:
    """For `run_port`'s events: cuts a host's link once, for so many seconds, when memory flows. `cut_s` is how long it
    was away, 0 until it is back; `grown` is by how much `count` grew meanwhile.
    """

    def __init__(
        self,
        lab: Lab,
        host: str,
        seconds: float,
        *,
        count: Callable[[], int] = lambda: 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lab = lab
        self._host = host
        self._seconds = seconds
        self._count = count
        self._now = now
        self._thread: threading.Thread | None = None
        self.cut_s = 0.0
        self.grown = 0

    def __call__(self, event: dict[str, Any]) -> None:
        """One event of the port."""
        data = event.get("data") or {}
        if self._thread is None and event["type"] == "PortProgressed" and data.get("phase") == "memory":
            self._thread = threading.Thread(target=self._cut, daemon=True)
            self._thread.start()

    def finish(self) -> float:
        """Wait until the link is back; how long it was away, 0 if it never was."""
        if self._thread is not None:
            self._thread.join()
        return self.cut_s

    def _cut(self) -> None:
        began_s = self._now()
        cut(self._lab, self._host)
        try:
            before = self._count()
            time.sleep(max(0.0, self._seconds - (self._now() - began_s)))
            self.grown = self._count() - before
        finally:
            mend(self._lab, self._host)
        self.cut_s = self._now() - began_s
