"""asyncio on virtual time in one thread, and what else must not come from the machine: clocks, randomness, threads.

`install` changes the modules `time`, `os`, `random` and `sqlite3` of this process for good, so it is called by the
simulation's own program only, before the product is imported, and never by pytest.
"""

from __future__ import annotations

import asyncio
import datetime as real_datetime
import math
import os
import random
import selectors
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.simulation.process import CURRENT, ProcessDead

START = real_datetime.datetime(2030, 1, 1, tzinfo=real_datetime.UTC)
_REAL_MONOTONIC = time.monotonic
real_connect = sqlite3.connect
"""For the world itself, whose connections no fault touches."""
_SERIAL = [0]


class Stuck(Exception):
    """Nothing will ever happen again in this world."""


def _serial() -> int:
    _SERIAL[0] += 1
    return _SERIAL[0]


class SimTask(asyncio.Task):  # type: ignore[type-arg]  # the C class takes no argument here
    """A task whose hash does not depend on its address: sets of tasks are walked in one order."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.serial = _serial()
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self.serial


class SimFuture(asyncio.Future):  # type: ignore[type-arg]  # as above
    """A future likewise."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.serial = _serial()
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self.serial


_PER_SECOND = 1_000_000


class _Selector(selectors.EpollSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        ready.sort(key=lambda each: each[0].fd)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise Stuck("nothing will ever happen")
        self.loop.jump(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still while anything can happen, and then jumps to the next timer. Executors run inline."""

    def __init__(self) -> None:
        selector = _Selector()
        self.now_s = 1000.0
        super().__init__(selector)
        selector.loop = self
        self.set_task_factory(_make_task)
        self.set_exception_handler(lambda _loop, _context: None)

    def time(self) -> float:
        return self.now_s

    def jump(self, timeout_s: float) -> None:
        """To the next timer, exactly."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # asyncio's heap of timers
        next_s = timers[0].when() if timers else self.now_s + timeout_s
        self.now_s = max(next_s, math.nextafter(self.now_s, math.inf))

    def call_at(  # type: ignore[override]  # as asyncio's
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """At the next full microsecond. asyncio lets a timer go off up to a nanosecond early: real time passes while it
        is set again, and virtual time would stand still for ever.
        """
        full = math.ceil(when * _PER_SECOND) / _PER_SECOND
        return super().call_at(full if full >= when else full + 1 / _PER_SECOND, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return SimFuture(loop=self)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]  # noqa: ARG002  # inline
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:  # noqa: BLE001  # handed on, as an executor does
            future.set_exception(error)
        return future

    def _make_socket_transport(self, *args: Any, **kwargs: Any) -> Any:
        transport = super()._make_socket_transport(*args, **kwargs)  # type: ignore[misc]  # asyncio's own hook
        process = CURRENT.get()
        if process is not None:
            process.at_death(transport.abort)
        return transport

    async def create_unix_server(self, *args: Any, **kwargs: Any) -> Any:
        server = await super().create_unix_server(*args, **kwargs)
        process = CURRENT.get()
        if process is not None:
            process.at_death(server.close)
        return server


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
    task = SimTask(coro, loop=loop, **kwargs)
    process = kwargs["context"].get(CURRENT) if kwargs.get("context") is not None else CURRENT.get()
    if process is not None:
        process.owns(task)
    return task


_LOOP: list[VirtualLoop | None] = [None]


def _monotonic() -> float:
    loop = _LOOP[0]
    return loop.now_s if loop is not None else _REAL_MONOTONIC()


def _now() -> real_datetime.datetime:
    loop, process = _LOOP[0], CURRENT.get()
    elapsed_s = loop.now_s if loop is not None else 0.0
    return START + real_datetime.timedelta(seconds=elapsed_s + (process.skew_s if process is not None else 0.0))


class _AnyDatetime(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, real_datetime.datetime)


class SimDatetime(real_datetime.datetime, metaclass=_AnyDatetime):
    """`datetime` with the world's clock, and with the error of the process that reads it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return real_datetime.datetime(*args, **kwargs)  # noqa: DTZ001  # as the caller says

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return _now().astimezone(tz)


def run(main: Callable[[], Any], seed: int) -> Any:
    """Run a coroutine function to its end in a world of its own."""
    random.seed(seed)
    _SERIAL[0] = 0
    loop = VirtualLoop()
    _LOOP[0] = loop
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main())
    finally:
        try:
            _cancel_all(loop)
        finally:
            _LOOP[0] = None
            loop.close()
            asyncio.set_event_loop(None)


def _cancel_all(loop: VirtualLoop) -> None:
    for _ in range(20):
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        if not left:
            return
        for task in left:
            task.cancel()
        try:
            loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        except Stuck:
            return


# ---- what does not come from the machine any more


def install() -> None:
    """Take clocks, randomness, threads and files from the simulation. Call `patch_datetime` after all imports."""
    time.monotonic = _monotonic
    time.time = lambda: _now().timestamp()
    os.urandom = random.randbytes
    random._urandom = random.randbytes  # type: ignore[attr-defined]  # what `secrets` reads
    _install_sqlite()
    _install_files()


def patch_datetime() -> None:
    """Give every module of the product the world's `datetime`."""
    for name, module in list(sys.modules.items()):
        ours = name.split(".")[0] in {"services", "shared", "tests"} and name != __name__
        if ours and module.__dict__.get("datetime") is real_datetime.datetime:
            module.__dict__["datetime"] = SimDatetime


def _install_sqlite() -> None:
    connect: Any = sqlite3.connect
    driver: Any = sqlite3

    def connect_and_know(*args: Any, **kwargs: Any) -> Any:
        connection = connect(*args, **kwargs)
        process = CURRENT.get()
        if process is not None:
            process.at_death(connection.close)
        return connection

    driver.connect = driver.dbapi2.connect = connect_and_know


def _install_files() -> None:
    def guarded(name: str, function: Callable[..., Any], *, writes: bool) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            process = CURRENT.get()
            if process is None:
                return function(*args, **kwargs)
            if writes:
                process.write(f"{name} {_short(args[-1] if name == 'replace' else args[0])}")
            else:
                process.touch("file", f"{name} {_short(args[0])}")
            result = function(*args, **kwargs)
            if name == "replace":
                process.touch("written", _short(args[-1]))
            return result

        return call

    for name in ("replace", "rename", "mkdir"):
        setattr(os, name, guarded(name, getattr(os, name), writes=True))
    for name in ("unlink", "remove", "rmdir", "chmod"):
        setattr(os, name, guarded(name, getattr(os, name), writes=False))
    machine: Any = os
    machine.fsync = lambda _file: None
    real_open = os.open

    def open_(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        process = CURRENT.get()
        if process is not None and flags & os.O_CREAT:
            process.write(f"create {_short(path)}")
        return real_open(path, flags, *args, **kwargs)

    os.open = open_


def _short(path: object) -> str:
    """A file's name without what is drawn by the machine."""
    text = str(path)
    return text.rsplit("/", 1)[-1] if "/." not in text else ".temporary"


__all__ = ["ProcessDead", "Stuck", "VirtualLoop", "install", "patch_datetime", "run"]
