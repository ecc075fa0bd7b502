"""What a node says of addresses, in its heartbeat and in a VM's description."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

from services.node_agent.network.kept import KeptAddresses, KeptVm
from services.node_agent.network.sources import CardFacts
from services.node_agent.network.vm_addresses import VmAddresses
from services.node_agent.settings import NetworkSection
from services.recipient_agent.testing import MAC, make_summary, make_vm
from shared.messages.network import (
    AddressSource,
    CardAddress,
    CardNetwork,
    CardPlan,
    NetworkMode,
    NetworkPlan,
    NetworkTerms,
)
from shared.messages.vm import VmDescription

DECLARED = f'[cards."{MAC}"]\naddresses = ["192.0.2.7"]\n'


class Reader:
    """Sees one address; or never answers."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.stuck = stuck

    async def read(self, vm: VmDescription) -> tuple[CardFacts, ...]:
        """By a lease."""
        if self.stuck:
            await asyncio.Event().wait()
        address = CardAddress(address="192.0.2.7", sources=(AddressSource.LEASE,))
        return tuple(CardFacts((address,)) for _ in vm.nics)


def made(tmp_path: Path, text: str = DECLARED, **more: object) -> VmAddresses:
    """With a list of addresses."""
    path = tmp_path / "addresses.toml"
    path.write_text(text)
    settings = NetworkSection(
        modes=(NetworkMode.JOINED, NetworkMode.TRANSLATE),
        segments={"br-donor": "tenants"},
        care_of=("198.51.100.128/26",),
        addresses_file=path,
    )
    return VmAddresses(settings, **more)  # type: ignore[arg-type]  # the test's own few arguments


def test_what_the_node_can_do_is_told(tmp_path: Path) -> None:
    """As its settings have it."""
    node = made(tmp_path).node
    assert (node.modes, node.care_of) == ((NetworkMode.JOINED, NetworkMode.TRANSLATE), ("198.51.100.128/26",))
    assert node.segments == {"br-donor": "tenants"}


async def test_a_description_joins_list_and_sight(tmp_path: Path) -> None:
    """Both are named as sources; the segment is that of the bridge."""
    network = await made(tmp_path, reader=Reader()).describe(make_vm())
    (card,) = network.cards
    assert card.addresses[0].sources == (AddressSource.DECLARED, AddressSource.LEASE)
    assert (card.segment, network.findings) == ("tenants", ())


async def test_a_list_that_is_wrong_is_named_in_every_description(tmp_path: Path) -> None:
    """The VM is described all the same."""
    (finding,) = (await made(tmp_path, "nonsense").describe(make_vm())).findings
    assert "declared addresses are not up to date" in finding
    assert "is not TOML" in finding


async def test_a_guest_that_does_not_answer_holds_nothing_up(tmp_path: Path) -> None:
    """What is declared is told, and that the rest is missing."""
    network = await made(tmp_path, reader=Reader(stuck=True), read_within_s=0.01).describe(make_vm())
    assert [each.address for each in network.cards[0].addresses] == ["192.0.2.7"]
    assert network.findings == ("addresses were not read within 0.01 s",)


def test_the_inventory_has_declared_addresses(tmp_path: Path) -> None:
    """So that the agents see a collision before anything moves."""
    mine, other = make_summary(macs=(MAC,)), make_summary(uuid=UUID(int=5))
    vms = made(tmp_path).with_addresses([mine, other])
    assert [vm.addresses for vm in vms] == [("192.0.2.7",), ()]


class Brought(KeptAddresses):
    """One VM came with an address; or the journal cannot be read."""

    def __init__(self, vm: UUID, error: OSError | None = None) -> None:
        self.vm = vm
        self.error = error

    def by_vm(self) -> dict[UUID, KeptVm]:
        """What was agreed."""
        if self.error is not None:
            raise self.error
        card = CardNetwork(mac=MAC, addresses=(CardAddress(address="192.0.2.9"),), segment="home", mtu=1400)
        return {self.vm: KeptVm((card,), helped_by="alpha")}


async def test_what_a_port_brought_is_known_until_the_operator_declares_it(tmp_path: Path) -> None:
    """With the segment of its home, so that it finds back; others see its address."""
    vm = make_vm()
    addresses = made(tmp_path, "", kept=Brought(vm.uuid))
    network = await addresses.describe(vm)
    (card,) = network.cards
    assert ([each.address for each in card.addresses], card.segment, card.mtu) == (["192.0.2.9"], "home", 1400)
    assert (network.away, network.helped_by) == (True, "alpha")
    (told,) = addresses.with_addresses([make_summary(uuid=vm.uuid, macs=(MAC,))])
    assert told.addresses == ("192.0.2.9",)

    declared = made(tmp_path, kept=Brought(vm.uuid))
    (card,) = (await declared.describe(vm)).cards
    assert ([each.address for each in card.addresses], card.segment) == (["192.0.2.7"], "tenants")


async def test_a_journal_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    """And hides no VM."""
    addresses = made(tmp_path, "", kept=Brought(make_vm().uuid, OSError(5, "Input/output error")))
    network = await addresses.describe(make_vm())
    assert network.findings == ("what earlier ports brought cannot be read: Input/output error",)
    assert len(addresses.with_addresses([make_summary(macs=(MAC,))])) == 1


async def test_what_has_arrived_is_compared_with_what_was_agreed(tmp_path: Path) -> None:
    """A reader that does not answer is not waited for, and says nothing."""
    vm = make_vm()
    agreed = CardNetwork(mac=MAC, addresses=(CardAddress(address="192.0.2.8"),))
    terms = NetworkTerms(carry=NetworkMode.JOINED)
    network = NetworkPlan(terms=terms, cards=tuple(CardPlan(card=agreed) for _ in vm.nics))
    found = await made(tmp_path, reader=Reader()).differences(network, vm)
    assert found[0] == f"{MAC}: 192.0.2.7 (lease) was not agreed"
    assert await made(tmp_path, reader=Reader()).differences(None, vm) == ()
    assert await made(tmp_path, reader=Reader(stuck=True), read_within_s=0.01).differences(network, vm) == ()
