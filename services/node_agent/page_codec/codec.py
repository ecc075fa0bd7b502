"""The codec interface: chunks of a stream in, payloads for the lane out, and back. Owns the contract and errors; pure.

One encoder and one decoder per stream and direction, used in order: payload n is decoded after payload n-1, each
exactly once. A codec may therefore keep state per stream, and share state between the streams of one port (give both
the same store when they are made).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from shared.errors import VmportError

MAX_CHUNK_BYTES: Final = 256 * 1024
"""Largest chunk that is encoded at once. Decoding one payload yields as much, or what the format says."""


class CodecError(VmportError):
    """A payload cannot be decoded; the stream cannot go on."""

    code = "bad_payload"

    def __init__(self, *, finding: str) -> None:
        self.finding = finding
        super().__init__(f"page-stream payload cannot be decoded: {finding}")


@dataclass(frozen=True, slots=True)
class CodecStats:
    """Bytes since the codec was made: `raw_bytes` on the socket's side, `wire_bytes` on the lane's.

    `contents` says what went instead of how many bytes of guest memory and disk, by technique; only encoders know,
    so the two ends of a stream compare equal without it.
    """

    raw_bytes: int = 0
    wire_bytes: int = 0
    contents: Mapping[str, int] = field(default_factory=dict, compare=False)


class ChunkEncoder(Protocol):
    """Bytes of a socket to payloads of a stream."""

    def encode(self, chunk: bytes) -> list[bytes]:
        """Payloads to send now, maybe none; `chunk` has at most MAX_CHUNK_BYTES. Each payload fits one DATA frame."""
        ...

    def flush(self) -> list[bytes]:
        """Payloads for everything held back; called when the socket pauses and before EOF."""
        ...

    @property
    def holds_back(self) -> bool:
        """Whether `flush` would yield something."""
        ...

    def stats(self) -> CodecStats:
        """Counters so far."""
        ...


@runtime_checkable
class Adaptive(Protocol):
    """An encoder that compresses as hard as link and CPU allow; see `pace`."""

    def adapt(self, *, busy_s: float, blocked_s: float, starved_s: float) -> None:
        """Seconds since the last call: encoding (processor time), waiting for the lane, for socket or processor."""
        ...


@runtime_checkable
class Holding(Protocol):
    """An encoder that holds hot pages back; see `held_pages`."""

    @property
    def held_bytes(self) -> int:
        """Bytes held back, uncompressed: the guest cannot run at the recipient before the lane has them."""
        ...

    def hold_at_most(self, limit_bytes: int) -> None:
        """How many bytes may be held back from now on."""
        ...


@runtime_checkable
class Leading(Protocol):
    """An encoder whose payloads may be queued before the lane while the switchover is far."""

    @property
    def lead(self) -> float:
        """The part of the largest queue that is allowed now: 1 while the switchover is far, 0 when it may be near."""
        ...


class ChunkDecoder(Protocol):
    """Payloads of a stream to bytes of a socket."""

    def decode(self, payload: bytes | memoryview) -> list[bytes | memoryview]:
        """Bytes to write now, maybe none. Raises CodecError."""
        ...

    def stats(self) -> CodecStats:
        """Counters so far."""
        ...
