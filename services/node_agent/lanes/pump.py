"""StreamPump: joins a local socket and a lane stream, both directions, through a codec. The hot path.

It does not interpret the bytes. Backpressure passes through it: the socket is read only when the window has room, and a
payload leaves the window only when the kernel has all of it. Nothing is buffered here but one chunk per direction and
the reader's own bounded buffer, and what an encoder may have ready ahead of the lane (`run_ahead`).

The codec runs on the event loop: zstd 1 in chunks of 256 KiB reached 417 MB/s on 2 cores, 341 MB/s by way of
`asyncio.to_thread` (the hop costs more than the overlap wins; tests/bench/lane_throughput.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Final, Protocol

from services.node_agent.lanes.arrivals import Arrivals
from services.node_agent.lanes.run_ahead import RunAhead
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.page_codec.codec import (
    MAX_CHUNK_BYTES,
    Adaptive,
    ChunkDecoder,
    ChunkEncoder,
    CodecStats,
    Holding,
    Leading,
)
from services.node_agent.page_codec.contents import ContentMissingError
from shared.tasks import first_error

READER_LIMIT_BYTES: Final = MAX_CHUNK_BYTES
"""`limit` for the StreamReaders of pumped sockets: asyncio pauses the socket at twice this. What waits in them is in
front of the lane's window, where convergence does not see it, and becomes downtime: so there is room for two chunks."""
_READ_BYTES: Final = MAX_CHUNK_BYTES - 4096  # with the start of a block that waits in front, still one chunk
_FLUSH_AFTER_S: Final = 0.005  # how long bytes that a codec holds back may wait for more
_CONTENT_WITHIN_S: Final = 360.0  # how long a payload may wait for what another stream of the port brings, outages too


class SocketReader(Protocol):
    """What is used of a StreamReader."""

    async def read(self, n: int = -1, /) -> bytes:
        """The next bytes, at most `n`; b"" at the end."""
        ...


class SocketWriter(Protocol):
    """What is used of a StreamWriter."""

    @property
    def transport(self) -> asyncio.WriteTransport:
        """What it writes to."""
        ...

    def write(self, data: bytes | memoryview, /) -> None:
        """Hand bytes over."""
        ...

    async def drain(self) -> None:
        """Wait until they are taken."""
        ...

    def can_write_eof(self) -> bool:
        """Whether `write_eof` is possible."""
        ...

    def write_eof(self) -> None:
        """Say that nothing more comes."""
        ...

    def close(self) -> None:
        """End the connection."""
        ...

    async def wait_closed(self) -> None:
        """Wait until it has ended."""
        ...


@dataclass(frozen=True, slots=True)
class PumpStats:
    """Bytes so far; `sent` is socket to lane, `received` is lane to socket."""

    sent: CodecStats
    received: CodecStats


class StreamPump:
    """One socket joined to one stream. `run` ends when both directions have seen EOF."""

    def __init__(
        self,
        reader: SocketReader,
        writer: SocketWriter,
        stream: LaneStream,
        *,
        encoder: ChunkEncoder,
        decoder: ChunkDecoder,
        arrivals: Arrivals | None = None,
    ) -> None:
        """`arrivals` is what the streams of one port share when their decoders share contents."""
        self._reader = reader
        self._writer = writer
        self._stream = stream
        self._encoder = encoder
        self._decoder = decoder
        self._arrivals = Arrivals() if arrivals is None else arrivals
        self._ahead = RunAhead(stream)
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._unsent_raw_bytes = 0  # taken from the socket; no payload yet came of them
        # Asked once: isinstance() against a runtime_checkable Protocol is slow (it looks up every member).
        self._adaptive = encoder if isinstance(encoder, Adaptive) else None
        self._holding = encoder if isinstance(encoder, Holding) else None
        self._leading = encoder if isinstance(encoder, Leading) else None

    def stats(self) -> PumpStats:
        """Counters so far; may be asked at any time."""
        return PumpStats(sent=self._encoder.stats(), received=self._decoder.stats())

    @property
    def held_bytes(self) -> int:
        """Bytes that the encoder holds back (`Holding`), and that are encoded and wait for the lane."""
        return self._held_back_bytes + self._ahead.queued_bytes

    @property
    def held_raw_bytes(self) -> int:
        """The same, as bytes of the socket."""
        return self._held_back_bytes + self._ahead.queued_raw_bytes

    def hold_at_most(self, limit_bytes: int) -> None:
        """How many bytes the encoder may hold back; see `Holding`."""
        if self._holding is not None:
            self._holding.hold_at_most(limit_bytes)

    def stop_reading(self, *, stopped: bool) -> None:
        """Read nothing more from the socket for now, or go on: whoever writes into it is kept from finishing."""
        if stopped:
            self._may_read.clear()
        else:
            self._may_read.set()

    async def run(self) -> None:
        """Pump until both directions ended by EOF; the socket is closed on return, however it ends.

        Raises OSError when the socket breaks, CodecError for payloads that cannot be decoded (both reset the stream,
        with the reason), StreamResetError when the other end gave up, or the LaneError that ended the lane.
        Cancelling resets the stream.
        """
        self._writer.transport.set_write_buffer_limits(high=0)  # drain() then waits until the kernel has everything
        done = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._ahead.run())
                group.create_task(self._socket_to_lane())
                group.create_task(self._lane_to_socket())
            done = True
        except ExceptionGroup as errors:  # not except*, which would wrap what is raised here into a group again
            first = first_error(errors)
            self._stream.reset(f"its socket broke: {first}" if isinstance(first, OSError) else str(first))
            raise first from None
        finally:
            if not done:
                self._stream.reset("pump cancelled")
                self._writer.transport.abort()
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    async def _socket_to_lane(self) -> None:
        began_s = time.perf_counter()
        while chunk := await self._next_chunk():
            self._unsent_raw_bytes += len(chunk)
            before_cpu_s = time.thread_time()
            payloads = self._encoder.encode(chunk)
            busy_s, encoded_s = time.thread_time() - before_cpu_s, time.perf_counter()
            await self._write(payloads)
            if self._adaptive is not None:
                sent_s = time.perf_counter()
                blocked_s = sent_s - encoded_s
                # A processor that others used is no reason to compress less: to send more bytes costs them more.
                starved_s = max(0.0, encoded_s - began_s - busy_s)
                if self._ahead.queued_bytes:  # the lane is behind, so nothing here holds it up
                    blocked_s, starved_s = blocked_s + starved_s, 0.0
                self._adaptive.adapt(busy_s=busy_s, blocked_s=blocked_s, starved_s=starved_s)
                began_s = sent_s
        await self._flush()
        await self._ahead.close()
        self._stream.write_eof()

    async def _write(self, payloads: list[bytes]) -> None:
        if not payloads:
            return
        lead = 0.0 if self._leading is None else self._leading.lead
        raw_bytes, self._unsent_raw_bytes = self._unsent_raw_bytes // len(payloads), 0
        for payload in payloads:
            await self._ahead.write(payload, raw_bytes=raw_bytes, lead=lead)

    @property
    def _held_back_bytes(self) -> int:
        return 0 if self._holding is None else self._holding.held_bytes

    async def _next_chunk(self) -> bytes:
        """What the socket has, less than a chunk.

        While the codec holds something back, waits only shortly before flushing it.
        """
        if not self._may_read.is_set():
            await self._flush()
            await self._may_read.wait()
        if self._encoder.holds_back:
            try:
                async with asyncio.timeout(_FLUSH_AFTER_S):
                    return await self._reader.read(_READ_BYTES)
            except TimeoutError:
                await self._flush()
        return await self._reader.read(_READ_BYTES)

    async def _flush(self) -> None:
        await self._write(self._encoder.flush())

    async def _lane_to_socket(self) -> None:
        while payload := await self._stream.read_view():
            for chunk in await self._decode(payload):
                self._writer.write(chunk)
            await self._writer.drain()
        if self._writer.can_write_eof():
            self._writer.write_eof()

    async def _decode(self, payload: bytes | memoryview) -> list[bytes | memoryview]:
        """Decode; retried while the payload refers to a content that another stream has still to bring."""
        try:
            chunks = self._try_decode(payload)
            if chunks is None:
                async with asyncio.timeout(_CONTENT_WITHIN_S):
                    while chunks is None:
                        await self._arrivals.wait()
                        chunks = self._try_decode(payload)
        except TimeoutError:
            return self._decoder.decode(payload)  # or the error that says what is missing
        return chunks

    def _try_decode(self, payload: bytes | memoryview) -> list[bytes | memoryview] | None:
        try:
            return self._decoder.decode(payload)
        except ContentMissingError:
            return None
        finally:
            self._arrivals.tell()
