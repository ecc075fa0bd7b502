"""What this node says of addresses: in its heartbeat, and in the description of a VM. A shell over `sources`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from services.node_agent.network.addresses_file import AddressesFile
from services.node_agent.network.sources import AddressReader, CardFacts, NoReader, merge_sources
from services.node_agent.settings import NetworkSection
from shared.logs import get_logger
from shared.messages.network import NodeNetwork, VmNetwork
from shared.messages.vm import VmDescription, VmSummary

log = get_logger(__name__)

MAX_KNOWN = 256
READ_WITHIN_S = 5.0
"""A guest agent that does not answer must not hold up a description."""


class VmAddresses:
    """One per node."""

    def __init__(
        self, settings: NetworkSection, *, reader: AddressReader | None = None, read_within_s: float = READ_WITHIN_S
    ) -> None:
        self._settings = settings
        self._reader = reader or NoReader()
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
        return merge_sources(vm.nics, self.file.cards, seen, host=self.node, mtu=self._settings.mtu, findings=problems)

    def with_addresses(self, vms: Iterable[VmSummary]) -> tuple[VmSummary, ...]:
        """The inventory, with what is declared of each VM's cards."""
        return tuple(self._with_addresses(vm) for vm in vms)

    def _with_addresses(self, vm: VmSummary) -> VmSummary:
        declared = (self.file.cards.get(mac) for mac in vm.macs)
        known = dict.fromkeys(address for card in declared if card is not None for address in card.addresses)
        return vm.model_copy(update={"addresses": tuple(known)[:MAX_KNOWN]}) if known else vm
