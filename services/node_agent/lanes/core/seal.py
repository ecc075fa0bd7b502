"""LaneSeal: what the lane protocol needs of its encryption. Pure: the contract and its error only.

The seal sits *above* numbers, acks and windows: a unit is sealed once, when it gets its number, and what is sent again
is the same ciphertext; the other end opens units in the order of their numbers. So acks and windows count ciphertext
on both ends alike, and loss, duplicates and resumption are invisible to the seal. What the relay can see are headers:
type, stream id, number, length, acks. Type and stream id are sealed with the body as well, so they cannot be changed.

Before the seal is established only HANDSHAKE frames are numbered. tls.py implements it.
"""

from __future__ import annotations

from typing import Protocol

from shared.errors import VmportError
from shared.page_stream.frame import FrameType


class SealError(VmportError):
    """The other end is not who it must be, or what came is not what it sealed."""

    code = "lane_security"


class LaneSeal(Protocol):
    """One lane's secrecy at one end. Any method that takes bytes of the other end raises SealError."""

    @property
    def established(self) -> bool:
        """Whether the other end is proven and units may be sealed and opened."""
        ...

    def begin(self) -> bytes:
        """The first handshake message; empty at the end that only answers."""
        ...

    def receive_handshake(self, data: bytes | memoryview) -> bytes:
        """Take one handshake message; the answer to it, empty where there is none."""
        ...

    def sealed_bytes(self, body_bytes: int) -> int:
        """How long a body of this length is once sealed."""
        ...

    def seal(self, frame_type: FrameType, stream_id: int, body: bytes | memoryview) -> bytes | memoryview:
        """Seal the next unit."""
        ...

    def open(self, frame_type: FrameType, stream_id: int, sealed: bytes | memoryview) -> bytes | memoryview:
        """The body of the next unit."""
        ...
