"""The publisher's turns: RabbitMQ's returns name only a message id, so one publish of an id at a time."""

from __future__ import annotations

import asyncio

from shared.rabbit.bus import _Turn
from shared.testing import breathe


async def test_one_publish_of_an_id_at_a_time() -> None:
    """The same id waits for its predecessor; another passes."""
    under_way: dict[str, asyncio.Event] = {}
    begun: list[str] = []
    end = asyncio.Event()

    async def publish(key: str) -> None:
        async with _Turn(under_way, key):
            begun.append(key)
            await end.wait()

    tasks = [asyncio.ensure_future(publish(key)) for key in ("a", "a", "b")]
    await breathe()
    assert begun == ["a", "b"]
    end.set()
    await asyncio.gather(*tasks)
    assert (begun, under_way) == (["a", "b", "a"], {})


async def test_turn_ends_with_a_failure() -> None:
    """A publish that is cancelled holds up nobody."""
    under_way: dict[str, asyncio.Event] = {}

    async def stuck() -> None:
        async with _Turn(under_way, "a"):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(stuck())
    await breathe()
    task.cancel()
    await asyncio.wait({task})
    assert under_way == {}
