"""Frames and bookkeeping of the outage's measurement."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.switchover.outage_meter import (
    FRAME_BYTES,
    MARGIN_S,
    STEADY_REPLIES,
    Heard,
    OutageMeter,
    neighbours,
    parse_mac,
    probe_frame,
    read_frame,
    socket_filter,
)

GUEST, HOST, OTHER = parse_mac("52:54:00:aa:bb:01"), parse_mac("02:00:00:00:00:01"), parse_mac("02:00:00:00:00:02")
ADDRESS, FOREIGN = IPv4Address("10.88.0.10"), IPv4Address("192.0.2.1")
INTERVAL_S = 0.02

macs = st.binary(min_size=6, max_size=6)
addresses = st.ip_addresses(v=4).filter(lambda a: not (a.is_multicast or a.is_loopback) and int(a) != 0)


def reply(address: IPv4Address = ADDRESS, *, guest: bytes = GUEST, to: bytes = HOST) -> bytes:
    """An ARP reply as a guest sends it, padded as on a wire."""
    arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 2, guest, address.packed, to, bytes(4))
    return struct.pack("!6s6sH", to, guest, 0x0806) + arp + bytes(18)


def ipv4(source: IPv4Address, *, guest: bytes = GUEST) -> bytes:
    """An IPv4 packet that comes from the guest's card."""
    return struct.pack("!6s6sH", OTHER, guest, 0x0800) + b"\x45" + bytes(11) + source.packed + bytes(4)


def run_filter(program: bytes, frame: bytes) -> int:
    """What the kernel's classic BPF machine returns, for the instructions that are used."""
    instructions = list(struct.iter_unpack("@HBBI", program))
    accumulator = at = 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        match code:
            case 0x20:
                accumulator = int.from_bytes(frame[value : value + 4], "big")
            case 0x28:
                accumulator = int.from_bytes(frame[value : value + 2], "big")
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(code)


def measured(*events: tuple[float, str]) -> OutageMeter:
    """A meter that knows the guest and saw `sent` and `replied` at these times."""
    meter = OutageMeter(GUEST)
    meter.learn(ADDRESS)
    meter.next_probe(HOST)
    meter.received(reply(), 0.0)
    for at_s, kind in events:
        if kind == "sent":
            assert meter.next_probe(HOST) is not None
            meter.sent(at_s)
        else:
            meter.received(reply(), at_s)
    return meter


def test_a_probe_is_that_of_rfc_5227() -> None:
    """A request to the guest's MAC with the sender's address zero, byte by byte."""
    head = bytes.fromhex("525400aabb01 020000000001 0806")
    arp = bytes.fromhex("0001 0800 06 04 0001 020000000001 00000000 000000000000 0a58000a")
    assert probe_frame(HOST, GUEST, ADDRESS) == head + arp


@given(macs, macs, addresses)
def test_a_reply_is_read_as_it_was_written(guest: bytes, host: bytes, address: IPv4Address) -> None:
    """Address and asker, for every guest; from any other card nothing."""
    assert read_frame(reply(address, guest=guest, to=host), guest) == Heard(address, host)
    assert read_frame(reply(address, guest=guest, to=host), bytes(byte ^ 1 for byte in guest)) is None


@given(st.binary(max_size=80))
def test_no_frame_breaks_the_reader(tail: bytes) -> None:
    """Whatever a guest sends, and wherever it is cut."""
    for kind in (0x0806, 0x0800, 0x86DD):
        read_frame(OTHER + GUEST + kind.to_bytes(2, "big") + tail, GUEST)
    read_frame(tail, GUEST)


def test_a_guest_that_names_somebody_elses_card_is_not_believed() -> None:
    """In ARP the frame's source and the sender must be the same."""
    frame = reply(guest=OTHER)
    assert read_frame(frame[:6] + GUEST + frame[12:], GUEST) is None


@given(st.sampled_from([GUEST, HOST]), st.sampled_from([0x0806, 0x0800, 0x0835]), st.booleans())
def test_the_filter_lets_pass_what_the_guest_sent(source: bytes, kind: int, only_arp: bool) -> None:  # noqa: FBT001
    """Every frame of the guest's, or its ARP; nobody else's, nor one that is too like it."""
    program = socket_filter(GUEST, only_arp=only_arp)
    frame = OTHER + source + kind.to_bytes(2, "big") + bytes(46)
    wanted = source == GUEST and (kind == 0x0806 or not only_arp)
    assert run_filter(program, frame) == (FRAME_BYTES if wanted else 0)
    assert run_filter(program, OTHER + GUEST[:4] + bytes(2) + frame[12:]) == 0


def test_the_kernels_neighbour_table() -> None:
    """Only the guest's lines, only this bridge's."""
    table = """IP address       HW type     Flags       HW address            Mask     Device
10.88.0.10       0x1         0x2         52:54:00:aa:bb:01     *        vmbr0
10.88.0.11       0x1         0x2         52:54:00:aa:bb:02     *        vmbr0
10.99.0.10       0x1         0x2         52:54:00:aa:bb:01     *        vmbr1
"""
    assert neighbours(table, "52:54:00:AA:BB:01", "vmbr0") == (ADDRESS,)
    assert neighbours("", "52:54:00:aa:bb:01", "vmbr0") == ()


@pytest.mark.parametrize("text", ["", "52:54", "52:54:00:aa:bb:zz"])
def test_what_is_no_mac_address(text: str) -> None:
    """It raises."""
    with pytest.raises(ValueError, match=r"MAC|hex"):
        parse_mac(text)


def test_an_address_is_known_once_the_guest_answers_for_it() -> None:
    """A guest that routes sends foreign addresses; candidates take turns until one is answered."""
    meter = OutageMeter(GUEST)
    assert meter.next_probe(HOST) is None
    meter.received(ipv4(FOREIGN), 0.0)
    meter.received(ipv4(ADDRESS), 0.1)
    asked = [meter.next_probe(HOST) for _ in range(4)]
    assert asked == [probe_frame(HOST, GUEST, address) for address in (FOREIGN, ADDRESS) * 2]
    assert meter.address is None
    meter.received(reply(to=OTHER), 0.2)
    assert meter.address is None
    meter.received(reply(), 0.3)
    assert meter.address == ADDRESS
    assert meter.next_probe(HOST) == probe_frame(HOST, GUEST, ADDRESS)


def test_the_outage_is_from_the_first_unanswered_probe_to_the_next_reply() -> None:
    """Silences long before the pause do not count."""
    before = [(0.0, "sent"), (0.5, "replied"), (2.0, "sent"), (2.001, "replied")]
    gap = [(2.02, "sent"), (2.04, "sent"), (2.06, "sent"), (2.061, "replied")]
    meter = measured(*before, *gap, (2.08, "sent"), (2.081, "replied"))
    assert meter.outage_s(2.03) == pytest.approx(0.041)
    assert meter.outage_s(0.5 + MARGIN_S - 0.001) == pytest.approx(0.5)


def test_without_an_answer_on_both_sides_there_is_no_figure() -> None:
    """Never invented: nothing after the pause, nothing before it, nothing at all."""
    meter = measured((0.0, "sent"), (0.001, "replied"), (0.02, "sent"), (0.04, "sent"))
    assert meter.outage_s(0.03) is None
    assert meter.outage_s(0.0) is None
    assert OutageMeter(GUEST).outage_s(0.0) is None


def test_a_reply_that_is_read_late_ends_the_silence_when_it_came() -> None:
    """The kernel's time counts; a probe that went out in between is still unanswered."""
    meter = measured((0.0, "sent"), (0.3, "sent"), (0.001, "replied"), (0.35, "replied"))
    assert meter.outage_s(0.2) == pytest.approx(0.05)


def test_steady_after_some_replies() -> None:
    """One reply may be a last one."""
    events = [
        (at * 1.0 + late, kind) for at in range(STEADY_REPLIES) for late, kind in ((0.0, "sent"), (0.1, "replied"))
    ]
    assert measured(*events).steady(-1.0)
    assert not measured(*events).steady(0.5)


def test_hours_without_an_answer_take_no_memory() -> None:
    """The beginning of the silence is kept, its middle is not."""
    meter = measured((0.0, "sent"), (0.001, "replied"))
    for number in range(1, 20_000):
        meter.sent(number * INTERVAL_S)
    assert len(meter._unanswered) < 5000
    meter.received(reply(), 500.0)
    assert meter.outage_s(100.0) == pytest.approx(500.0 - INTERVAL_S)


@given(
    before_s=st.floats(0.5, 5.0),
    gap_s=st.floats(0.1, 20.0),
    trip_s=st.floats(0.0001, 0.015),
    trip_after_s=st.floats(0.0001, 0.2),
)
def test_a_silent_guest_is_measured_within_an_interval(
    before_s: float, gap_s: float, trip_s: float, trip_after_s: float
) -> None:
    """For every round trip before and after: at least the silence less one interval, at most it and one way there."""
    events = []
    for number in range(int((before_s + gap_s + 1.0) / INTERVAL_S)):
        at_s = number * INTERVAL_S
        events.append((at_s, "sent"))
        if at_s + trip_s < before_s:
            events.append((at_s + trip_s, "replied"))
        elif at_s > before_s + gap_s:
            events.append((at_s + trip_after_s, "replied"))
    outage_s = measured(*sorted(events)).outage_s(before_s + 0.05)
    assert outage_s is not None
    assert gap_s - INTERVAL_S <= outage_s <= gap_s + trip_s + trip_after_s + 2 * INTERVAL_S
