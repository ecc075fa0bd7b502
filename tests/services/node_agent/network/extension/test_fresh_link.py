"""A session sees only frames that are meant for it."""

from __future__ import annotations

import asyncio

import pytest

from services.node_agent.lanes.routes.link import LinkDown
from services.node_agent.lanes.testing import MemoryRoute
from services.node_agent.network.extension.fresh_link import FreshLink
from shared.page_stream.bodies import Hello, LaneRole, encode_hello, encode_reason
from shared.page_stream.frame import Frame, FrameType, encode_frame

ME, PEER, FORMER = 7, 8, 9


def frame(kind: FrameType, epoch: int, payload: bytes = b"") -> bytes:
    """One of the other end."""
    return encode_frame(Frame(kind, epoch, sequence=0, received=0, consumed=0, payload=payload))


def hello(epoch: int, *, to: int = 0) -> bytes:
    """A greeting of the other end for this end's epoch `to`."""
    body = Hello(peer_epoch=to, window_bytes=4096, max_payload_bytes=1024, role=LaneRole.INITIATOR, lane="x")
    return frame(FrameType.HELLO, epoch, encode_hello(body))


def abort(epoch: int) -> bytes:
    """The other end gives up."""
    return frame(FrameType.ABORT, epoch, encode_reason("enough"))


async def a_link(*before: bytes) -> tuple[MemoryRoute, FreshLink]:
    """A link for a new session, with what waits in the relay."""
    route = MemoryRoute()
    await route.a.wait_up()
    for each in before:
        await route.a.send(each)
    link = FreshLink(route.b, epoch=ME)
    await link.wait_up()
    return route, link


async def test_what_waits_from_former_sessions_is_dropped() -> None:
    """All but the latest greeting that may be for this session."""
    old = (hello(FORMER), frame(FrameType.DATA, FORMER, b"x"), hello(PEER), hello(PEER, to=FORMER), abort(PEER))
    route, link = await a_link(*old)
    await link.settle()
    await route.a.send(frame(FrameType.ACK, PEER))
    assert await link.receive() == hello(PEER)
    assert await link.receive() == frame(FrameType.ACK, PEER)


async def test_greetings_for_a_former_session_are_dropped() -> None:
    """Those for this one, or for nobody yet, come; those for another epoch do not."""
    route, link = await a_link()
    for each in (hello(PEER, to=FORMER), hello(PEER), hello(PEER, to=ME)):
        await route.a.send(each)
    assert [await link.receive(), await link.receive()] == [hello(PEER), hello(PEER, to=ME)]


async def test_only_the_present_peer_can_give_up() -> None:
    """The end of a former session is not this one's."""
    route, link = await a_link()
    for each in (abort(FORMER), hello(PEER), abort(FORMER), abort(PEER)):
        await route.a.send(each)
    assert [await link.receive(), await link.receive()] == [hello(PEER), abort(PEER)]


async def test_the_session_judges_what_is_no_frame() -> None:
    """It is not swallowed here."""
    route, link = await a_link()
    for each in (b"", b"short", hello(PEER)[:40]):
        await route.a.send(each)
        assert await link.receive() == each


async def test_settling_ends_also_when_the_other_end_never_stops() -> None:
    """It is bounded; and a route that goes away meanwhile is told."""
    route, link = await a_link()

    async def chatter() -> None:
        while True:
            await route.a.send(frame(FrameType.ACK, FORMER))
            await asyncio.sleep(0.01)

    talking = asyncio.ensure_future(chatter())
    async with asyncio.timeout(5):
        await link.settle()
    talking.cancel()
    await asyncio.gather(talking, return_exceptions=True)
    asyncio.get_running_loop().call_later(0.01, route.cut)
    with pytest.raises(LinkDown):
        await link.settle()


async def test_the_link_outlives_the_session() -> None:
    """A session closes what it was given; the link itself stays."""
    route, link = await a_link()
    await link.close()
    assert not route.b.closed
    await link.send(b"still")
    assert await route.a.receive() == b"still"
