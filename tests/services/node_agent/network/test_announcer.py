"""Rounds of announcements: all of them, beside the port, and without failing it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from services.node_agent.network.announcements import announcements
from services.node_agent.network.announcer import Announcer
from services.node_agent.network.frames import address_bytes, parse_arp
from services.node_agent.network.icmpv6 import parse_neighbour
from shared.messages.network import NetworkMode
from shared.messages.porting import Side
from tests.services.node_agent.network.plans import PORT, plan

OWN_MAC = bytes.fromhex("020000000007")
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


async def test_the_donors_host_takes_what_is_sent_to_a_guest_that_is_elsewhere() -> None:
    """Its own MAC for the guest's addresses; a bridge that is not there has no neighbours."""
    wire = Wire()
    announcer = Announcer(wire.send, delays_s=(0, 0), mac_of=lambda _: OWN_MAC)
    announcer.stand_in(PORT, PLAN)
    async with asyncio.timeout(5):
        await wire.done.wait()
    (device, frames), again = wire.sent
    assert (device, frames) == again
    assert device == "vmbr0"
    arps = [parse_arp(frame) for frame in frames[:2]]
    assert {(arp.sender_mac, arp.sender[-1]) for arp in arps} == {(OWN_MAC, 10)}
    told = parse_neighbour(frames[2])
    assert (told.link, told.target, told.override) == (OWN_MAC, address_bytes("fd00:81:1::10"), True)
    await announcer.close()

    def gone(_: str) -> bytes:
        raise OSError(19, "No such device")

    silent = Announcer(wire.send, delays_s=(0,), mac_of=gone)
    silent.stand_in(PORT, PLAN)
    await asyncio.sleep(0.02)
    await silent.close()
    assert len(wire.sent) == 2


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
