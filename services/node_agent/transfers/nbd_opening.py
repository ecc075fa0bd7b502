"""The recipient's connection to QEMU's NBD server, which survives that server's time limit for the negotiation.

From QEMU 9.1 on the server ends a connection whose negotiation takes longer than 10 s. The client is the donor's QEMU,
several round trips of the link away, and an outage of the link may last longer. So what the client has said is kept
until its first request. When the server ends the connection before that, another one is made, the same is said again,
and of the answers only those go on to the client that it has not had. The client sees one slow negotiation.

After the first request nothing is kept: from there on a connection that ends is the hypervisors' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from services.node_agent.page_codec.disk.nbd_stream import NbdFacts, RequestScanner
from shared.logs import get_logger

log = get_logger(__name__)

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

LEAST_LIFE_S: Final = 5.0
"""A server that ends a connection sooner does so for another reason than its time limit."""


class NbdOpening:
    """Reader and writer of one connection in one, as `StreamPump` uses them. `open` makes it."""

    def __init__(
        self, connect: Connect, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, clock: Callable[[], float]
    ) -> None:
        self._connect = connect
        self._reader = reader
        self._writer = writer
        self._clock = clock
        self._facts = NbdFacts()
        self._scanner = RequestScanner(self._facts)
        self._said = bytearray()  # by the client, while it negotiates
        self._heard = bytearray()  # by the client, of the server's answers
        self._again_bytes = 0  # how much of `_heard` this connection's server has said so far
        self._negotiates = True
        self._given_up = False
        self._opened_s = clock()

    @classmethod
    async def open(cls, connect: Connect, *, clock: Callable[[], float] | None = None) -> NbdOpening:
        """Connect. `clock` is in seconds, the event loop's unless said. Raises what `connect` raises."""
        return cls(connect, *await connect(), clock or asyncio.get_running_loop().time)

    # ---- the reader ----

    async def read(self, size: int = -1) -> bytes:
        """The server's next bytes, b"" at its end. Raises OSError, also for a server that answers differently now."""
        while self._negotiates or self._again_bytes < len(self._heard):
            try:
                data = await self._reader.read(size)
            except ConnectionError:
                if not await self._connect_again():
                    raise
                continue
            if not data and not await self._connect_again():
                return b""
            if new := self._new_part(data):
                return new
        self._said.clear()
        return await self._reader.read(size)

    def _new_part(self, data: bytes) -> bytes:
        """What the client has not had of these bytes."""
        at = self._again_bytes
        known = self._heard[at : at + len(data)]
        if not data.startswith(known):
            raise ConnectionError("the NBD server answers differently in a new connection")
        new = data[len(known) :]
        self._heard += new
        self._again_bytes += len(data)
        return new

    async def _connect_again(self) -> bool:
        """Begin the negotiation again where its time limit ended it. False where that is not why it ended."""
        lasted_s = self._clock() - self._opened_s
        if not self._negotiates or lasted_s < LEAST_LIFE_S:
            self._given_up = True
            return False
        log.info("nbd negotiation ended by its time limit, begun again", lasted_s=round(lasted_s, 1))
        self._writer.close()
        self._reader, self._writer = await self._connect()
        self._writer.transport.set_write_buffer_limits(high=0)
        self._opened_s = self._clock()
        self._again_bytes = 0
        self._writer.write(bytes(self._said))
        return True

    # ---- the writer ----

    @property
    def transport(self) -> asyncio.WriteTransport:
        """The present connection's."""
        return self._writer.transport

    def write(self, data: bytes | memoryview) -> None:
        """Bytes of the client. Raises NbdError."""
        if self._negotiates:
            self._said += data
            self._scanner.scan(data)
            # What is said inside of TLS cannot be said again.
            self._negotiates = self._scanner.negotiates and not self._facts.starttls
        self._writer.write(data)

    async def drain(self) -> None:
        """As a StreamWriter's. What is lost with a connection that ends is said again in the next one."""
        try:
            await self._writer.drain()
        except ConnectionError:
            if not self._negotiates or self._given_up:
                raise

    def can_write_eof(self) -> bool:
        """As a StreamWriter's."""
        return self._writer.can_write_eof()

    def write_eof(self) -> None:
        """As a StreamWriter's; nothing is begun again after it."""
        self._negotiates = False
        self._writer.write_eof()

    def close(self) -> None:
        """As a StreamWriter's."""
        self._negotiates = False
        self._writer.close()

    async def wait_closed(self) -> None:
        """As a StreamWriter's."""
        await self._writer.wait_closed()
