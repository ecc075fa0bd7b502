"""Rounds of announcements: all of them, beside the port, and without failing it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from services.node_agent.network.announcements import announcements
from services.node_agent.network.announcer import Announcer
from shared.messages.network import NetworkMode
from shared.messages.porting import Side
from tests.services.node_agent.network.plans import PORT, plan

PLAN = plan(NetworkMode.JOINED)


class Wire:
    """What was sent; the first so many times it is not there."""

    def __init__(self, *, missing: int = 0) -> None:
        self.sent: list[tuple[str, tuple[bytes, ...]]] = []
        self.missing = missing
        self.done = asyncio.Event()

    def send(self, device: str, frames: Iterable[bytes]) -> None:
        if self.missing:
            self.missing -= 1
            raise OSError(19, "No such device")
        self.sent.append((device, tuple(frames)))
        if len(self.sent) == 2:
            self.done.set()


async def test_every_round_says_the_same() -> None:
    """A device that comes late is sent at later."""
    wire = Wire(missing=1)
    announcer = Announcer(wire.send, delays_s=(0, 0, 0))
    announcer.announce(PORT, PLAN, Side.INBOUND)
    async with asyncio.timeout(5):
        await wire.done.wait()
    await announcer.close()
    (expected,) = announcements(PLAN, Side.INBOUND)
    assert wire.sent == [(expected.device, expected.frames)] * 2


async def test_no_device_and_no_end_is_no_failure() -> None:
    """What cannot be sent is logged; what is not sent yet ends with the agent."""
    wire = Wire(missing=9)
    announcer = Announcer(wire.send, delays_s=(0, 0))
    announcer.announce(PORT, PLAN, Side.INBOUND)
    await asyncio.sleep(0.05)
    assert wire.missing == 7
    late = Announcer(wire.send, delays_s=(60,))
    late.announce(PORT, PLAN, Side.INBOUND)
    for each in (announcer, late):
        await each.close()
    assert wire.sent == []
