"""One card's frames between its device and a lane, without a lane."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.node_agent.network.extension.card_carrier import QUEUE_BYTES, QUEUE_S, CardCarrier
from services.node_agent.network.extension.offload import OFFLOAD_BYTES, PLAIN
from services.node_agent.network.extension.testing import MemoryTap
from services.node_agent.network.extension.verdict import Reason, Towards
from services.node_agent.network.extension.wire import MAX_PAYLOAD_BYTES, decode, encode
from services.node_agent.network.frames import parse_arp, reverse_arp
from services.node_agent.network.tap import TapError
from tests.support.card_frames import (
    CARD,
    FAR_4,
    GUEST,
    GUEST_4,
    OTHER,
    OTHER_4,
    ROUTER,
    ROUTER_4,
    ipv4,
    who_has,
)

IN = ipv4(GUEST, ROUTER, FAR_4, GUEST_4, b"in")
OUT = ipv4(ROUTER, GUEST, GUEST_4, FAR_4, b"out")
LARGE = ipv4(GUEST, ROUTER, FAR_4, GUEST_4, bytes(60_000))
SEGMENTS = struct.pack("<BBHHHH", 1, 1, 54, 1448, 34, 16)


@contextmanager
def a_carrier(towards: Towards, *, activated: bool = False) -> Iterator[tuple[CardCarrier, MemoryTap, list[str]]]:
    """With its device, and what it told."""
    tap, told = MemoryTap(), list[str]()
    try:
        yield (
            CardCarrier(tap, CARD, towards, activated=activated, on_activated=lambda: told.append("activated")),
            tap,
            told,
        )
    finally:
        tap.close()
        tap.remove()


def frames_of(payload: bytes) -> list[bytes]:
    """Without their headers."""
    return [bytes(record[OFFLOAD_BYTES:]) for record in decode(payload)]


async def test_the_donors_end_takes_what_is_for_the_card() -> None:
    """With its offload header, several frames in one payload; the others are counted."""
    with a_carrier(Towards.RECIPIENT) as (carrier, tap, told):
        tap.host_send(IN)
        tap.host_send(ipv4(OTHER, ROUTER, FAR_4, OTHER_4))
        tap.host_send(LARGE, header=SEGMENTS)
        tap.host_send(b"short")
        carrier.read_device()
        payload = await carrier.next_payload()
        assert [bytes(record) for record in decode(payload)] == [PLAIN + IN, SEGMENTS + LARGE]
        stats = carrier.stats()
        assert (stats.out_frames, stats.out_bytes, stats.activated, told) == (2, len(payload), False, [])
        assert stats.dropped == {Reason.OTHER_MAC: 1, Reason.MALFORMED: 1}
        carrier.unsent(payload)
        assert carrier.stats().dropped[Reason.LANE] == 2


async def test_what_waits_for_the_lane_becomes_one_payload() -> None:
    """Several wake-ups together, up to a payload; beyond the queue the oldest frames go and are counted."""
    with a_carrier(Towards.RECIPIENT) as (carrier, tap, _):
        for _ in range(3):
            tap.host_send(IN)
            carrier.read_device()
        assert frames_of(await carrier.next_payload()) == [IN] * 3
        for _ in range(20):
            tap.host_send(LARGE, header=SEGMENTS)
            carrier.read_device()
        kept = QUEUE_BYTES // (4 + OFFLOAD_BYTES + len(LARGE))
        assert carrier.stats().dropped == {Reason.QUEUE: 20 - kept}
        payloads = [await carrier.next_payload() for _ in range(kept // 2)]
        assert all(len(payload) <= MAX_PAYLOAD_BYTES for payload in payloads)


async def test_the_writer_waits_for_the_device() -> None:
    """A payload comes as soon as a frame is read."""
    with a_carrier(Towards.RECIPIENT) as (carrier, tap, _):
        waiting = asyncio.ensure_future(carrier.next_payload())
        await asyncio.sleep(0)
        tap.host_send(IN)
        carrier.read_device()
        assert frames_of(await waiting) == [IN]


async def test_the_gate() -> None:
    """Shut until the guest speaks; then a RARP goes ahead of what it said, and what waited goes into the device."""
    with a_carrier(Towards.DONOR) as (carrier, tap, told):
        carrier.deliver(encode([PLAIN + IN, SEGMENTS + LARGE]))
        tap.host_send(IN)  # not the guest's
        carrier.read_device()
        assert (tap.host_receive(), told, carrier.activated) == ([], [], False)
        tap.host_send(OUT)
        carrier.read_device()
        assert tap.host_receive() == [IN, LARGE]
        assert frames_of(await carrier.next_payload()) == [reverse_arp(GUEST), OUT]
        assert (told, carrier.activated) == (["activated"], True)
        carrier.deliver(encode([PLAIN + IN]))
        assert tap.host_receive() == [IN]
        assert carrier.stats().into_frames == 3


async def test_the_donors_gate() -> None:
    """Shut until the guest stands still; frames of its MAC that are read here do not open it, nor does it wait."""
    with a_carrier(Towards.RECIPIENT) as (carrier, tap, told):
        tap.host_send(OUT)
        carrier.read_device()
        carrier.deliver(encode([PLAIN + OUT]))
        assert (tap.host_receive(), told) == ([], [])
        assert carrier.stats().dropped == {Reason.OWN: 1, Reason.EARLY: 1}
        for _ in range(2):
            carrier.activate()
        # What was told too early is made good: the bridge learns where the guest is.
        assert (told, tap.host_receive()) == (["activated"], [reverse_arp(GUEST)])
        carrier.deliver(encode([PLAIN + OUT]))
        assert tap.host_receive() == [OUT]
        assert carrier.stats().out_frames == 0
        for _ in range(2):
            carrier.deactivate()
        carrier.deliver(encode([PLAIN + OUT]))
        assert (tap.host_receive(), carrier.activated) == ([], False)
        carrier.deactivate()
        carrier.activate()
        assert tap.host_receive() == []


async def test_it_is_open_where_the_guest_is_known_to_run() -> None:
    """After a restart of this agent nothing waits."""
    with a_carrier(Towards.DONOR, activated=True) as (carrier, tap, told):
        carrier.deliver(encode([PLAIN + IN]))
        tap.host_send(OUT)
        carrier.read_device()
        assert (tap.host_receive(), told) == ([IN], [])
        assert frames_of(await carrier.next_payload()) == [OUT]


async def test_the_donor_learns_again_where_the_card_is() -> None:
    """When the lane begins again the RARP is sent again, but not by the donor, nor before the guest has spoken."""
    for towards, activated, expected in (
        (Towards.DONOR, True, [reverse_arp(GUEST)]),
        (Towards.DONOR, False, []),
        (Towards.RECIPIENT, True, []),
    ):
        with a_carrier(towards, activated=activated) as (carrier, _, __):
            carrier.began()
            assert carrier.stats().out_frames == len(expected)
            if expected:
                assert frames_of(await carrier.next_payload()) == expected


async def test_what_has_waited_long_is_not_sent() -> None:
    """A slow lane gets what is new; the rest is counted."""
    with a_carrier(Towards.RECIPIENT) as (carrier, tap, _):
        tap.host_send(IN)
        carrier.read_device()
        await asyncio.sleep(QUEUE_S + 0.05)
        tap.host_send(LARGE, header=SEGMENTS)
        carrier.read_device()
        assert frames_of(await carrier.next_payload()) == [LARGE]
        assert carrier.stats().dropped == {Reason.QUEUE: 1}


async def test_the_other_end_is_not_believed() -> None:
    """Frames of others, headers that do not fit, questions it should have answered, no batch at all: counted."""
    with a_carrier(Towards.DONOR, activated=True) as (carrier, tap, _):
        carrier.deliver(
            encode([PLAIN + ipv4(OTHER, ROUTER, FAR_4, OTHER_4), SEGMENTS + IN, PLAIN + LARGE, PLAIN + OUT])
        )
        carrier.deliver(b"no batch")
        assert tap.host_receive() == []
        assert carrier.stats().dropped == {
            Reason.OTHER_MAC: 1,
            Reason.OFFLOAD: 2,
            Reason.OWN: 1,
            Reason.MALFORMED: 1,
        }
    with a_carrier(Towards.RECIPIENT, activated=True) as (carrier, tap, _):
        carrier.deliver(encode([PLAIN + who_has(GUEST, GUEST_4, ROUTER_4), PLAIN + OUT]))
        assert (tap.host_receive(), carrier.stats().dropped) == ([OUT], {Reason.ANSWERED: 1})


async def test_the_guests_question_for_its_gateway_is_answered_here() -> None:
    """The answer goes back into the device, and nothing to the donor but where the card is."""
    with a_carrier(Towards.DONOR) as (carrier, tap, _):
        tap.host_send(who_has(GUEST, GUEST_4, ROUTER_4))
        carrier.read_device()
        (answer,) = tap.host_receive()
        assert parse_arp(answer).sender_mac == ROUTER
        assert frames_of(await carrier.next_payload()) == [reverse_arp(GUEST)]
        assert carrier.stats().answered_frames == 1


async def test_only_packets_between_hosts_are_traffic() -> None:
    """ARP, announcements and the like keep no extension alive; a packet does, in either direction."""
    with a_carrier(Towards.DONOR, activated=True) as (carrier, tap, _):
        carrier.deliver(encode([PLAIN + who_has(ROUTER, ROUTER_4, GUEST_4)]))
        tap.host_send(reverse_arp(GUEST))
        carrier.read_device()
        assert (carrier.stats().into_frames, carrier.stats().out_frames) == (1, 1)
        assert carrier.stats().last_traffic_s is None
        carrier.deliver(encode([PLAIN + IN]))
        first_s = carrier.stats().last_traffic_s
        assert first_s is not None
        await asyncio.sleep(0.01)
        tap.host_send(OUT)
        carrier.read_device()
        latest_s = carrier.stats().last_traffic_s
        assert latest_s is not None
        assert latest_s > first_s


async def test_a_device_that_is_gone() -> None:
    """The error comes to who called."""
    with a_carrier(Towards.DONOR) as (carrier, tap, _):
        tap.remove()
        with pytest.raises(TapError):
            carrier.read_device()
