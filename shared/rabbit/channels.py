"""AMQP channel numbers and their end: which number is used next, and what may still be sent on it. Pure.

RabbitMQ ends the whole connection (504, "expected 'channel.open'") when a frame comes on a channel that is closed. The
client library sends such frames: it can be publishing, or cancelling a call, in the moment in which RabbitMQ closes the
channel, and it gives the number to another channel before it has confirmed the close. That happens at the end of every
port, when the broker removes lanes that are still attached. `ChannelGuard` stands at the socket, where the order of
frames is known, and `ChannelNumbers` keeps a number out of use for as long as possible.

    Rule 1. When RabbitMQ closes a channel, the confirmation is sent at once, before any other frame.
    Rule 2. After a close or a confirmation nothing is sent on this number until the next Channel.Open.
"""

from __future__ import annotations

import struct
from collections.abc import Container

import pamqp.frame
from pamqp import commands, constants

_HEAD = struct.Struct(">BHI")
"""Type, channel, payload size (AMQP 0-9-1, 2.3.5)."""

_METHOD = struct.Struct(">I")
"""Class and method of a method frame, as one number."""

HIGHEST_NUMBER = 65_535


class ChannelGuard:
    """Follows one connection's channels through the frames in both directions."""

    def __init__(self) -> None:
        self._closed: set[int] = set()

    def received(self, head: bytes, payload: bytes) -> bytes:
        """RabbitMQ sent this frame; returns what must be written at once, or nothing."""
        if not payload.startswith(_CLOSE):
            return b""
        kind, channel, _ = _HEAD.unpack(head)
        if kind != constants.FRAME_METHOD or not channel:
            return b""
        self._closed.add(channel)
        return pamqp.frame.marshal(commands.Channel.CloseOk(), channel)

    def may_send(self, frames: bytes) -> bool:
        """Whether these frames, all of one channel, may be written now."""
        if len(frames) < _HEAD.size or frames.startswith(constants.AMQP):
            return True
        kind, channel, _ = _HEAD.unpack_from(frames)
        if not channel:
            return True
        method = frames[_HEAD.size : _HEAD.size + _METHOD.size] if kind == constants.FRAME_METHOD else b""
        if method == _OPEN:
            self._closed.discard(channel)
            return True
        if channel in self._closed:
            return False
        if method == _CLOSE:
            self._closed.add(channel)
        return True


class ChannelNumbers:
    """Gives out one connection's channel numbers in turn, so that one that was given back rests longest."""

    def __init__(self, highest: int) -> None:
        self._highest = highest or HIGHEST_NUMBER
        self._last = 0

    def take(self, in_use: Container[int]) -> int:
        """The next number that is free. Raises RuntimeError when there is none."""
        for _ in range(self._highest):
            self._last = self._last % self._highest + 1
            if self._last not in in_use:
                return self._last
        raise RuntimeError(f"all {self._highest} channels of this connection are in use")


_OPEN = _METHOD.pack(commands.Channel.Open.index)
_CLOSE = _METHOD.pack(commands.Channel.Close.index)
