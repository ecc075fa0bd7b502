"""tests/bench/network_outage: what a frame is, and what frames and answers say of an outage."""

from __future__ import annotations

import struct

import pytest

from tests.bench.network_outage_bench.__main__ import parse, table
from tests.bench.network_outage_bench.frames_seen import Frame, Kind, kind_of
from tests.bench.network_outage_bench.timeline import Measured, outage_of

MS = 1_000_000
ETHERNET = bytes(12)


def ipv4(source: int, destination: int, protocol: int = 17) -> bytes:
    """An IPv4 packet between two ports."""
    return (
        ETHERNET
        + b"\x08\x00"
        + bytes(9)
        + bytes([protocol])
        + bytes(10)
        + struct.pack(">HHHH", source, destination, 8, 0)
    )


def ipv6(source: int, destination: int, protocol: int = 17) -> bytes:
    """An IPv6 packet between two ports."""
    return (
        ETHERNET
        + b"\x86\xdd"
        + bytes(6)
        + bytes([protocol])
        + bytes(33)
        + struct.pack(">HHHH", source, destination, 8, 0)
    )


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (ipv4(7777, 7), Kind.REQUEST4),
        (ipv4(7, 7777), Kind.REPLY4),
        (ipv6(7777, 7), Kind.REQUEST6),
        (ipv6(7, 7777), Kind.REPLY6),
        (ipv4(40_000, 7), None),
        (ipv4(7777, 7, 6), None),
        (ipv6(7777, 7, 6), None),
        (ipv6(0, 0, 58), Kind.DISCOVERY),
        (ETHERNET + b"\x08\x06" + bytes(28), Kind.ARP),
        (ETHERNET + b"\x80\x35" + bytes(28), Kind.RARP),
        (ETHERNET + b"\x08\x00", None),
    ],
)
def test_kinds_of_frames(frame: bytes, kind: Kind | None) -> None:
    """Those of another client are none."""
    assert kind_of(frame) is kind


def frame(at_ms: float, host: str, kind: Kind, *, out: bool = False) -> Frame:
    """At the guest's device."""
    return Frame(round(at_ms * MS), host, "vnet0", out, kind)


FRAMES = [
    frame(0, "alpha", Kind.REPLY4),
    frame(1000, "alpha", Kind.REPLY4),
    frame(1020, "beta", Kind.REQUEST4, out=True),
    frame(1400, "beta", Kind.RARP),
    frame(1550, "beta", Kind.ARP),
    frame(1600, "beta", Kind.REPLY4),
]


def test_an_outage_falls_apart() -> None:
    """Other silences, before and long after, are not the switchover's."""
    answered = [0, 900 * MS, 1010 * MS, *(each * MS for each in range(1620, 2620, 2)), 9_000 * MS]
    found = outage_of("ipv4", FRAMES, answered, 2.0)
    assert found is not None
    assert (found.outage_ms, found.silent_ms, found.network_ms) == (608.0, 600.0, 8.0)
    assert (found.asked_ms, found.announced_ms, found.spoke_ms) == (20.0, 400.0, 550.0)
    port = Measured("translate", 500.0, {"ipv4": found})
    assert port.excess_ms == {"ipv4": 108.0}
    assert table([port]).row_count == 1


def test_a_guest_that_never_replied_has_no_outage() -> None:
    """Nor one that nobody heard."""
    assert outage_of("ipv6", FRAMES, [0], 2.0) is None
    assert outage_of("ipv4", FRAMES[:-1], [0], 2.0) is None
    assert outage_of("ipv4", FRAMES, [0], 2.0) is None


def test_command_line() -> None:
    """All modes but the one without a network of its own."""
    options = parse([])
    assert (options.runs, [str(mode) for mode in options.modes]) == (1, ["extend", "translate", "announce", "anchor"])
    with pytest.raises(SystemExit):
        parse(["--modes", "cable"])
