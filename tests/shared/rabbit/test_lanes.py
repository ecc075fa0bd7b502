"""One attachment of a lane to RabbitMQ: frames in order, bounded, until the first of its channels is lost."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aiormq.abc import AbstractChannel, DeliveredMessage

from shared.backoff import Backoff
from shared.parties import node
from shared.rabbit import lanes
from shared.rabbit.connection import RabbitConnection
from shared.rabbit.lanes import RabbitLaneLink, _Attachment
from shared.testing import breathe


class Channel:
    """As much of a channel as an attachment needs."""

    def __init__(self) -> None:
        self.closing: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.on_consumer_cancel_callbacks: set[Any] = set()
        self.closed = False
        self.dies = False
        """Whether its connection dies while it closes: then aiormq cancels who waits."""

    async def close(self) -> None:
        self.closed = True
        if self.dies:
            raise asyncio.CancelledError

    async def exchange_declare(self, *_: object, **__: object) -> None:
        """It is there."""

    async def basic_consume(self, *_: object, **__: object) -> None:
        """Nothing comes."""


class Body:
    """As much of a delivery."""

    def __init__(self, body: bytes) -> None:
        self.body = body


def attached() -> tuple[_Attachment, Channel, Channel]:
    outward, inward = Channel(), Channel()
    return _Attachment(cast("AbstractChannel", outward), cast("AbstractChannel", inward)), outward, inward


async def arrive(attachment: _Attachment, *bodies: bytes) -> None:
    for body in bodies:
        await attachment.arrived(cast("DeliveredMessage", Body(body)))


async def test_frames_are_received_in_order() -> None:
    """And waited for."""
    attachment, _, _ = attached()
    waiting = asyncio.ensure_future(attachment.receive())
    await breathe()
    await arrive(attachment, b"1", b"2")
    assert [await waiting, await attachment.receive()] == [b"1", b"2"]


async def test_more_than_fits_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A route may lose; memory has a bound. What is taken out makes room."""
    monkeypatch.setattr(lanes, "RECEIVE_BUFFER_BYTES", 4)
    attachment, _, _ = attached()
    await arrive(attachment, b"123", b"45", b"6")
    assert [await attachment.receive(), await attachment.receive()] == [b"123", b"6"]


@pytest.mark.parametrize(("which", "expected"), [(1, "the sending channel was lost: x"), (2, "the receiving channel")])
async def test_lost_channel_ends_it(which: int, expected: str) -> None:
    """Whichever; what had arrived before can still be received, then comes the reason."""
    parts = attached()
    attachment, channel = parts[0], cast("Channel", parts[which])
    await arrive(attachment, b"1")
    channel.closing.set_exception(ConnectionError("x"))
    await breathe()
    assert [await attachment.receive(), await attachment.receive()] == [b"1", None]
    assert attachment.why_lost.startswith(expected)


async def test_removed_queue_ends_it() -> None:
    """RabbitMQ cancels the consumer; the first reason stays."""
    attachment, outward, inward = attached()
    for told in inward.on_consumer_cancel_callbacks:
        told(None)
    attachment.lose("later")
    assert (attachment.lost, attachment.why_lost) == (True, "the lane's queue was removed")
    await attachment.close()
    assert (outward.closed, inward.closed) == (True, True)


class Connection:
    """Opens channels; while `dying` it is not known yet to be lost, and what waits on it is cancelled."""

    def __init__(self) -> None:
        self.dying = 0
        self.opened: list[Channel] = []

    async def open_channel(self, *, confirms: bool) -> Channel:
        assert not confirms
        if self.dying:
            self.dying -= 1
            raise asyncio.CancelledError
        self.opened.append(Channel())
        return self.opened[-1]


def link_over(sending: Connection, receiving: Connection) -> RabbitLaneLink[Exception]:
    return RabbitLaneLink(
        sending=cast("RabbitConnection", sending),
        receiving=cast("RabbitConnection", receiving),
        exchange="x",
        queue="q",
        peer=node("beta", "beta-1"),
        link_down=RuntimeError,
        backoff=Backoff(0.001, 0.001),
    )


@pytest.mark.parametrize("which", ["sending", "receiving", "closing"])
async def test_a_connection_that_dies_while_the_lane_attaches_ends_no_lane(which: str) -> None:
    """An outage is noticed on one connection after the other, and nobody has asked the lane to end."""
    sending, receiving = Connection(), Connection()
    link = link_over(sending, receiving)
    await link.wait_up()
    former = link._attachment
    assert former is not None
    receiving.opened[0].dies = which == "closing"
    sending.dying, receiving.dying = 2 * (which == "sending"), 2 * (which == "receiving")
    former.lose("no heartbeat")
    async with asyncio.timeout(5):
        await link.wait_up()
    assert link._attachment is not former
    await link.close()


async def test_a_lane_that_is_asked_to_end_while_it_attaches_ends() -> None:
    """The same error, and this time it was meant."""
    sending, receiving = Connection(), Connection()
    sending.dying = 1_000_000
    waiting = asyncio.ensure_future(link_over(sending, receiving).wait_up())
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
