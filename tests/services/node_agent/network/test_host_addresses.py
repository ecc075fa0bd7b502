"""What a host sees of a VM's cards: from each source, and bounded in time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from services.node_agent.hypervisor.seen_cards import SeenCard, SeenCards
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.network.host_addresses import BridgeFacts, HostAddresses, facts_of
from services.node_agent.network.netlink import Netlink
from services.node_agent.network.sources import CardFacts
from shared.messages.network import AddressSource, CardAddress, NetworkGateway
from shared.messages.vm import Nic, Vlan, VmDescription
from tests.services.node_agent.network.plans import GATEWAY_MAC, GUEST_MAC
from tests.support.own_network import needs_root, own_network

NIC = Nic(mac=GUEST_MAC, model="virtio", bridge="vmbr0")
BRIDGE = BridgeFacts(
    mac=GATEWAY_MAC,
    mtu=9000,
    neighbours=(("10.81.1.10", GUEST_MAC), ("10.81.1.11", "52:54:00:00:00:11"), ("fe80::10", GUEST_MAC)),
    own=("10.81.1.1/24", "192.0.2.1/24", "fd00:81:1::1/64", "fe80::1/64"),
    forwards=frozenset({4, 6}),
)
SEEN = SeenCard(
    GUEST_MAC, leased=("10.81.1.10",), told_by_guest=("10.81.1.10", "fd00:81:1::10", "127.0.0.1", "fe80::10%eth0", "?")
)


def test_sources_are_joined_by_address() -> None:
    """What is no address of a host is left out; another card's neighbour entry, too."""
    facts = facts_of(NIC, SEEN, BRIDGE)
    lease, guest, neighbour = AddressSource.LEASE, AddressSource.GUEST, AddressSource.NEIGHBOUR
    assert facts.addresses == (
        CardAddress(address="10.81.1.10", sources=(lease, guest, neighbour)),
        CardAddress(address="fd00:81:1::10", sources=(guest,)),
        CardAddress(address="fe80::10", sources=(guest, neighbour)),
    )
    assert facts.on_link == ("10.81.1.0/24", "fd00:81:1::/64")
    assert facts.mtu == 9000


def test_a_host_that_routes_is_the_gateway() -> None:
    """By its addresses in the card's prefixes, and by the link-local one; not by others."""
    gateways = facts_of(NIC, SEEN, BRIDGE).gateways
    assert [each.address for each in gateways] == ["10.81.1.1", "fd00:81:1::1", "fe80::1"]
    assert {each.mac for each in gateways} == {GATEWAY_MAC}


def test_a_host_that_does_not_route_knows_the_router() -> None:
    """Its own, as the neighbour table has it; one that has never answered has no MAC, and is not told."""
    router = "02:00:00:00:00:99"
    bridge = BridgeFacts(
        mac=GATEWAY_MAC,
        neighbours=(("10.81.1.254", router),),
        own=("10.81.1.2/24", "fd00:81:1::2/64"),
        routers=("10.81.1.254", "fe80::9"),
    )
    assert facts_of(NIC, SEEN, bridge).gateways == (NetworkGateway(address="10.81.1.254", mac=router),)


def test_a_card_behind_a_tag_is_not_on_the_bridges_segment() -> None:
    tagged = NIC.model_copy(update={"vlan": Vlan(tags=(7,))})
    assert facts_of(tagged, SeenCard(GUEST_MAC), BRIDGE).addresses == ()


def test_the_guests_own_mac_counts() -> None:
    seen = SeenCard(GUEST_MAC, guest_mac="52:54:00:00:00:11")
    facts = facts_of(NIC, seen, BRIDGE)
    assert facts.guest_mac == "52:54:00:00:00:11"
    assert "10.81.1.11" in [each.address for each in facts.addresses]


DOMAIN = """<domain type='qemu'><name>web</name><uuid>11111111-2222-3333-4444-555555555555</uuid>
<memory unit='KiB'>65536</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
<cpu mode='custom'><model>qemu64</model></cpu><devices>
<interface type='bridge'><mac address='52:54:00:00:00:10'/><source bridge='vmbr0'/><model type='virtio'/></interface>
</devices></domain>"""


class World:
    """A host with a VM in a network of its own."""

    def __init__(self, folder: Path) -> None:
        self.hypervisor = FakeHypervisor()
        self.uuid = self.hypervisor.add(DOMAIN)
        self.hypervisor.vms[self.uuid].seen = SeenCards((SEEN,), ("the guest's agent is tired",))
        self.settings = folder / "sys"
        for place in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            (self.settings / place).parent.mkdir(parents=True, exist_ok=True)
            (self.settings / place).write_text("1\n")

    async def read(self, *, within_s: float = 5.0) -> CardFacts:
        reader = HostAddresses(self.hypervisor, within_s=within_s, settings=self.settings)
        (facts,) = await reader.read(await self.vm())
        return facts

    async def vm(self) -> VmDescription:
        return (await self.hypervisor.describe(self.uuid)).description


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with own_network():
        yield World(tmp_path)


@needs_root
async def test_a_bridge_of_the_kernels(world: World) -> None:
    """Its neighbours, addresses and MTU are read; a problem is a finding."""
    async with Netlink() as kernel:
        await kernel.add_bridge("vmbr0", mac=GATEWAY_MAC, mtu=1400)
        await kernel.add_address("vmbr0", "10.81.1.1")
        await kernel.set_neighbour("vmbr0", "10.81.1.12", GUEST_MAC)
        assert "10.81.1.1/32" in await kernel.addresses("vmbr0")
        assert await kernel.addresses("vmbr9") == ()
    facts = await world.read()
    assert [each.address for each in facts.addresses] == ["10.81.1.10", "fd00:81:1::10", "fe80::10", "10.81.1.12"]
    assert facts.mtu == 1400
    assert facts.findings == ("the guest's agent is tired",)


@needs_root
async def test_a_hypervisor_that_does_not_answer_is_a_finding(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forever(uuid: UUID) -> SeenCards:
        await asyncio.sleep(60)
        raise AssertionError(uuid)

    monkeypatch.setattr(world.hypervisor, "seen_cards", forever)
    facts = await world.read(within_s=0.3)
    assert facts.findings == ("addresses were not read within 0.3 s",)
    monkeypatch.undo()
    vm = await world.vm()
    del world.hypervisor.vms[world.uuid]
    (gone,) = await HostAddresses(world.hypervisor).read(vm)
    assert "no VM" in gone.findings[0]
