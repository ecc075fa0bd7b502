"""Whether somebody on a segment has an address: asked without claiming it, answered by real hosts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from services.node_agent.network.address_probe import build_probe, read_answer, who_has
from services.node_agent.network.frames import gratuitous_arps, parse_arp, reverse_arp
from services.node_agent.network.icmpv6 import parse_neighbour, unsolicited_advertisement
from tests.support.own_network import needs_root, own_network

MAC = bytes.fromhex("020000000001")
FOUR, SIX = bytes((10, 81, 1, 10)), bytes.fromhex("fd000081000100000000000000000010")
OTHER_MAC = "52:54:00:00:00:99"


def test_a_probe_claims_nothing() -> None:
    arp = parse_arp(build_probe(MAC, FOUR))
    assert (arp.sender, arp.target, arp.operation) == (bytes(4), FOUR, 1)
    asked = parse_neighbour(build_probe(MAC, SIX))
    assert (asked.from_address, asked.target, asked.link, asked.advertises) == (bytes(16), SIX, None, False)
    assert read_answer(build_probe(MAC, FOUR)) is None
    assert read_answer(build_probe(MAC, SIX)) is None


def test_what_claims_an_address() -> None:
    assert [read_answer(frame) for frame in gratuitous_arps(MAC, FOUR)] == [(FOUR, MAC)] * 2
    assert read_answer(unsolicited_advertisement(MAC, SIX)) == (SIX, MAC)
    assert read_answer(reverse_arp(MAC)) is None
    assert read_answer(b"?") is None


@pytest.fixture
def segment() -> Iterator[None]:
    """A bridge, and a host on it that has an address of each family."""
    with own_network():
        far = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        with own_network():
            path = f"/proc/{os.getpid()}/fd/{far}"
            commands = (
                "link add vmbr0 type bridge forward_delay 0",
                f"link add port0 type veth peer name eth0 netns {path}",
                "link set port0 master vmbr0 up",
                "link set vmbr0 up",
            )
            for command in commands:
                subprocess.run(["ip", *command.split()], check=True, timeout=10)
            inside = (
                f"link set eth0 address {OTHER_MAC}",
                "link set eth0 up",
                "address add 10.81.1.10/24 dev eth0",
                "address add fd00:81:1::10/64 dev eth0 nodad",
            )
            for command in inside:
                enter = ["nsenter", f"--net={path}", "ip", *command.split()]
                subprocess.run(enter, check=True, timeout=10)
            yield
        os.close(far)


@needs_root
@pytest.mark.usefixtures("segment")
async def test_who_has_an_address_answers() -> None:
    """And nobody else; a bridge that is not there is an error."""
    found = await who_has("vmbr0", ["10.81.1.10", "10.81.1.11", "fd00:81:1::10", "fd00:81:1::11"], within_s=2)
    assert found == {"10.81.1.10": {OTHER_MAC}, "fd00:81:1::10": {OTHER_MAC}}
    assert await who_has("vmbr0", []) == {}
    with pytest.raises(OSError, match="No such device"):
        await who_has("vmbr9", ["10.81.1.10"])
