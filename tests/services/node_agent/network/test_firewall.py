"""A card's guard in a real kernel: own addresses only, own rules, and nothing of this host but an echo."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator

import pytest

from services.node_agent.network.firewall import ROUTED, guard_table, table_name
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.nft import Nft
from services.node_agent.network.plan import Announced, own_bridges, recipient_prepares, recipient_routes
from shared.messages.network import FirewallRule, NetworkMode
from tests.services.node_agent.network.plans import BRIDGE, CARE_OF, GATEWAY_MAC, GUEST_MAC, PORT, plan
from tests.support.own_network import needs_root, own_network

GUEST, OTHER, FAR = "10.81.1.10", "10.81.1.11", "198.51.100.1"


def test_names_tell_cards_apart() -> None:
    assert table_name(PORT, 0) == "vmport_123456789a_0" != table_name(PORT, 1)


def test_without_rules_only_spoofing_is_stopped() -> None:
    (_, card), *_ = own_bridges(plan())
    chains = {each["chain"]["name"] for each in guard_table(card, PORT, 0).objects if "chain" in each}
    assert chains == {"from_guest", "to_host", "fitted", "routed"}
    (_, card), *_ = own_bridges(plan(firewall=(FirewallRule(direction="in", action="accept"),)))
    chains = {each["chain"]["name"] for each in guard_table(card, PORT, 0).objects if "chain" in each}
    assert "through" in chains


@pytest.fixture
def _network() -> Iterator[None]:
    with own_network():
        yield


def command(words: str, stdin: str = "") -> None:
    subprocess.run(words.split(), input=stdin, text=True, check=True, timeout=10)


class Guest:
    """The guest's end of a cable into its bridge, in the same namespace, driven by whole frames."""

    def __init__(self) -> None:
        for words in (
            "link add guest0 type veth peer name tap0",
            f"link set tap0 master {BRIDGE} up",
            "link set guest0 up",
            "link add far0 type bridge",
            f"addr add {FAR}/32 dev far0",
            "link set far0 up",
        ):
            command(f"ip {words}")
        command("nft -f -", SEEN)
        self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.wire.bind(("guest0", 0))

    def send(self, source: str, to: str, *, protocol: int = 17) -> None:
        macs = bytes.fromhex(GATEWAY_MAC.replace(":", "")) + bytes.fromhex(GUEST_MAC.replace(":", ""))
        self.wire.send(macs + b"\x08\0" + packet(source, to, protocol=protocol))


def packet(source: str, to: str, *, protocol: int = 17) -> bytes:
    body = bytes(8)
    head = bytearray(b"\x45\0" + (20 + len(body)).to_bytes(2) + bytes(4) + b"\x40" + bytes([protocol]) + bytes(2))
    head += socket.inet_aton(source) + socket.inet_aton(to)
    total = sum(int.from_bytes(head[at : at + 2]) for at in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    head[10:12] = (~(total + (total >> 16)) & 0xFFFF).to_bytes(2)
    return bytes(head) + body


def came(counter: str) -> int:
    """Packets at a counter of the test's own table, which stands after the guard."""
    listed = subprocess.run(
        ["nft", "-j", "list", "counter", "inet", "seen", counter], capture_output=True, check=True, timeout=10
    )
    return int(next(each["counter"]["packets"] for each in json.loads(listed.stdout)["nftables"] if "counter" in each))


def syn(source: str, to: str, mss: int) -> bytes:
    """A TCP segment that opens a connection, with an IPv4 header before it; the sums are those of nothing."""
    tcp = bytes.fromhex("d4310050") + bytes(8) + bytes([0x60, 0x02, 0xFF, 0xFF]) + bytes(4)
    tcp += b"\x02\x04" + mss.to_bytes(2)
    head = bytearray(b"\x45\0" + (20 + len(tcp)).to_bytes(2) + bytes(4) + b"\x40\x06" + bytes(2))
    head += socket.inet_aton(source) + socket.inet_aton(to)
    total = sum(int.from_bytes(head[at : at + 2]) for at in range(0, 20, 2))
    total = (total & 0xFFFF) + (total >> 16)
    head[10:12] = (~(total + (total >> 16)) & 0xFFFF).to_bytes(2)
    return bytes(head) + tcp


def segment_size(wire: socket.socket) -> int:
    """Of the next TCP segment on a device."""
    wire.settimeout(5)
    while True:
        frame = wire.recv(2048)
        if frame[12:14] == b"\x08\0" and frame[23] == 6:
            return int.from_bytes(frame[56:58])


SEEN = """table inet seen {
    counter spoofed {}
    counter own {}
    chain pre { type filter hook prerouting priority 0; ip saddr 10.81.1.11 counter name spoofed
                ip saddr 10.81.1.10 counter name own; }
    counter local {}
    chain in { type filter hook input priority 10; ip saddr 10.81.1.10 counter name local; }
}
"""


@needs_root
@pytest.mark.usefixtures("_network")
async def test_from_the_first_packet_a_guest_has_its_own_address_only() -> None:
    agreed = plan(NetworkMode.TRANSLATE)
    await StepMaker().make((*recipient_prepares(agreed, PORT), *recipient_routes(agreed)))
    guest = Guest()

    guest.send(OTHER, FAR)
    guest.send(GUEST, FAR)
    guest.send(GUEST, FAR, protocol=1)
    guest.wire.close()

    assert (came("spoofed"), came("own"), came("local")) == (0, 2, 1)
    assert await Nft().counted("inet", table_name(PORT, 0), ROUTED) == 0


@needs_root
@pytest.mark.usefixtures("_network")
@pytest.mark.parametrize(("mtu", "fits"), [(1400, 1360), (1500, 1460), (9000, 1460)])
async def test_new_connections_fit_a_way_out_that_is_narrower(mtu: int, fits: int) -> None:
    """Both directions learn it from the first segment, by this host's routes; a wider way changes nothing."""
    agreed = plan(NetworkMode.TRANSLATE)
    await StepMaker().make((*recipient_prepares(agreed, PORT), *recipient_routes(agreed)))
    guest = Guest()
    for words in (
        "link add out0 address 02:00:00:00:00:0b type veth peer name out1",
        f"link set out0 mtu {mtu} up",
        f"link set out1 mtu {mtu} up",
        "addr add 192.0.2.1/24 dev out0",
        "neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev out0",
    ):
        command(f"ip {words}")
    command("sysctl -qw net.ipv4.conf.out0.forwarding=1")
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    out.bind(("out1", 0x0800))
    to_gateway = bytes.fromhex(GATEWAY_MAC.replace(":", "")) + bytes.fromhex(GUEST_MAC.replace(":", "")) + b"\x08\0"
    guest.wire.send(to_gateway + syn(GUEST, "192.0.2.9", 1460))
    assert segment_size(out) == fits

    back = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    back.bind(("guest0", 0x0800))
    out.send(bytes.fromhex("02000000000b") + bytes(5) + b"\x09\x08\0" + syn("192.0.2.9", GUEST, 1460))
    assert segment_size(back) == fits
    for wire in (out, back, guest.wire):
        wire.close()


@needs_root
@pytest.mark.usefixtures("_network")
async def test_what_others_translate_for_the_guest_did_not_come_by_the_own_uplink() -> None:
    """Else an address counted as announced as soon as the donor's translation works."""
    agreed = plan(NetworkMode.TRANSLATE, announce=True)
    await StepMaker().make((*recipient_prepares(agreed, PORT), *recipient_routes(agreed, Announced.YES)))
    mac = "02:00:00:00:00:07"
    for words in (f"link add wire0 type veth peer name up0 address {mac}", "link set wire0 up", "link set up0 up"):
        command(f"ip {words}")
    command("sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.up0.rp_filter=0 net.ipv4.conf.all.rp_filter=0")
    macs = bytes.fromhex(mac.replace(":", "")) + bytes(6)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("wire0", 0))

        wire.send(macs + b"\x08\0" + packet("192.0.2.9", CARE_OF[0].real))
        assert await Nft().counted("inet", table_name(PORT, 0), ROUTED) == 0

        wire.send(macs + b"\x08\0" + packet("192.0.2.9", GUEST))
        assert await Nft().counted("inet", table_name(PORT, 0), ROUTED) == 1
