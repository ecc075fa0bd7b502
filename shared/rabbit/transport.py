"""The socket under an AMQP connection: its reader makes every delivery readable, its writer closes channels in order.

A publisher chooses a message's properties and routing key. RabbitMQ passes on what aio_pika's decoder cannot read (a
timestamp of the year 292278994, text that is not UTF-8, tables nested a thousand deep); there it would end the
connection, and again at each redelivery: one message would keep a consumer away for as long as its sender likes. So
what cannot be read is replaced in place before it is decoded: the properties by none, the routing key by an ASCII one.
Without properties nobody vouches for the sender, and the message goes to the dead letters like any not believed.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import pamqp.exceptions
import pamqp.frame
from aiormq.connection import TransportFactory
from pamqp import commands, constants

from shared.rabbit.channels import ChannelGuard

READ_LIMIT_BYTES = 1024 * 1024
"""Buffered before reading pauses; larger than asyncio's own, which costs a tenth of a lane's throughput."""

TCP_CONNECT_S = 4.0
"""One attempt to open the TCP connection, of the time for connecting and logging in."""

HEAD_BYTES = constants.FRAME_HEADER_SIZE
_FLAGS = slice(12, 14)
"""Where a content header's flags stand in its payload (AMQP 0-9-1, 2.3.5.2: class, weight, body size, flags)."""

GUARD_BYTES = 16
"""Enough of a write to know channel and method of its first frame."""

_CONNECTION_CLOSE = struct.pack(">I", commands.Connection.Close.index)
_DELIVER = struct.pack(">I", commands.Basic.Deliver.index)


def readable(head: bytes, payload: bytes) -> bytes:
    """A frame's payload, of the same length, such that it can be decoded; only a delivery's frames are touched."""
    if head[0] == constants.FRAME_HEADER:
        return payload if _decodes(head, payload) else payload[: _FLAGS.start] + b"\x00\x00" + payload[_FLAGS.stop :]
    if head[0] == constants.FRAME_METHOD and payload.startswith(_DELIVER):
        return payload if _decodes(head, payload) else _with_ascii_routing_key(payload)
    return payload


def _decodes(head: bytes, payload: bytes) -> bool:
    try:
        pamqp.frame.unmarshal(head + payload)
    except Exception:  # noqa: BLE001  # whatever the decoder stumbles over, recursion included
        return False
    return True


def _with_ascii_routing_key(payload: bytes) -> bytes:
    """The routing key is a delivery's last field, and the only one that is the publisher's."""
    exchange_at = len(_DELIVER) + 1 + payload[len(_DELIVER)] + 8 + 1
    key_at = exchange_at + 1 + payload[exchange_at] + 1
    key = bytes(byte if byte < 0x80 else ord("?") for byte in payload[key_at:-1])
    return payload[:key_at] + key + payload[-1:]


def last_word(head: bytes, payload: bytes) -> commands.Connection.Close | None:
    """RabbitMQ's reason for closing a connection, if this frame is one; the client library hides it during login."""
    if head[0] != constants.FRAME_METHOD or not payload.startswith(_CONNECTION_CLOSE):
        return None
    try:
        frame = pamqp.frame.unmarshal(head + payload)[2]
    except (ValueError, struct.error, pamqp.exceptions.PAMQPException):
        return None
    return frame if isinstance(frame, commands.Connection.Close) else None


OnMethod = Callable[[bytes, bytes], None]
"""Is told of each method frame: its head, and its payload with the end mark."""


class TolerantReader(asyncio.StreamReader):
    """A stream of AMQP frames, read as aiormq does: a frame's head in parts, then payload and end mark together."""

    def __init__(self, on_method: OnMethod | None = None, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=READ_LIMIT_BYTES, loop=loop)
        self._head = b""
        self._on_method = on_method

    async def readexactly(self, n: int) -> bytes:
        """The next bytes, readable."""
        data = await super().readexactly(n)
        if len(self._head) < HEAD_BYTES:
            self._head += data
            return data
        head, self._head = self._head, b""
        if self._on_method is not None and head[0] == constants.FRAME_METHOD:
            self._on_method(head, data)
        return readable(head, data)


class GuardedWriter(asyncio.StreamWriter):
    """Leaves out what must not be sent any more. aiormq writes whole frames, all of one channel, in each call."""

    guard: ChannelGuard

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write these frames, or drop them."""
        if self.guard.may_send(bytes(data[:GUARD_BYTES])):
            super().write(data)


class TolerantTransport(TransportFactory):
    """Opens one connection of `shared.rabbit.connection`."""

    def __init__(self) -> None:
        self.last_word: commands.Connection.Close | None = None
        """Why RabbitMQ closed the connection, when it said so."""

    async def create(self, url: Any, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connected socket. Raises OSError."""
        provider = kwargs.pop("ssl_context_provider")
        context = await provider.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        guard = ChannelGuard()

        def on_method(head: bytes, payload: bytes) -> None:
            self.last_word = last_word(head, payload) or self.last_word
            if answer := guard.received(head, payload):
                transport.write(answer)

        reader = TolerantReader(on_method, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        # The kernel repeats a lost SYN after 1, 3, 7, 15 ... s: a new attempt meets a link that is back much sooner.
        async with asyncio.timeout(TCP_CONNECT_S):
            transport, _ = await loop.create_connection(lambda: protocol, url.host, url.port, ssl=context, **kwargs)
        writer = GuardedWriter(transport, protocol, reader, loop)
        writer.guard = guard
        return reader, writer
