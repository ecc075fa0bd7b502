"""A network extension between real bridges, with real kernels as guest, gateway and neighbours; two processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from services.node_agent.network.extension.filter import CardFilter
from services.node_agent.network.extension.verdict import PASSED, Towards
from services.node_agent.network.frames import BROADCAST, NO_IPV4, address_bytes, build_ethernet
from services.node_agent.network.icmpv6 import link_local, multicast_mac
from shared.page_stream.bodies import LaneRole
from tests.bench.extension_bench import traffic
from tests.support import card_frames
from tests.support.card_frames import CARD, FAR_4, FAR_6, GUEST, OTHER, OTHER_4, OTHER_6, ROUTER
from tests.support.extension_ends import (
    BRIDGES,
    GUEST_4,
    GUEST_6,
    ROUTER_4,
    EndProcess,
    Networks,
    direct,
    extension_ends,
    networks,
    start_end,
)
from tests.support.lane_credentials import Pair, make_pair
from tests.support.namespaces import inside, ip, namespaces

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ECHO_PORT = 7007
UNSEEN = 4
"""Of the foreign frames: those that a bridge keeps, and those for a MAC that it knows elsewhere."""
_ALL_FRAMES = 3
_OUTGOING = 4


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two node agents."""
    return make_pair(Path(tmp_path_factory.mktemp("lane")))


@pytest.fixture
def where() -> Iterator[Networks]:
    """Namespaces of the test's own."""
    with networks() as made:
        yield made


@contextmanager
def serving(namespace: str) -> Iterator[None]:
    """A server of `traffic` in a namespace."""
    command = ["ip", "netns", "exec", namespace, sys.executable, traffic.__file__, "serve", str(ECHO_PORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.terminate()


def connect(namespace: str, host: str) -> socket.socket:
    """An echoing connection from a namespace to a server."""
    connection = inside(namespace, lambda: socket.create_connection((host, ECHO_PORT), timeout=20))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(b"e0000")
    return connection


def is_alive(connection: socket.socket) -> bool:
    """A byte goes there and back."""
    connection.sendall(b"x")
    return connection.recv(1) == b"x"


def ping(namespace: str, host: str) -> bool:
    """Whether a host answers."""
    command = ["ip", "netns", "exec", namespace, "busybox", "ping", "-c", "1", "-W", "2", host]
    return subprocess.run(command, check=False, capture_output=True, timeout=10).returncode == 0


class Capture:
    """All that comes out of a device into its bridge; read by a thread."""

    def __init__(self, namespace: str, device: str) -> None:
        self.frames: list[bytes] = []
        self._socket = inside(namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, _ALL_FRAMES << 8))
        self._socket.bind((device, _ALL_FRAMES))
        self._socket.settimeout(0.2)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                frame, (_, _, kind, *_) = self._socket.recvfrom(1 << 17)
            except TimeoutError:
                continue
            if kind != _OUTGOING:
                self.frames.append(frame)

    def close(self) -> None:
        """No more."""
        self._over.set()
        self._thread.join()
        self._socket.close()


def test_tcp_crosses_both_ways_in_both_families(credentials: Pair, where: Networks) -> None:
    """Large sends keep their segments' headers across; every byte comes; the ends count them."""
    with extension_ends(where, direct(), credentials) as ends, serving(where.guest):
        assert ping(where.guest, ROUTER_4)
        for host in (GUEST_4, GUEST_6):
            for word in ("send", "take"):
                found = inside(where.donor, partial(traffic.ask, word, host, ECHO_PORT, 0.5))
                assert found["bytes"] > 100_000
        counts = {role: end.stop() for role, end in ends.items()}
    for mine, other in ((LaneRole.INITIATOR, LaneRole.ACCEPTOR), (LaneRole.ACCEPTOR, LaneRole.INITIATOR)):
        assert counts[mine]["out_bytes"] >= counts[other]["into_bytes"] > 200_000
        assert counts[mine]["out_bytes"] > 2000 * counts[mine]["out_frames"], "sends were cut to packets"


def test_nothing_of_others_crosses(credentials: Pair, where: Networks) -> None:
    """A neighbour of the donor's network floods it; at the recipient arrives only what is for the card, and is seen."""
    with namespaces("other") as (other,):
        ip("-n", other, "link", "add", "eth0", "type", "veth", "peer", "name", "vnet9", "netns", where.donor)
        ip("-n", where.donor, "link", "set", "vnet9", "master", "vmbr0", "up")
        ip("-n", other, "addr", "add", "10.81.1.8/24", "dev", "eth0")
        ip("-n", other, "addr", "add", "fd00:81:1::8/64", "dev", "eth0", "nodad")
        ip("-n", other, "link", "set", "eth0", "up")
        with extension_ends(where, direct(), credentials) as ends:
            with closing(Capture(where.recipient, "vmx0")) as into, closing(Capture(where.donor, "vmx0")) as back:
                assert ping(where.guest, ROUTER_4)
                for host in (ROUTER_4, "10.81.1.77", "fd00:81:1::1", "fd00:81:1::77"):
                    ping(other, host)
                ping(other, "10.81.1.255")
                assert ping(other, GUEST_4)
                assert ping(other, GUEST_6)
                assert ping(where.guest, "10.81.1.8")
            dropped = ends[LaneRole.INITIATOR].stop()["dropped"]
    judge = CardFilter(CARD)
    assert len(into.frames) > 4
    assert {judge.judge(frame, Towards.RECIPIENT) for frame in into.frames} == {PASSED}
    assert {frame[6:12] for frame in back.frames} == {GUEST}
    assert dropped["other_address"] > 0
    assert ping(where.guest, ROUTER_4) is False, "it lives by the extension alone"


def foreign_frames() -> list[bytes]:
    """All that a neighbour's VM sends which is not for the card: to groups, to others, to its MAC with other addresses,
    about others, and what pretends.
    """
    mdns_4, mdns_6 = address_bytes("224.0.0.251"), address_bytes("ff02::fb")
    query = card_frames.udp(5353, 5353, b"q" * 40)
    return [
        card_frames.ipv4(BROADCAST, OTHER, OTHER_4, b"\xff" * 4, query, 17),
        card_frames.ipv4(BROADCAST, OTHER, OTHER_4, address_bytes("10.81.1.255"), query, 17),
        card_frames.ipv4(bytes.fromhex("01005e0000fb"), OTHER, OTHER_4, mdns_4, query, 17),
        card_frames.ipv6(multicast_mac(mdns_6), OTHER, OTHER_6, mdns_6, query, 17),
        card_frames.ipv4(ROUTER, OTHER, OTHER_4, FAR_4, query, 17),
        card_frames.ipv4(GUEST, OTHER, OTHER_4, FAR_4, query, 17),
        card_frames.ipv4(GUEST, OTHER, OTHER_4, mdns_4, query, 17),
        card_frames.ipv4(GUEST, OTHER, OTHER_4, b"\xff" * 4, query, 17),
        card_frames.ipv6(GUEST, OTHER, OTHER_6, FAR_6, query, 17),
        card_frames.ipv6(GUEST, OTHER, OTHER_6, mdns_6, query, 17),
        card_frames.ipv4(BROADCAST, OTHER, NO_IPV4, b"\xff" * 4, card_frames.dhcp(68, 67, OTHER), 17),
        card_frames.ipv4(BROADCAST, OTHER, OTHER_4, b"\xff" * 4, card_frames.dhcp(67, 68, OTHER), 17),
        card_frames.who_has(OTHER, OTHER_4, FAR_4),
        card_frames.who_has(OTHER, OTHER_4, OTHER_4),
        card_frames.who_has(OTHER, OTHER_4, FAR_4, to=GUEST),
        card_frames.who_has(OTHER, card_frames.GUEST_4, card_frames.GUEST_4),
        card_frames.solicit(OTHER, OTHER_6, FAR_6),
        card_frames.advertise(GUEST, OTHER, card_frames.ROUTER_6),
        build_ethernet(bytes.fromhex("0180c2000000"), OTHER, 0x0027) + bytes(60),
        build_ethernet(bytes.fromhex("0180c200000e"), OTHER, 0x88CC) + bytes(60),
        build_ethernet(GUEST, OTHER, 0x8100) + bytes(60),
        build_ethernet(GUEST, OTHER, 0x88B5) + bytes(60),
    ]


def concerns_the_guest(frame: bytes) -> bool:
    """Told without the extension's own filter: whether its packet is for the guest's addresses, or asks for them."""
    own = (card_frames.GUEST_4, card_frames.GUEST_6, link_local(GUEST))
    match frame[12:14]:
        case b"\x08\x00":
            return frame[:6] == GUEST and frame[30:34] == card_frames.GUEST_4
        case b"\x08\x06":
            return frame[38:42] == card_frames.GUEST_4 and frame[28:32] != card_frames.GUEST_4
        case b"\x86\xdd":
            return frame[38:54] in own or (frame[54:55] == b"\x87" and frame[62:78] in own)
        case _:
            return False


def test_a_neighbour_that_sends_all_it_can_sends_nothing_across(credentials: Pair, where: Networks) -> None:
    """Broadcast, multicast, other hosts' packets, the card's MAC with other addresses: none arrives at the recipient,
    and none is in what the donor's end sends; while the same neighbour's echo requests to the guest are answered.
    """
    with namespaces("other") as (other,):
        ip("-n", other, "link", "add", "eth0", "address", OTHER.hex(":"), "type", "veth", "peer", "vnet9")
        ip("-n", other, "link", "set", "vnet9", "netns", where.donor)
        ip("-n", where.donor, "link", "set", "vnet9", "master", "vmbr0", "up")
        ip("-n", other, "addr", "add", "10.81.1.8/24", "dev", "eth0")
        ip("-n", other, "link", "set", "eth0", "up")
        with extension_ends(where, direct(), credentials) as ends:
            assert ping(where.guest, ROUTER_4)
            with closing(Capture(where.recipient, "vmx0")) as into:
                with closing(inside(other, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))) as sender:
                    sender.bind(("eth0", 0))
                    for _ in range(10):
                        for frame in foreign_frames():
                            sender.send(frame.ljust(60, b"\0"))
                assert ping(other, GUEST_4)
            sent = ends[LaneRole.INITIATOR].stop()
    assert len(into.frames) >= 1
    assert [frame.hex() for frame in into.frames if not concerns_the_guest(frame)] == []
    assert sum(sent["dropped"].values()) >= 10 * (len(foreign_frames()) - UNSEEN)
    assert sent["out_frames"] <= len(into.frames) + 20


@pytest.mark.parametrize("role", list(LaneRole))
def test_a_connection_survives_the_death_of_an_end(credentials: Pair, where: Networks, role: LaneRole) -> None:
    """The process is killed: its device is gone, with it nothing is left; a new one goes on within seconds."""
    way = direct()
    with extension_ends(where, way, credentials) as ends, serving(where.guest):
        assert ping(where.guest, ROUTER_4)
        with closing(connect(where.donor, GUEST_4)) as connection:
            assert is_alive(connection)
            ends[role].kill()
            devices = ["ip", "-n", where.of(role), "link", "show", "vmx0"]
            assert subprocess.run(devices, check=False, capture_output=True).returncode != 0
            ends[role] = start_end(role, where, way, credentials)
            ends[role].wait_connected()
            began_s = time.monotonic()
            assert is_alive(connection)
            assert time.monotonic() - began_s < 10
            assert isinstance(ends[role], EndProcess)


def test_a_guest_that_moves_keeps_its_connection(credentials: Pair, where: Networks) -> None:
    """It is on the donor's bridge first; with its first frame from the recipient's the donor's bridge follows it."""
    donor, recipient = where.donor, where.recipient
    ip("-n", recipient, "link", "set", "vnet0", "netns", donor)
    ip("-n", donor, "link", "set", "vnet0", "master", "vmbr0", "up")
    with (
        extension_ends(where, direct(), credentials),
        serving(where.guest),
        closing(connect(donor, GUEST_4)) as connection,
    ):
        assert is_alive(connection)
        ip("-n", donor, "link", "set", "vnet0", "netns", recipient)
        began_s = time.monotonic()
        ip("-n", recipient, "link", "set", "vnet0", "master", BRIDGES[LaneRole.ACCEPTOR], "up")
        assert is_alive(connection)
        assert time.monotonic() - began_s < 5
        assert ping(where.guest, ROUTER_4)
