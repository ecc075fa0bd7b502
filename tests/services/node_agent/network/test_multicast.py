"""Queries for multicast groups: valid by their checksums, for the guest alone, and answered by a kernel."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from services.node_agent.network.frames import parse_ethernet
from services.node_agent.network.icmpv6 import ICMPV6, internet_checksum
from services.node_agent.network.multicast import igmp_query, mld_query
from services.node_agent.network.packets import send_frames
from tests.support.own_network import needs_root, own_network

GUEST = bytes.fromhex("525400000010")
ASKER = bytes.fromhex("505400000010")


def test_igmp() -> None:
    frame = parse_ethernet(igmp_query(GUEST, ASKER))
    header, query = frame.payload[:24], frame.payload[24:]
    assert (frame.destination, frame.source) == (GUEST, ASKER)
    assert internet_checksum(header) == 0
    assert internet_checksum(query) == 0
    assert (header[8], header[9], header[12:16], query[0]) == (1, 2, bytes(4), 0x11)


def test_mld() -> None:
    frame = parse_ethernet(mld_query(GUEST, ASKER))
    header, query = frame.payload[:40], frame.payload[48:]
    pseudo = header[8:40] + len(query).to_bytes(4) + bytes((0, 0, 0, ICMPV6))
    assert frame.destination == GUEST
    assert internet_checksum(pseudo + query) == 0
    assert header[4:6] == (8 + len(query)).to_bytes(2)
    assert (header[6], header[7], query[0]) == (0, 1, 130)


@pytest.fixture
def wire() -> Iterator[socket.socket]:
    """Two devices of one wire; what the first, `guest0`, sends is heard at the second."""
    with own_network():
        for command in (
            "link add wire0 type veth peer name guest0",
            "link set guest0 address 52:54:00:00:00:10",
            "link set wire0 up",
            "address add 10.81.1.10/24 dev guest0",
            "link set guest0 up",
            "address add fd00:81:1::10/64 dev guest0 nodad",
        ):
            subprocess.run(["ip", *command.split()], check=True, timeout=10)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as heard:
            heard.bind(("wire0", 3))
            heard.settimeout(5)
            yield heard


def hears(heard: socket.socket, what: bytes, at: int) -> bool:
    """Whether a frame comes with these bytes at this place."""
    try:
        while True:
            if heard.recv(2000)[at : at + len(what)] == what:
                return True
    except TimeoutError:
        return False


@needs_root
def test_a_kernel_answers_both(wire: socket.socket) -> None:
    """Linux as the guest reports its groups: a v3 report to 224.0.0.22, a v2 report by ICMPv6."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
        group = socket.inet_aton("239.1.2.3") + socket.inet_aton("10.81.1.10")
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        assert hears(wire, b"\x22", 38)  # its own, at joining
        send_frames("wire0", [igmp_query(GUEST, ASKER)])
        assert hears(wire, b"\x22", 38)
    send_frames("wire0", [mld_query(GUEST, ASKER)])
    assert hears(wire, b"\x8f", 62)
