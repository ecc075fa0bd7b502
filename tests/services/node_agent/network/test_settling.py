"""What a record wants is had, and what could not be is known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.netlink import NetlinkError
from services.node_agent.network.plan import Going
from services.node_agent.network.settling import Settling, in_thread
from services.node_agent.network.steps import Bridge
from services.node_agent.network.voices import NoVoices
from shared.messages.porting import Side
from tests.services.node_agent.network.plans import BRIDGE, PORT, agreement, plan
from tests.services.node_agent.network.test_keeper import Kernel

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = (PORT, Side.INBOUND)


async def at_once(work: Callable[[], object]) -> object:
    return work()


class World:
    """A record, stored, over a kernel."""

    def __init__(self, folder: Path) -> None:
        self.journal, self.kernel = NetworkJournal(folder), Kernel()
        self.settling = Settling(self.journal, self.kernel, NoVoices(), write=at_once, retry_looks=5)
        self.record = NetworkRecord(side=Side.INBOUND, agreement=agreement(plan(announce=True)))
        self.journal.store(self.record)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "network")


async def test_a_writer_that_is_cancelled_has_written() -> None:
    """Else older steps could be written over newer ones."""
    begun, go, done = threading.Event(), threading.Event(), list[int]()

    def write() -> None:
        begun.set()
        go.wait(5)
        done.append(1)

    writing = asyncio.ensure_future(in_thread(write))
    await asyncio.to_thread(begun.wait, 5)
    writing.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert done == [1]


async def test_what_is_unfinished_is_due_soon_and_then_now_and_then(world: World) -> None:
    world.settling.again(KEY)
    assert [look for look in range(1, 12) if world.settling.due()] == [1, 2, 4, 5, 8, 10]
    world.settling.done(KEY)
    assert world.settling.due() == ()


async def test_a_bridge_with_another_mac_is_the_same_device(world: World) -> None:
    """A gateway's MAC goes; the guest's frames pass the bridge still."""
    there = world.record.model_copy(update={"there": True})
    await world.settling.settle(there)
    gone = there.model_copy(update={"steps": there.wanted, "going": Going.GONE})
    assert {step.mac for step in there.wanted if isinstance(step, Bridge)} != {None}
    await world.settling.settle(gone)
    assert [step for step in world.kernel.made if isinstance(step, Bridge)]


async def test_news_are_kept_until_they_are_stored_and_carried_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: NetworkRecord) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(world.journal, "store", full)
        with pytest.raises(OSError, match="No space"):
            await world.settling.bring_about(world.record, {"there": True})
        assert world.settling.told(KEY) == {"there": True}
        assert world.kernel.made == []
    assert await world.settling.bring_about(world.record, world.settling.told(KEY))
    stored = world.journal.get(*KEY)
    assert stored is not None
    assert stored.there
    assert {str(step) for step in world.kernel.made} == {str(step) for step in stored.wanted}


def test_a_move_that_is_not_stored_is_a_move(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: NetworkRecord) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(world.journal, "store", full)
        assert not world.settling.note_moved(world.record.agreement, Side.INBOUND, NOW)
    assert world.settling.has_moved(world.record)
    assert world.settling.note_moved(world.record.agreement, Side.INBOUND, NOW)
    assert not world.settling.is_moving(KEY)
    (stored,) = world.journal.readable()
    assert stored.there


async def test_what_cannot_be_made_or_removed_is_named(world: World) -> None:
    world.settling.trouble(world.record, "not made", NetlinkError("no device"))
    assert world.settling.problems() == (f"port {PORT}: network not made: no device",)
    await world.settling.settle(world.record)
    world.kernel.broken = {f"bridge {BRIDGE}"}
    assert await world.settling.clear(world.record.model_copy(update={"steps": world.record.wanted})) == (
        f"bridge {BRIDGE}",
    )
    assert "not removed" in world.settling.problems()[0]
    left = world.journal.get(*KEY)
    assert left is not None
    assert left.undone
    world.kernel.broken.clear()
    assert await world.settling.clear(left) == ()
    assert world.journal.readable() == ()
