"""libvirt's RPC: frames cut anywhere, typed calls, errors. The byte strings were captured from libvirt 11.3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.libvirt_rpc.messages import (
    MAX_FRAME_BYTES,
    PONG_FRAME,
    REMOTE_PROGRAM,
    Call,
    FeatureCall,
    FinishCall,
    Frame,
    FrameParser,
    FrameType,
    OpenCall,
    ParamType,
    PlainCall,
    PrepareCall,
    Procedure,
    RpcError,
    Status,
    TypedParam,
    decode_call,
    decode_error,
    decode_finish_reply,
    encode_call,
    encode_error,
    encode_finish_reply,
)

OPEN_FRAME = bytes.fromhex(
    "00000038 20008086 00000001 00000001 00000000 00000002 00000000"
    "00000001 0000000e 71656d753a2f2f2f73797374656d 0000 00000000"
)
FEATURE_FRAME = bytes.fromhex("0000002020008086000000010000003c0000000000000001000000000000000a")

PARAMS = (
    TypedParam("destination_xml", ParamType.STRING, "<domain/>"),
    TypedParam("bandwidth", ParamType.ULLONG, 1000),
    TypedParam("migrate_disks", ParamType.STRING, "vda"),
    TypedParam("migrate_disks", ParamType.STRING, "vdb"),
    TypedParam("a", ParamType.INT, -1),
    TypedParam("b", ParamType.UINT, 2**32 - 1),
    TypedParam("c", ParamType.LLONG, -(2**40)),
    TypedParam("d", ParamType.DOUBLE, 0.5),
    TypedParam("e", ParamType.BOOLEAN, 1),
)
CALLS: list[Call] = [
    OpenCall("qemu:///system", 0),
    OpenCall(None, 1),
    FeatureCall(10),
    PrepareCall(PARAMS, b"<qemu-migration/>\0", 0x43),
    FinishCall(PARAMS, b"", 0x43, cancelled=False),
    FinishCall((), b"c", 0, cancelled=True),
    PlainCall(Procedure.AUTH_LIST),
    PlainCall(Procedure.CONNECT_CLOSE),
]


def test_captured_frames_are_read() -> None:
    """What libvirt sent is what we say that it sent, and is written back byte for byte."""
    first, second = FrameParser().receive_data(OPEN_FRAME + FEATURE_FRAME)
    assert OpenCall("qemu:///system", 0) == decode_call(first)
    assert FeatureCall(10) == decode_call(second)
    assert encode_call(OpenCall("qemu:///system", 0), 2).to_bytes() == OPEN_FRAME
    assert encode_call(FeatureCall(10), 1).to_bytes() == FEATURE_FRAME


@pytest.mark.parametrize("call", CALLS)
def test_calls_roundtrip(call: Call) -> None:
    """Every call that passes the gate can be written anew."""
    (frame,) = FrameParser().receive_data(encode_call(call, 9).to_bytes())
    assert frame.serial == 9
    assert call == decode_call(frame)


@given(st.lists(st.integers(1, 40), min_size=1))
def test_frames_survive_any_cut(sizes: list[int]) -> None:
    """However the stream is cut, the frames are the same."""
    stream = b"".join(encode_call(call, serial).to_bytes() for serial, call in enumerate(CALLS))
    parser, frames, at, turn = FrameParser(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        frames += parser.receive_data(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert [decode_call(frame) for frame in frames] == CALLS
    assert not parser._buffer, "nothing is left over"


@pytest.mark.parametrize("length", [0, 27, MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_an_impossible_length_is_rejected(length: int) -> None:
    """A length that no frame has is refused before anything is buffered for it."""
    with pytest.raises(RpcError):
        FrameParser().receive_data(length.to_bytes(4, "big"))


def test_an_unknown_procedure_is_rejected() -> None:
    """DOMAIN_CREATE_XML and its like are no call here."""
    with pytest.raises(RpcError, match="10"):
        decode_call(Frame(REMOTE_PROGRAM, 10, FrameType.CALL, 1, Status.OK, b""))


@pytest.mark.parametrize("call", CALLS[:6])
def test_a_cut_payload_is_rejected(call: Call) -> None:
    """A call whose payload ends early, or goes on, is an error."""
    frame = encode_call(call, 1)
    for payload in (frame.payload[:-1], frame.payload + b"\0\0\0\0"):
        with pytest.raises(RpcError):
            decode_call(Frame(frame.program, frame.procedure, frame.type, 1, 0, payload))


def test_too_many_parameters_are_rejected() -> None:
    """A count is bounded before it is believed."""
    with pytest.raises(RpcError):
        decode_call(Frame(REMOTE_PROGRAM, Procedure.MIGRATE_PREPARE3_PARAMS, 0, 1, 0, b"\0\0\1\0"))


def test_errors_roundtrip() -> None:
    """The reason that we give is the reason that libvirt reads."""
    call = encode_call(FeatureCall(1), 7)
    reply = encode_error(call, "not here")
    assert (reply.status, reply.serial) == (Status.ERROR, 7)
    assert (decode_error(reply).message, decode_error(reply).code) == ("not here", 29)


def test_a_finish_reply_names_the_domain() -> None:
    """Name and UUID of who runs are read from the reply."""
    assert ("web", bytes(range(16))) == decode_finish_reply(encode_finish_reply(3, "web", bytes(range(16))))
    with pytest.raises(RpcError):
        decode_finish_reply(PONG_FRAME)
