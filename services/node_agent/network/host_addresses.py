"""What this host sees of a VM's cards: leases, the guest's agent, the neighbour tables, and who routes there.

What cannot be read in time is a finding, and no more.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError
from services.node_agent.hypervisor.seen_cards import SeenCard, SeenCards
from services.node_agent.network.netlink import MAIN_TABLE, Netlink, NetlinkError
from services.node_agent.network.sources import MAX_ADDRESSES, CardFacts
from shared.logs import get_logger
from shared.messages.network import AddressSource, CardAddress, NetworkGateway
from shared.messages.vm import Nic, VmDescription

log = get_logger(__name__)

READ_WITHIN_S: Final = 2.0
FORWARDING: Final = Path("/proc/sys/net")
MAX_GATEWAYS, MAX_PREFIXES = 8, 8


@dataclass(frozen=True, slots=True)
class BridgeFacts:
    """What the kernel says of a bridge. `neighbours` are addresses and MACs; `own` addresses with prefix lengths."""

    mac: str = ""
    mtu: int = 0
    neighbours: tuple[tuple[str, str], ...] = ()
    own: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    """Of this host's own default routes over the bridge."""
    forwards: frozenset[int] = frozenset()
    """IP versions that this host routes."""


class HostAddresses:
    """As `sources.AddressReader`."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        *,
        within_s: float = READ_WITHIN_S,
        settings: Path = FORWARDING,
    ) -> None:
        self._hypervisor = hypervisor
        self._within_s = within_s
        self._settings = settings

    async def read(self, vm: VmDescription) -> tuple[CardFacts, ...]:
        """One entry for each of the VM's cards. Never raises: what cannot be read is a finding."""
        problems: list[str] = []
        seen = SeenCards(())
        bridges: dict[str, BridgeFacts] = {}
        try:
            async with asyncio.timeout(self._within_s):
                bridges = await self._bridges({nic.bridge for nic in vm.nics if nic.bridge})
                seen = await self._hypervisor.seen_cards(vm.uuid)
                problems += seen.problems
        except TimeoutError:
            problems.append(f"addresses were not read within {self._within_s:g} s")
        except (HypervisorError, NetlinkError, OSError) as error:
            problems.append(f"addresses not read: {error}")
        found = []
        for place, nic in enumerate(vm.nics):
            facts = facts_of(nic, seen.at(place, nic.mac), bridges.get(nic.bridge, BridgeFacts()))
            # What could not be read is said once.
            found.append(facts if place else replace(facts, findings=tuple(problems)))
        return tuple(found)

    async def _bridges(self, names: Iterable[str]) -> dict[str, BridgeFacts]:
        forwards = frozenset(version for version in (4, 6) if self._forwards(version))
        found = {}
        async with Netlink() as kernel:
            routes = await kernel.routes(MAIN_TABLE)
            for name in names:
                link = await kernel.link(name)
                if link is None:
                    continue
                ways = (each for each in routes if each.device == name and each.via is not None)
                found[name] = BridgeFacts(
                    mac=link.mac,
                    mtu=link.mtu,
                    neighbours=tuple((n.address, n.mac) for n in await kernel.neighbours(name) if n.mac is not None),
                    own=await kernel.addresses(name),
                    routers=tuple(each.via for each in ways if each.via and each.destination.endswith("/0")),
                    forwards=forwards,
                )
        return found

    def _forwards(self, version: int) -> bool:
        place = "ipv4/ip_forward" if version == 4 else "ipv6/conf/all/forwarding"
        try:
            return (self._settings / place).read_text("ascii").strip() != "0"
        except FileNotFoundError:
            return False  # a kernel without this family


def facts_of(nic: Nic, card: SeenCard, bridge: BridgeFacts) -> CardFacts:
    """One card's facts."""
    seen = _addresses(nic, card, bridge)
    on_link = _on_link(seen, bridge)
    return CardFacts(
        addresses=seen,
        guest_mac=card.guest_mac,
        on_link=tuple(dict.fromkeys(str(network) for network in on_link))[:MAX_PREFIXES],
        gateways=tuple(_gateways(on_link, bridge))[:MAX_GATEWAYS],
        mtu=bridge.mtu if 576 <= bridge.mtu <= 65_535 else 0,
    )


def _addresses(nic: Nic, card: SeenCard, bridge: BridgeFacts) -> tuple[CardAddress, ...]:
    """In the order in which sources are believed; what is no address of a host is left out."""
    # A card behind a VLAN tag is not on the bridge's own segment, and another there may have its MAC.
    tagged = nic.port_group or (nic.vlan is not None and nic.vlan.tags)
    macs = {card.mac, card.guest_mac}
    neighbours = () if tagged else tuple(address for address, mac in bridge.neighbours if mac in macs)
    found: dict[str, list[AddressSource]] = {}
    for source, addresses in (
        (AddressSource.LEASE, card.leased),
        (AddressSource.GUEST, card.told_by_guest),
        (AddressSource.NEIGHBOUR, neighbours),
    ):
        for address in filter(None, map(_canonical, addresses)):
            names = found.setdefault(address, [])
            if source not in names:
                names.append(source)
    return tuple(CardAddress(address=address, sources=tuple(names)) for address, names in found.items())[:MAX_ADDRESSES]


def _canonical(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        return None
    return str(address)


_Networks = list[ipaddress.IPv4Network | ipaddress.IPv6Network]


def _on_link(addresses: Iterable[CardAddress], bridge: BridgeFacts) -> _Networks:
    """Prefixes of the bridge that an address of the card is in."""
    own = [ipaddress.ip_interface(each).network for each in bridge.own]
    theirs = [ipaddress.ip_address(each.address) for each in addresses]
    return [network for network in own if not network.is_link_local and any(each in network for each in theirs)]


def _gateways(on_link: _Networks, bridge: BridgeFacts) -> Iterator[NetworkGateway]:
    """This host where it is the segment's router; else whom this host itself takes for that."""
    macs = dict(bridge.neighbours)
    versions = {network.version for network in on_link}
    for text in bridge.own:
        address = ipaddress.ip_interface(text).ip
        # A guest knows its IPv6 router by the link-local address.
        ours = any(address in network for network in on_link) or (address.is_link_local and address.version == 6)
        if ours and address.version in bridge.forwards & versions and bridge.mac:
            yield NetworkGateway(address=str(address), mac=bridge.mac)
    for router in bridge.routers:
        version = ipaddress.ip_address(router).version
        if version in versions - bridge.forwards and router in macs:
            yield NetworkGateway(address=router, mac=macs[router])
