"""Urgent work goes first, and ordinary work is not stopped by it for long."""

from __future__ import annotations

import asyncio

from shared.store.turns import Turns
from shared.testing import breathe


class Desk:
    """Work on one database; remembers who began, in order."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.began: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, *, urgent: bool = False) -> None:
        """Begin to write when it is this work's turn; it ends at `end`."""
        self.ends[name] = asyncio.Event()
        work = self._urgently(name) if urgent else self._write(name)
        self.tasks[name] = asyncio.ensure_future(work)
        await breathe()

    async def end(self, *names: str) -> None:
        """The work is over."""
        for name in names:
            self.ends[name].set()
        await breathe()

    async def _urgently(self, name: str) -> None:
        with self.turns.urgent():
            await self._write(name)

    async def _write(self, name: str) -> None:
        async with self.turns.writing():
            self.began.append(name)
            await self.ends[name].wait()


async def test_one_writer_in_the_order_of_asking() -> None:
    """Without urgent work the lock is fair."""
    desk = Desk(Turns(one_writer=True))
    for name in "abc":
        await desk.ask(name)
    assert desk.began == ["a"]
    await desk.end("a", "b", "c")
    assert desk.began == ["a", "b", "c"]


async def test_urgent_work_overtakes() -> None:
    """It gets the lock next, before all that asked earlier."""
    desk = Desk(Turns(one_writer=True, patience_s=60))
    for name in "abc":
        await desk.ask(name)
    await desk.ask("urgent", urgent=True)
    await desk.end("a")
    assert desk.began == ["a", "urgent"]
    await desk.end("urgent", "b", "c")
    assert desk.began == ["a", "urgent", "b", "c"]


async def test_nothing_ordinary_begins_meanwhile() -> None:
    """Also before the urgent work asks for the lock, and where there is no lock."""
    for one_writer in (True, False):
        turns = Turns(one_writer=one_writer, patience_s=60)
        desk = Desk(turns)
        with turns.urgent():
            # A task that is started here would be urgent, too.
            asyncio.get_running_loop().call_soon(lambda: None)
            waiting = asyncio.Event()
        assert not turns.is_urgent
        hold = asyncio.ensure_future(_hold(turns, waiting))
        await breathe()
        await desk.ask("ordinary")
        assert desk.began == []
        waiting.set()
        await hold
        await breathe()
        assert desk.began == ["ordinary"]
        await desk.end("ordinary")


async def _hold(turns: Turns, until: asyncio.Event) -> None:
    with turns.urgent():
        await until.wait()


async def test_patience_ends() -> None:
    """A flood of urgent work slows ordinary work down, and does not stop it."""
    turns = Turns(one_writer=True, patience_s=0.01)
    until = asyncio.Event()
    hold = asyncio.ensure_future(_hold(turns, until))
    await breathe()
    async with asyncio.timeout(10), turns.writing():
        assert not turns.is_urgent
    async with asyncio.timeout(10):
        await turns.give_way()
    until.set()
    await hold


async def test_cancelled_waiter_passes_the_lock_on() -> None:
    """Whether it is cancelled while it waits, or in the moment in which the lock is handed to it."""
    desk = Desk(Turns(one_writer=True))
    for name in "abcd":
        await desk.ask(name)
    desk.tasks["b"].cancel()
    await breathe()
    desk.ends["a"].set()
    await asyncio.sleep(0)
    desk.tasks["c"].cancel()
    await breathe()
    assert desk.began[-1] == "d"
    await desk.end("d")
    await desk.ask("e")
    assert desk.began[-1] == "e"
    await desk.end("e")
