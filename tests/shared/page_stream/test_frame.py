from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.page_stream.errors import (
    BadBodyError,
    BadMagicError,
    FrameError,
    OversizedFrameError,
    ShortFrameError,
    TrailingBytesError,
    UnknownTypeError,
    UnknownVersionError,
)
from shared.page_stream.frame import (
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    NUMBERED,
    Flag,
    Frame,
    FrameType,
    decode_frame,
    encode_frame,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
WITH_BODY = sorted(set(FrameType) - {FrameType.ACK})

frames = st.builds(
    Frame,
    type=st.sampled_from(WITH_BODY),
    epoch=U64,
    sequence=U64,
    received=U64,
    consumed=U64,
    stream_id=U32,
    flags=st.sampled_from([Flag(bits) for bits in range(8)]),
    resend_pass=U32,
    pass_seen=U32,
    payload=st.binary(max_size=300),
)


def a_frame(payload: bytes = b"abc", frame_type: FrameType = FrameType.DATA) -> bytearray:
    return bytearray(
        encode_frame(Frame(type=frame_type, epoch=7, sequence=1, received=0, consumed=0, stream_id=1, payload=payload))
    )


@given(frames)
def test_frame_roundtrip(frame: Frame) -> None:
    """What was encoded is decoded again, field by field."""
    assert decode_frame(encode_frame(frame)) == frame


def test_layout_is_the_documented_one() -> None:
    """Offsets and widths on the wire are those of the module's table."""
    frame = Frame(
        type=FrameType.DATA,
        epoch=0x0102030405060708,
        sequence=9,
        received=10,
        consumed=11,
        stream_id=12,
        flags=Flag.GAP,
        resend_pass=13,
        pass_seen=14,
        payload=b"xyz",
    )
    expected = b"VMPS" + bytes([2, 4]) + struct.pack(">HQIIQQQII", 4, frame.epoch, 12, 3, 9, 10, 11, 13, 14) + b"xyz"
    assert encode_frame(frame) == expected
    assert HEADER_BYTES == 56


@given(frames)
def test_every_truncation_is_rejected(frame: Frame) -> None:
    """A frame cut at any byte is a ShortFrameError, never something else that passes."""
    data = encode_frame(frame)
    for length in range(len(data)):
        with pytest.raises(ShortFrameError):
            decode_frame(data[:length])


def test_trailing_bytes_are_rejected() -> None:
    """One message of the route is one frame."""
    with pytest.raises(TrailingBytesError) as caught:
        decode_frame(bytes(a_frame()) + b"!")
    assert str(caught.value) == "page-stream frame has 1 bytes after its payload of declared length"


@pytest.mark.parametrize(
    ("offset", "value", "error"),
    [
        (0, ord("X"), BadMagicError),
        (4, 1, UnknownVersionError),
        (5, 0, UnknownTypeError),
        (5, 10, UnknownTypeError),
        (7, 8, UnknownTypeError),
        (6, 1, UnknownTypeError),
        (20, 1, OversizedFrameError),
    ],
)
def test_bad_header_is_rejected(offset: int, value: int, error: type[FrameError]) -> None:
    """Each header field that can be wrong has an error of its own, with a sentence."""
    data = a_frame()
    data[offset] = value
    with pytest.raises(error) as caught:
        decode_frame(bytes(data))
    assert "page-stream" in str(caught.value)


def test_oversized_payload_is_not_encoded() -> None:
    """The limit holds for the sender too."""
    assert len(a_frame(bytes(MAX_PAYLOAD_BYTES))) == HEADER_BYTES + MAX_PAYLOAD_BYTES
    with pytest.raises(OversizedFrameError):
        a_frame(bytes(MAX_PAYLOAD_BYTES + 1))


def test_body_where_none_belongs_is_rejected() -> None:
    """An ACK is empty."""
    with pytest.raises(BadBodyError):
        decode_frame(bytes(a_frame(b"x", FrameType.ACK)))
    assert decode_frame(bytes(a_frame(b"", FrameType.ACK))).payload == b""


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    """Whatever arrives, the only exception is a FrameError."""
    try:
        decode_frame(data)
    except FrameError:
        return


@given(st.binary(max_size=80), st.integers(0, 2**16 - 1))
def test_random_tail_never_raises_anything_else(tail: bytes, head: int) -> None:
    """Also behind a valid magic and version."""
    try:
        decode_frame(b"VMPS\x02" + head.to_bytes(2) + tail)
    except FrameError:
        return


def test_payload_is_a_view() -> None:
    """Decoding copies no payload."""
    data = bytes(a_frame(b"abc"))
    payload = decode_frame(data).payload
    assert isinstance(payload, memoryview)
    assert payload.obj is data


def test_numbered_frames() -> None:
    """Exactly the frames that must arrive exactly once are numbered."""
    unnumbered = {FrameType.HELLO, FrameType.ACK, FrameType.ABORT}
    assert set(FrameType) - unnumbered == NUMBERED
    assert decode_frame(bytes(a_frame())).numbered
