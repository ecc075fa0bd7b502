"""Probes over a real wire between two network namespaces: sizes, sources that are not the host's, and filters."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from services.node_agent.network.paths.probe import Question, Target, datagrams, findings
from services.node_agent.network.paths.sockets import PathListener, own_address, own_addresses, send_datagrams
from tests.support.own_network import needs_root, own_network

pytestmark = needs_root
HERE = ("198.51.100.1", "2001:db8::1")
SOURCES = ("10.81.1.10", "fd00:81:1::10")
FILTER = """table netdev f { chain out { type filter hook egress device eth0 priority 0;
  %s
}
}
"""


def ip(*commands: str) -> None:
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True, timeout=10)


@pytest.fixture
def listener() -> Iterator[PathListener]:
    """At the donor's end of a wire; the test is at the recipient's, which has no route to the VM."""
    with own_network():
        ip("link add up0 type veth peer name far")
        with closing(PathListener()) as found:
            here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            ip("address add 198.51.100.1/24 dev up0", "link set up0 up", "address add 2001:db8::1/64 dev up0 nodad")
            with own_network():
                inside = f"/proc/{os.getpid()}/fd/{os.open('/proc/thread-self/ns/net', os.O_RDONLY)}"
                move = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{here}"]
                move += ["ip", "link", "set", "far", "netns", inside, "name", "eth0"]
                subprocess.run(move, check=True, timeout=10)
                ip("address add 198.51.100.2/24 dev eth0", "link set eth0 up")
                ip("address add 2001:db8::2/64 dev eth0 nodad")
                yield found
                os.close(int(inside.rpartition("/")[2]))
            os.close(here)


def probe(listener: PathListener) -> tuple[str, ...]:
    """The codes of what is found."""
    targets = tuple(Target(address=address, port=listener.port) for address in HERE)
    question = Question(nonce="0123456789abcdef", targets=targets)
    came = set()
    for _ in range(2):  # the first ones wait for the neighbour, and some are dropped
        for target in targets:
            send_datagrams(question, target, datagrams(target, 1500, SOURCES))
        subprocess.run(["sleep", "0.3"], check=True)
        came |= listener.heard(question)
    return findings(came, targets, 1500, SOURCES)


def test_a_path_that_carries_all(listener: PathListener) -> None:
    assert probe(listener) == ()
    assert own_address("198.51.100.1") == "198.51.100.2"
    assert own_address("203.0.113.1") is None


def test_a_black_hole(listener: PathListener) -> None:
    """Large packets are dropped on their way, and nobody says so."""
    subprocess.run(["nft", "-f", "-"], input=(FILTER % "meta length > 1450 drop").encode(), check=True, timeout=10)
    assert [each.partition(" do ")[0] for each in probe(listener)] == [
        "path_black_hole: packets of more than 1420 bytes",
        "path_black_hole: packets of more than 1420 bytes",
    ]


def test_an_uplink_that_is_narrower(listener: PathListener) -> None:
    """This host itself refuses to send them whole."""
    ip("link set eth0 mtu 1400")
    assert [each.partition(":")[0] for each in probe(listener)] == ["path_black_hole", "path_black_hole"]


def test_foreign_sources_are_filtered(listener: PathListener) -> None:
    rules = "ip saddr != 198.51.100.0/24 drop; ip6 saddr fd00::/8 drop"
    subprocess.run(["nft", "-f", "-"], input=(FILTER % rules).encode(), check=True, timeout=10)
    assert [each.partition(" do ")[0] for each in probe(listener)] == [
        "source_filtered: packets from 10.81.1.10",
        "source_filtered: packets from fd00:81:1::10",
    ]


def test_where_this_node_can_be_reached(listener: PathListener) -> None:
    """Said by its lanes; else as it sends to the other one, or to the world; no names, and one per family."""
    assert listener.port >= 1024
    assert own_addresses(["192.0.2.9:4000", "[2001:db8::9]:4000", "192.0.2.8:1"], []) == ("192.0.2.9", "2001:db8::9")
    assert own_addresses(["node.example:4000"], ["198.51.100.1:4000"]) == ("198.51.100.2",)
    assert own_addresses([], []) == ()
    ip("route add default via 198.51.100.1")
    assert own_addresses([], []) == ("198.51.100.2",)
