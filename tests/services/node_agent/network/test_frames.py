"""ARP and RARP frames: built to the byte, read without surprises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.network.frames import (
    BROADCAST,
    NO_MAC,
    Arp,
    ArpOperation,
    FrameError,
    address_bytes,
    arp_reply,
    build_arp,
    build_ethernet,
    gratuitous_arps,
    is_group,
    mac_bytes,
    parse_arp,
    parse_ethernet,
    reverse_arp,
)

GUEST, ROUTER = mac_bytes("52:54:00:aa:bb:01"), mac_bytes("0a:58:a9:fe:01:01")
ADDRESS = address_bytes("10.81.1.7")
hosts = st.binary(min_size=6, max_size=6).map(lambda mac: bytes((mac[0] & 0xFE,)) + mac[1:])
addresses = st.binary(min_size=4, max_size=4)
arps = st.builds(
    Arp,
    destination=st.binary(min_size=6, max_size=6),
    source=hosts,
    operation=st.sampled_from(ArpOperation),
    sender_mac=st.binary(min_size=6, max_size=6),
    sender=addresses,
    target_mac=st.binary(min_size=6, max_size=6),
    target=addresses,
)


@given(arps, st.binary(max_size=18))
def test_what_was_built_is_read(arp: Arp, padding: bytes) -> None:
    """All fields come back, also from a frame that was padded to Ethernet's least size."""
    frame = build_arp(arp)
    assert len(frame) == 42
    assert parse_arp(frame + padding) == arp


@given(st.binary(max_size=80))
def test_strange_bytes_raise_one_error_only(data: bytes) -> None:
    """Whatever comes, the readers return or raise FrameError."""
    for read in (parse_ethernet, parse_arp):
        try:
            read(data)
        except FrameError:
            continue


@given(arps, st.integers(0, 41), st.integers(0, 255))
def test_a_changed_byte_raises_one_error_only(arp: Arp, where: int, value: int) -> None:
    """A frame that is nearly right is read or refused by FrameError."""
    frame = bytearray(build_arp(arp))
    frame[where] = value
    try:
        assert build_arp(parse_arp(bytes(frame))) == bytes(frame)
    except FrameError:
        return


def test_an_announcement_to_the_byte() -> None:
    """A gratuitous request names no target MAC, a gratuitous reply the broadcast one; both name the address twice."""
    request, reply = gratuitous_arps(GUEST, ADDRESS)
    assert request == bytes.fromhex(
        "ffffffffffff525400aabb0108060001080006040001525400aabb010a5101070000000000000a510107"
    )
    assert reply == bytes.fromhex(
        "ffffffffffff525400aabb0108060001080006040002525400aabb010a510107ffffffffffff0a510107"
    )
    assert parse_ethernet(gratuitous_arps(ROUTER, ADDRESS, to=GUEST)[0]).destination == GUEST


def test_rarp_as_qemu_sends_it() -> None:
    """The bytes that QEMU's announcement has: RARP request, the guest's MAC twice, no address."""
    assert reverse_arp(GUEST) == bytes.fromhex(
        "ffffffffffff525400aabb0180350001080006040003525400aabb0100000000525400aabb0100000000"
    )
    assert parse_arp(reverse_arp(GUEST)).is_reverse


def test_an_answer_goes_to_who_asked() -> None:
    """The answer has the asked address with the MAC that is given, and is for the asker alone."""
    asked = Arp(
        destination=BROADCAST,
        source=GUEST,
        operation=ArpOperation.REQUEST,
        sender_mac=GUEST,
        sender=ADDRESS,
        target_mac=NO_MAC,
        target=address_bytes("10.81.1.1"),
    )
    answer = parse_arp(arp_reply(asked, ROUTER))
    assert (answer.operation, answer.destination, answer.source) == (ArpOperation.REPLY, GUEST, ROUTER)
    assert (answer.sender_mac, answer.sender) == (ROUTER, address_bytes("10.81.1.1"))
    assert (answer.target_mac, answer.target) == (GUEST, ADDRESS)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        build_ethernet(GUEST, ROUTER, 0x0100) + bytes(40),
        build_ethernet(GUEST, BROADCAST, 0x0806) + bytes(40),
        build_ethernet(GUEST, ROUTER, 0x0800) + bytes(40),
        build_ethernet(GUEST, ROUTER, 0x0806) + bytes(27),
        build_ethernet(GUEST, ROUTER, 0x0806) + bytes(28),
        reverse_arp(GUEST)[:12] + b"\x08\x06" + reverse_arp(GUEST)[14:],
    ],
    ids=["empty", "length", "from a group", "other type", "short", "other network", "RARP as ARP"],
)
def test_what_is_no_arp(frame: bytes) -> None:
    """Refused by the one error."""
    with pytest.raises(FrameError):
        parse_arp(frame)


def test_texts() -> None:
    """MAC and IP addresses are read from text; what is none raises the one error."""
    assert mac_bytes("52:54:00:aa:bb:01").hex() == "525400aabb01"
    assert address_bytes("fd00:81:1::7").hex() == "fd000081000100000000000000000007"
    assert is_group(BROADCAST)
    assert not is_group(GUEST)
    for read, text in ((mac_bytes, "52:54"), (mac_bytes, "xx"), (address_bytes, "10.1")):
        with pytest.raises(FrameError):
            read(text)
