"""Which frames may still be sent on a channel, and which number comes next."""

from __future__ import annotations

import pamqp.frame
import pytest
from pamqp import commands, header, heartbeat
from pamqp.base import Frame

from shared.rabbit.channels import ChannelGuard, ChannelNumbers

OPEN, CLOSE, CLOSED = commands.Channel.Open(), commands.Channel.Close(404, "gone", 0, 0), commands.Channel.CloseOk()
PUBLISH = commands.Basic.Publish(exchange="x")


def on(channel: int, *frames: Frame | header.ContentHeader) -> bytes:
    return b"".join(pamqp.frame.marshal(frame, channel) for frame in frames)


def received(guard: ChannelGuard, channel: int, frame: Frame) -> bytes:
    data = on(channel, frame)
    return guard.received(data[:7], data[7:])


def test_open_channel_is_left_alone() -> None:
    """Whatever is sent and received."""
    guard = ChannelGuard()
    assert guard.may_send(on(1, OPEN))
    assert guard.may_send(on(1, PUBLISH, header.ContentHeader(body_size=0)))
    assert received(guard, 1, commands.Channel.OpenOk()) == b""
    assert guard.may_send(on(1, CLOSE))


def test_close_by_rabbitmq_is_confirmed_at_once_and_by_nobody_else() -> None:
    """A publish in the queue, a cancelled call's close and the library's own confirmation come too late."""
    guard = ChannelGuard()
    assert received(guard, 1, CLOSE) == on(1, CLOSED)
    for late in (PUBLISH, CLOSE, CLOSED):
        assert not guard.may_send(on(1, late))
    assert not guard.may_send(on(1, header.ContentHeader(body_size=0)))
    assert guard.may_send(on(2, PUBLISH))


def test_nothing_follows_our_own_close() -> None:
    """RabbitMQ forgets the channel as soon as it reads it."""
    guard = ChannelGuard()
    assert guard.may_send(on(3, CLOSE))
    for late in (PUBLISH, CLOSE):
        assert not guard.may_send(on(3, late))


def test_closes_that_cross_are_confirmed() -> None:
    """RabbitMQ, which closed first, waits for the confirmation although it gets a close."""
    guard = ChannelGuard()
    assert guard.may_send(on(1, CLOSE))
    assert received(guard, 1, CLOSE) == on(1, CLOSED)


def test_number_serves_again_after_the_next_open() -> None:
    """The guard is about a channel, not about its number."""
    guard = ChannelGuard()
    received(guard, 1, CLOSE)
    assert guard.may_send(on(1, OPEN))
    assert guard.may_send(on(1, PUBLISH))


def test_connection_itself_is_not_guarded() -> None:
    """Protocol header, heartbeats, the connection's own methods."""
    guard = ChannelGuard()
    assert guard.may_send(b"AMQP\x00\x00\x09\x01")
    assert guard.may_send(on(0, commands.Connection.CloseOk()))
    assert guard.may_send(pamqp.frame.marshal(heartbeat.Heartbeat(), 0))
    assert received(guard, 0, commands.Connection.Close(320, "", 0, 0)) == b""


def test_numbers_go_round() -> None:
    """A number that was given back is used again last; one in use is passed over."""
    numbers = ChannelNumbers(4)
    assert [numbers.take({2}) for _ in range(4)] == [1, 3, 4, 1]
    with pytest.raises(RuntimeError, match="all 4 channels"):
        numbers.take({1, 2, 3, 4})


def test_connection_without_a_limit_has_amqps() -> None:
    """RabbitMQ says 0 for that."""
    numbers = ChannelNumbers(0)
    assert numbers.take(range(1, 65_535)) == 65_535
