"""What libvirt knows of a VM's network cards beyond its definition: leases, what the guest's agent says, the MAC that
the guest has set itself, and the host's device. A question to an agent that is not connected is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import libvirt

from services.node_agent.hypervisor.interface import HypervisorError, VmNotFound
from services.node_agent.hypervisor.libvirt_connection import LibvirtSession
from services.node_agent.hypervisor.libvirt_mapping import BUSY_WITHIN_S, wait_until_free
from services.node_agent.hypervisor.libvirt_types import LibvirtConnection, LibvirtDomain
from services.node_agent.hypervisor.seen_cards import SeenCard, SeenCards
from shared.domain import has_agent, live_cards, parse

LEASES_WITHIN_S: Final = 1.0
"""How long libvirt may take to read the leases of its own networks; no guest is asked."""


async def seen_cards(session: LibvirtSession, uuid: UUID, *, agent_within_s: float) -> SeenCards:
    """Ask all of them. Raises `VmNotFound`, and `HypervisorError` where libvirt cannot be asked at all."""
    problems: list[str] = []

    def read(domain: LibvirtDomain) -> tuple[str, bool]:
        wait_until_free(domain, BUSY_WITHIN_S)
        return domain.XMLDesc(0), bool(domain.isActive())

    xml, active = await session.with_domain("read the cards of", uuid, read)
    definition = parse(xml)

    async def ask(source: int, name: str, within_s: float) -> dict[str, tuple[str, ...]]:
        def question(_: LibvirtConnection, domain: LibvirtDomain) -> Mapping[str, Any]:
            return domain.interfaceAddresses(source)

        try:
            found = await session.ask(f"read {name} of", uuid, question, within_s=within_s)
        except VmNotFound:
            raise
        except HypervisorError as error:
            problems.append(f"{name} not read: {error.reason}")
            return {}
        return addresses_by_mac(found)

    leased: Mapping[str, tuple[str, ...]] = {}
    told: Mapping[str, tuple[str, ...]] = {}
    if active:
        leased = await ask(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE, "leases", LEASES_WITHIN_S)
    if active and has_agent(definition):
        source = libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT
        told = await ask(source, "addresses that the guest's agent knows", agent_within_s)
    cards = tuple(
        SeenCard(
            mac=card.mac,
            guest_mac=card.guest_mac,
            device=card.device,
            leased=leased.get(card.mac, ()),
            # The guest names its cards by the MACs that they have now.
            told_by_guest=told.get(card.guest_mac or card.mac, ()),
        )
        for card in live_cards(definition)
    )
    return SeenCards(cards, tuple(problems))


def addresses_by_mac(found: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """As libvirt answers: by the name of the interface, its `hwaddr` and `addrs`. Loopback has none."""
    seen: dict[str, list[str]] = {}
    for interface in found.values():
        mac = str(interface.get("hwaddr") or "").lower()
        addresses = (str(each["addr"]) for each in interface.get("addrs") or ())
        seen.setdefault(mac, []).extend(addresses)
    return {mac: tuple(dict.fromkeys(addresses)) for mac, addresses in seen.items() if mac}
