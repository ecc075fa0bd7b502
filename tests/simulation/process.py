"""A simulated process: its tasks, its sockets, its databases, its clock. It dies at once, at any port call.

Which process a piece of code belongs to is a context variable, which tasks inherit. Every port (files, database, bus,
hypervisor, lanes) calls `touch` first: a dead process cannot do anything any more, so that its `finally` blocks have no
effect, and what it had not stored is lost.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
from collections.abc import Callable, Coroutine
from typing import Any

CURRENT: contextvars.ContextVar[Process | None] = contextvars.ContextVar("simulated process", default=None)
"""The process whose code runs now; None is the world itself."""


class ProcessDead(BaseException):
    """A dead process tried to do something. No handler of the product catches it."""


class Process:
    """One process. `observe` hears of every step that it takes: `(process, kind, detail)`."""

    def __init__(self, name: str, *, observe: Callable[[Process, str, str], None], skew_s: float = 0.0) -> None:
        self.name = name
        self.skew_s = skew_s
        self.alive = True
        self.disk_full = False
        self._observe = observe
        self._tasks: list[asyncio.Task[Any]] = []
        self._at_death: list[Callable[[], None]] = []

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something as this process."""
        context = contextvars.copy_context()
        context.run(CURRENT.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def owns(self, task: asyncio.Task[Any]) -> None:
        """A task was made in this process."""
        self._tasks.append(task)
        if len(self._tasks) > 400:
            self._tasks = [each for each in self._tasks if not each.done()]

    def at_death(self, effect: Callable[[], None]) -> None:
        """What the kernel, or the other end, does when this process is gone: close sockets, drop locks."""
        self._at_death.append(effect)

    def touch(self, kind: str, detail: str = "") -> None:
        """This process is about to do something. Raises `ProcessDead`."""
        if not self.alive:
            raise ProcessDead(self.name)
        if CURRENT.get() is self:
            self._observe(self, kind, detail)
            if not self.alive:
                raise ProcessDead(self.name)

    def write(self, detail: str) -> None:
        """As `touch`, for what needs space. Raises OSError while the disk is full."""
        self.touch("write", detail)
        if self.disk_full:
            raise OSError(errno.ENOSPC, "No space left on device")

    def crash(self) -> None:
        """Die, as by SIGKILL."""
        if not self.alive:
            return
        self.alive = False
        for effect in self._at_death:
            effect()
        me = asyncio.current_task()
        for task in self._tasks:
            if task is not me and not task.done():
                task.cancel()


def current() -> Process | None:
    """The process whose code runs now."""
    return CURRENT.get()
