"""What this node says of addresses: in its heartbeat, and in the description of a VM. A shell over `sources`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from uuid import UUID

from services.node_agent.network.addresses_file import AddressesFile
from services.node_agent.network.arrived import address_differences
from services.node_agent.network.kept import KeptAddresses, KeptVm
from services.node_agent.network.sources import (
    AddressReader,
    CardFacts,
    NoReader,
    as_declared,
    merge_sources,
)
from services.node_agent.settings import NetworkSection
from shared.logs import get_logger
from shared.messages.network import CardNetwork, NetworkPlan, NodeNetwork, VmNetwork
from shared.messages.vm import VmDescription, VmSummary

log = get_logger(__name__)

MAX_KNOWN = 256
READ_WITHIN_S = 5.0
"""A guest agent that does not answer must not hold up a description."""


class VmAddresses:
    """One per node."""

    def __init__(
        self,
        settings: NetworkSection,
        *,
        reader: AddressReader | None = None,
        kept: KeptAddresses | None = None,
        read_within_s: float = READ_WITHIN_S,
    ) -> None:
        """`reader` sees what the host sees; `kept` knows what earlier ports brought."""
        self._settings = settings
        self._reader = reader or NoReader()
        self._kept = kept
        self._read_within_s = read_within_s
        self.file = AddressesFile(settings.addresses_file)
        self.file.check()

    async def run(self) -> None:
        """Follow the list of addresses until cancelled."""
        await self.file.run()

    @property
    def node(self) -> NodeNetwork:
        """What this node can do; part of its heartbeat."""
        settings = self._settings
        return NodeNetwork(modes=settings.modes, segments=dict(settings.segments), care_of=settings.care_of)

    async def describe(self, vm: VmDescription) -> VmNetwork:
        """All that is known of the VM's addresses, and what this node can do to keep them."""
        problems = [] if self.file.problem is None else [f"declared addresses are not up to date: {self.file.problem}"]
        seen: tuple[CardFacts, ...] = ()
        try:
            async with asyncio.timeout(self._read_within_s):
                seen = await self._reader.read(vm)
        except TimeoutError:
            problems.append(f"addresses were not read within {self._read_within_s:g} s")
            log.warning("addresses not read in time", vm=str(vm.uuid))
        kept: KeptVm | None = None
        try:
            kept = self._brought().get(vm.uuid)
        except OSError as error:
            problems.append(f"what earlier ports brought cannot be read: {error.strerror}")
            log.warning("kept addresses unreadable", vm=str(vm.uuid), error=str(error))
        brought = {} if kept is None else {card.mac: as_declared(card) for card in kept.cards}
        known = {**brought, **self.file.cards}
        mtu = self._settings.mtu
        network = merge_sources(vm.nics, known, seen, host=self.node, mtu=mtu, findings=problems)
        if kept is not None:
            network = network.model_copy(update={"away": True, "helped_by": kept.helped_by})
        if network.findings:
            log.info("sources of addresses differ", vm=str(vm.uuid), findings=network.findings)
        return network

    async def differences(self, plan: NetworkPlan | None, vm: VmDescription) -> tuple[str, ...]:
        """Where the VM has other addresses here than were agreed for it; nothing is waited for long."""
        if plan is None:
            return ()
        try:
            async with asyncio.timeout(self._read_within_s):
                seen = await self._reader.read(vm)
        except TimeoutError:
            log.warning("addresses not read in time, and not compared", vm=str(vm.uuid))
            return ()
        found = address_differences([card.card for card in plan.cards], seen)
        for line in found:
            log.warning("address differs from the agreed one", vm=str(vm.uuid), reason=line)
        return found

    def with_addresses(self, vms: Iterable[VmSummary]) -> tuple[VmSummary, ...]:
        """The inventory, with what is declared of each VM's cards, or was brought by a port."""
        brought: dict[UUID, KeptVm] = {}
        try:
            brought = self._brought()
        except OSError as error:
            log.warning("kept addresses unreadable", error=str(error))
        nothing = KeptVm(())
        return tuple(self._with_addresses(vm, brought.get(vm.uuid, nothing).cards) for vm in vms)

    def _brought(self) -> dict[UUID, KeptVm]:
        return {} if self._kept is None else self._kept.by_vm()

    def _with_addresses(self, vm: VmSummary, brought: tuple[CardNetwork, ...]) -> VmSummary:
        cards = {card.mac: as_declared(card) for card in brought} | dict(self.file.cards)
        known = dict.fromkeys(address for mac in vm.macs if mac in cards for address in cards[mac].addresses)
        return vm.model_copy(update={"addresses": tuple(known)[:MAX_KNOWN]}) if known else vm
