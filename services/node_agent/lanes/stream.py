"""LaneStream: what an application holds of one stream, and the inbox through which the session feeds it.

Decides nothing about the wire.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from services.node_agent.lanes.core.errors import LaneError, StreamError, StreamResetError
from services.node_agent.lanes.core.events import DataReceived
from shared.page_stream.bodies import StreamKind


class StreamOwner(Protocol):
    """What a stream needs of its session."""

    @property
    def lane(self) -> str:
        """The lane's name."""
        ...

    @property
    def max_payload_bytes(self) -> int:
        """Largest payload that both ends accept."""
        ...

    @property
    def is_away(self) -> bool:
        """Whether the other end cannot be heard now."""
        ...

    async def send_payload(
        self, inbox: StreamInbox, payload: bytes | memoryview, *, raw_bytes: int, raw_lead_bytes: int
    ) -> None:
        """Wait for room in the window, then queue one payload, of which the other application makes `raw_bytes`."""
        ...

    def send_eof(self, inbox: StreamInbox) -> None:
        """Queue an EOF."""
        ...

    def send_reset(self, inbox: StreamInbox, reason: str) -> None:
        """Queue a RESET and forget the stream."""
        ...

    def consumed(self, sequence: int) -> None:
        """The application is done with one payload."""
        ...


class StreamInbox:
    """What has arrived for one stream and was not read yet; filled by the session, emptied by the LaneStream."""

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.received: deque[DataReceived] = deque()
        self.in_hand: DataReceived | None = None
        self.eof_received = False
        self.eof_sent = False
        self.error: LaneError | StreamError | None = None
        self.changed = asyncio.Event()

    def deliver(self, event: DataReceived) -> None:
        """One payload came."""
        self.received.append(event)
        self.changed.set()

    def deliver_eof(self) -> None:
        """The other end's EOF came."""
        self.eof_received = True
        self.changed.set()

    def fail(self, error: LaneError | StreamError) -> None:
        """The stream is over; the first error stays."""
        if self.error is None:
            self.error = error
        self.changed.set()

    def discard_unread(self) -> list[int]:
        """Drop what was not read; returns the sequence numbers of all payloads that were not consumed."""
        sequences = [event.sequence for event in self.received]
        self.received.clear()
        if self.in_hand is not None:
            sequences.append(self.in_hand.sequence)
            self.in_hand = None
        return sequences


class LaneStream:
    """One ordered byte stream of a lane, full duplex, half-closable. Only sessions make them; one reader and one
    writer at a time.

    Payload borders are kept: what one `write` of at most `max_payload_bytes` sent, one `read` returns.
    """

    def __init__(self, owner: StreamOwner, inbox: StreamInbox, *, kind: StreamKind, label: str) -> None:
        self.stream_id = inbox.stream_id
        self.kind = kind
        self.label = label
        self._owner = owner
        self._inbox = inbox

    @property
    def max_payload_bytes(self) -> int:
        """Largest `write` that stays one payload."""
        return self._owner.max_payload_bytes

    @property
    def is_away(self) -> bool:
        """Whether the other end cannot be heard now; see `patience`."""
        return self._owner.is_away

    async def read(self) -> bytes:
        """The next payload; b"" at the other end's EOF. Counts as consumed at once.

        Raises StreamResetError, or the LaneError that ended the lane.
        """
        payload = bytes(await self.read_view())
        self._finish_in_hand()
        return payload

    async def read_view(self) -> memoryview | bytes:
        """As `read`, without a copy (a read-only view into the frame that came), and consumed only when called again.

        So first write the bytes on and drain, then ask for the next: the window then bounds them until the kernel
        has them. While a payload is held so, no later one of the whole lane can be acked.
        """
        self._finish_in_hand()
        inbox = self._inbox
        while not inbox.received:
            if inbox.eof_received:
                return b""
            if inbox.error is not None:
                raise inbox.error
            inbox.changed.clear()
            await inbox.changed.wait()
        inbox.in_hand = inbox.received.popleft()
        return inbox.in_hand.payload

    async def write(self, data: bytes | memoryview, *, raw_bytes: int | None = None, raw_lead_bytes: int = 0) -> None:
        """Send bytes; returns when they are in the window, which may be long before they arrive.

        `data` must never change afterwards: copy a view of a buffer that is used again. More than `max_payload_bytes`
        become several payloads. `raw_bytes` is the size after decoding at the other end, if the data is encoded. The
        writer is then held to the rate of that application as it is to the link's, but may be `raw_lead_bytes` ahead of
        it. Raises StreamResetError, the LaneError that ended the lane, or ValueError after `write_eof`.
        """
        raw = len(data) if raw_bytes is None else raw_bytes
        limit = self._owner.max_payload_bytes
        if len(data) <= limit:
            await self._owner.send_payload(self._inbox, data, raw_bytes=raw, raw_lead_bytes=raw_lead_bytes)
            return
        view = memoryview(data)
        start = 0
        while start < len(view):
            limit = self._owner.max_payload_bytes  # known better once the other end has answered
            part = view[start : start + limit]
            part_raw = raw * len(part) // len(view)
            await self._owner.send_payload(self._inbox, part, raw_bytes=part_raw, raw_lead_bytes=raw_lead_bytes)
            start += limit

    def write_eof(self) -> None:
        """Say that nothing more will be written; reading goes on. Idempotent. Raises as `write`."""
        if self._inbox.error is not None:
            raise self._inbox.error
        if not self._inbox.eof_sent:
            self._owner.send_eof(self._inbox)

    def reset(self, reason: str) -> None:
        """Give the stream up in both directions, at once; unread bytes are dropped.

        No effect on one that has ended.
        """
        if self._inbox.error is None and not (self._inbox.eof_sent and self._inbox.eof_received and not self._unread()):
            self._inbox.fail(
                StreamResetError(lane=self._owner.lane, stream_id=self.stream_id, reason=reason, by_peer=False)
            )
            self._owner.send_reset(self._inbox, reason)

    def _finish_in_hand(self) -> None:
        if self._inbox.in_hand is not None:
            sequence, self._inbox.in_hand = self._inbox.in_hand.sequence, None
            self._owner.consumed(sequence)

    def _unread(self) -> bool:
        return bool(self._inbox.received) or self._inbox.in_hand is not None
