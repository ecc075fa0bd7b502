"""Asking on a VLAN: the frames, and the tag that the kernel tells beside them."""

import struct

import pytest

from deploy.labkit.vlan_probe import Answer, reply, request, tag_beside

ASKER = bytes.fromhex("020000000001")
GUEST = bytes.fromhex("525400000001")
ADDRESS = "10.88.0.10"


def answer(*, kind: int = 2, to: bytes = ASKER, address: bytes = bytes((10, 88, 0, 10))) -> bytes:
    """A guest's frame, after the kernel took the tag out."""
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, kind, GUEST, address, to, bytes(4))
    return to + GUEST + b"\x08\x06" + body


def test_a_request_carries_its_tag_and_claims_no_address() -> None:
    """Without a VLAN it is an ordinary one."""
    tagged, plain = request(ASKER, ADDRESS, 42), request(ASKER, ADDRESS, None)
    assert tagged[12:18] == b"\x81\x00\x00\x2a\x08\x06"
    assert plain == tagged[:12] + tagged[16:]
    assert plain[28:32] == bytes(4)
    assert plain[-4:] == bytes((10, 88, 0, 10))


def test_an_answer_is_the_guests_with_its_tag() -> None:
    """Of the address that was asked for, to whoever asked."""
    assert reply(answer(), 42, ASKER, ADDRESS) == Answer("52:54:00:00:00:01", 42)


@pytest.mark.parametrize(
    "frame",
    [
        answer(kind=1),
        answer(to=bytes(6)),
        answer(address=bytes((10, 88, 0, 11))),
        answer()[:30],
        answer().replace(b"\x08\x06", b"\x08\x00", 1),
    ],
)
def test_other_frames_are_no_answers(frame: bytes) -> None:
    """Requests, answers to others and about others, and what is cut short."""
    assert reply(frame, 42, ASKER, ADDRESS) is None


def test_the_tag_beside_a_frame_is_read() -> None:
    """Without its priority; a frame without one has none, and other things may stand beside it."""
    tagged = struct.pack("@IIIHHHH", 1 << 4, 0, 0, 0, 0, 0x602A, 0x8100)
    assert tag_beside([(1, 2, b""), (263, 8, tagged)]) == 42
    assert tag_beside([(263, 8, struct.pack("@IIIHHHH", 0, 0, 0, 0, 0, 0, 0))]) is None
    assert tag_beside([]) is None
