"""The binary frame of the page stream, version 2 (version 1 was not sealed). Owns header, sizes and types; what acks
mean is the lane protocol's.

One frame is one message of the route (an AMQP body, or one frame on a TCP connection): header, then exactly `payload
length` bytes. All integers are unsigned and big-endian.

    offset size field
         0    4 magic "VMPS"
         4    1 version (2)
         5    1 type: 1 HELLO, 2 ACK, 3 OPEN, 4 DATA, 5 EOF, 6 RESET, 7 CLOSE, 8 ABORT, 9 HANDSHAKE
         6    2 flags: 1 REPLY_WANTED, 2 REPLY, 4 GAP; others must be 0
         8    8 epoch: random, non-zero, drawn by the sending endpoint when it is made; a restarted one has another
        16    4 stream id: 0 for the lane itself; odd ids are opened by the initiator, even ones by the acceptor
        20    4 payload length, at most MAX_PAYLOAD_BYTES
        24    8 sequence: OPEN, DATA, EOF, RESET, CLOSE, HANDSHAKE are numbered 1, 2, ...;
                the others carry the number that was sent last before them
        32    8 received: highest number that the sender of this frame has received without a gap
        40    8 consumed: highest number up to which its application has consumed everything (the cumulative ack)
        48    4 pass: how often this sender has gone back to send again
        52    4 pass seen: the newest `pass` that it has seen from the other endpoint

Bodies: HELLO, OPEN, RESET, ABORT (see bodies.py); DATA is opaque; ACK, EOF and CLOSE are empty. The body of every
numbered frame but HANDSHAKE is carried sealed (TLS records of type, stream id and body; the lanes' tls.py), and the
payload length is that of the sealed form. HANDSHAKE carries the TLS handshake.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from shared.page_stream.errors import (
    BadBodyError,
    BadMagicError,
    OversizedFrameError,
    ShortFrameError,
    TrailingBytesError,
    UnknownTypeError,
    UnknownVersionError,
)

MAGIC: Final = b"VMPS"
VERSION: Final = 2
MAX_PAYLOAD_BYTES: Final = 1024 * 1024 + 8192  # a bulk chunk of 1 MiB and room for a codec's header and the seal

_HEADER: Final = struct.Struct(">4sBBHQIIQQQII")
HEADER_BYTES: Final = _HEADER.size
_EMPTY: Final = memoryview(b"")

FrameBytes = bytes | bytearray
"""One whole received frame; it is never changed, because decoded payloads are views of it."""


class FrameType(IntEnum):
    """What a frame is, by its code on the wire."""

    HELLO = 1
    ACK = 2
    OPEN = 3
    DATA = 4
    EOF = 5
    RESET = 6
    CLOSE = 7
    ABORT = 8
    HANDSHAKE = 9


NUMBERED: Final = frozenset(
    {FrameType.OPEN, FrameType.DATA, FrameType.EOF, FrameType.RESET, FrameType.CLOSE, FrameType.HANDSHAKE}
)
_BY_CODE: Final = {kind.value: kind for kind in FrameType}


class Flag(IntFlag):
    """Bits of the header's flags on the wire."""

    NONE = 0
    REPLY_WANTED = 1  # answer at once: with HELLO to a HELLO, with ACK to an ACK
    REPLY = 2  # this HELLO answers one
    GAP = 4  # numbers after `received` were lost in pass `pass seen`: send them again


_BY_FLAGS: Final = [Flag(bits) for bits in range(8)]


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, decoded. `payload` is a view into the bytes that it came from, which it keeps alive."""

    type: FrameType
    epoch: int
    sequence: int
    received: int
    consumed: int
    stream_id: int = 0
    flags: Flag = Flag.NONE
    resend_pass: int = 0
    pass_seen: int = 0
    payload: memoryview | bytes = _EMPTY

    @property
    def numbered(self) -> bool:
        """Whether the frame has a number of its own and is therefore delivered exactly once."""
        return self.type in NUMBERED


def encode_frame(frame: Frame) -> bytes:
    """The frame's bytes; copies the payload once.

    Raises OversizedFrameError, or struct.error when a header value does not fit its field.
    """
    length = len(frame.payload)
    if length > MAX_PAYLOAD_BYTES:
        raise OversizedFrameError(payload_bytes=length, limit_bytes=MAX_PAYLOAD_BYTES)
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        frame.type,
        frame.flags,
        frame.epoch,
        frame.stream_id,
        length,
        frame.sequence,
        frame.received,
        frame.consumed,
        frame.resend_pass,
        frame.pass_seen,
    )
    return b"".join((header, frame.payload)) if length else header


def decode_frame(data: FrameBytes) -> Frame:
    """Decode `data`, which must be exactly one frame. Raises FrameError. The payload is not copied."""
    have = len(data)
    if have < HEADER_BYTES:
        raise ShortFrameError(have_bytes=have, need_bytes=HEADER_BYTES)
    (magic, version, code, flags, epoch, stream_id, length, sequence, received, consumed, resend_pass, pass_seen) = (
        _HEADER.unpack_from(data)
    )
    if magic != MAGIC:
        raise BadMagicError(magic=magic)
    if version != VERSION:
        raise UnknownVersionError(version=version)
    frame_type = _BY_CODE.get(code)
    if frame_type is None:
        raise UnknownTypeError(what="type", value=code)
    if flags >= len(_BY_FLAGS):
        raise UnknownTypeError(what="flags", value=flags)
    if length > MAX_PAYLOAD_BYTES:
        raise OversizedFrameError(payload_bytes=length, limit_bytes=MAX_PAYLOAD_BYTES)
    if length and frame_type is FrameType.ACK:
        raise BadBodyError(frame=frame_type.name, finding=f"{length} bytes where none belong")
    need = HEADER_BYTES + length
    if have < need:
        raise ShortFrameError(have_bytes=have, need_bytes=need)
    if have > need:
        raise TrailingBytesError(have_bytes=have, need_bytes=need)
    return Frame(
        type=frame_type,
        epoch=epoch,
        sequence=sequence,
        received=received,
        consumed=consumed,
        stream_id=stream_id,
        flags=_BY_FLAGS[flags],
        resend_pass=resend_pass,
        pass_seen=pass_seen,
        payload=memoryview(data)[HEADER_BYTES:] if length else _EMPTY,
    )
