"""What the lane protocol reports to its shell: past tense, plain values."""

from __future__ import annotations

from dataclasses import dataclass

from shared.page_stream.bodies import StreamKind


@dataclass(frozen=True, slots=True)
class LaneReady:
    """Both ends know each other; data may flow."""


@dataclass(frozen=True, slots=True)
class LaneResumed:
    """After a break of the route both ends know again what the other one has."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The other end opened a stream."""

    stream_id: int
    kind: StreamKind
    label: str


@dataclass(frozen=True, slots=True)
class DataReceived:
    """One DATA payload, exactly as it was sent. It stays in the window until `data_consumed(sequence)`."""

    stream_id: int
    sequence: int
    payload: memoryview | bytes


@dataclass(frozen=True, slots=True)
class EofReceived:
    """The other end will send no more on this stream; this end still may."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The other end gave the stream up, in both directions."""

    stream_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class LaneClosed:
    """The other end closed the lane in order; nothing more will come."""


LaneEvent = LaneReady | LaneResumed | StreamOpened | DataReceived | EofReceived | StreamReset | LaneClosed
