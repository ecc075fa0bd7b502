from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.page_stream.bodies import (
    MAX_LABEL_BYTES,
    MAX_NAME_BYTES,
    MAX_REASON_BYTES,
    Hello,
    LaneRole,
    Open,
    StreamKind,
    decode_hello,
    decode_open,
    decode_reason,
    encode_hello,
    encode_open,
    encode_reason,
)
from shared.page_stream.errors import BadBodyError

short_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
hellos = st.builds(
    Hello,
    peer_epoch=st.integers(0, 2**64 - 1),
    window_bytes=st.integers(0, 2**32 - 1),
    max_payload_bytes=st.integers(0, 2**32 - 1),
    role=st.sampled_from(LaneRole),
    lane=short_text,
)
opens = st.builds(Open, kind=st.sampled_from(StreamKind), label=short_text)


@given(hellos)
def test_hello_roundtrip(hello: Hello) -> None:
    """A HELLO's body is decoded to what it was."""
    assert decode_hello(encode_hello(hello)) == hello


@given(opens)
def test_open_roundtrip(opening: Open) -> None:
    """An OPEN's body is decoded to what it was."""
    assert decode_open(memoryview(encode_open(opening))) == opening


@given(hellos, opens)
def test_cut_bodies_are_rejected(hello: Hello, opening: Open) -> None:
    """A body cut anywhere, or with a byte too many, is refused."""
    for decode, body in ((decode_hello, encode_hello(hello)), (decode_open, encode_open(opening))):
        for wrong in [body[:length] for length in range(len(body))] + [body + b"x"]:
            with pytest.raises(BadBodyError):
                decode(wrong)


@given(st.binary(max_size=80))
def test_random_bodies_raise_only_bad_body(data: bytes) -> None:
    """Whatever a body holds, the only exception is BadBodyError."""
    for decode in (decode_hello, decode_open, lambda body: decode_reason("RESET", body)):
        with contextlib.suppress(BadBodyError):
            decode(data)


def test_unknown_values_are_rejected() -> None:
    """A stream kind or a role that this version does not define is refused by name."""
    with pytest.raises(BadBodyError, match="kind 'cpu' is unknown"):
        decode_open(b"\x03cpu\x00\x00")
    body = bytearray(encode_hello(Hello(1, 2, 3, LaneRole.ACCEPTOR, "x")))
    body[16] = 3
    with pytest.raises(BadBodyError, match="role 3"):
        decode_hello(bytes(body))


def test_long_texts() -> None:
    """Names and labels have limits; a reason is cut to its own at a character's border."""
    with pytest.raises(BadBodyError):
        encode_hello(Hello(1, 2, 3, LaneRole.ACCEPTOR, "x" * (MAX_NAME_BYTES + 1)))
    with pytest.raises(BadBodyError):
        encode_open(Open(StreamKind.DISK, "x" * (MAX_LABEL_BYTES + 1)))
    reason = encode_reason("é" * MAX_REASON_BYTES)
    assert decode_reason("ABORT", reason) == "é" * (MAX_REASON_BYTES // 2)
    assert decode_reason("ABORT", encode_reason("ab" + "é" * MAX_REASON_BYTES))[:3] == "abé"
    with pytest.raises(BadBodyError):
        decode_reason("ABORT", bytes(MAX_REASON_BYTES + 1))


def test_roles_are_each_other_s_peer() -> None:
    """The two ends of a lane have different roles."""
    assert LaneRole.INITIATOR.peer is LaneRole.ACCEPTOR
    assert LaneRole.ACCEPTOR.peer is LaneRole.INITIATOR
