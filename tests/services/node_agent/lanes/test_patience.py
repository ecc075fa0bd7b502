"""A limit for an answer counts only the time in which the other end was there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from services.node_agent.lanes import patience
from services.node_agent.lanes.patience import answer_within


@dataclass
class Lane:
    """A lane that a test takes away."""

    is_away: bool = False


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks every few milliseconds."""
    monkeypatch.setattr(patience, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(patience, "GIVEN_BACK_S", 0.05)


async def waits(lane: Lane, seconds: float) -> None:
    """Wait for an answer that never comes."""
    async with answer_within(lane, seconds):
        await asyncio.Event().wait()


async def test_an_answer_that_does_not_come_is_given_up() -> None:
    """The other end is there, and too slow."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waits(Lane(), 0.05), 5)


async def test_an_outage_does_not_count() -> None:
    """Many times the limit pass while the link is away; after it the limit holds again."""
    lane = Lane(is_away=True)
    waiting = asyncio.ensure_future(waits(lane, 0.05))
    done, _ = await asyncio.wait({waiting}, timeout=0.5)
    assert not done
    lane.is_away = False
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiting, 5)


async def test_an_answer_in_time_ends_the_limit() -> None:
    """Nothing is left that could end a later wait."""
    async with answer_within(Lane(), 0.02):
        pass
    await asyncio.sleep(0.1)
