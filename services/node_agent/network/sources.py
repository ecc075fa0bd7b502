"""What is known of a VM's addresses, joined from its sources: the operator's list, the guest, leases, neighbours. Pure.

The operator's list decides, and for a VM that came by a port what was agreed then. What a guest or a neighbour table
says of such a card is only compared with it, since a guest can claim any address. For another card what is seen is
taken, but never the address of a router, nor one of another card. Wherever two sources differ there is a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field

from shared.messages.network import (
    AddressSource,
    CardAddress,
    CardNetwork,
    FirewallRule,
    IpAddress,
    IpNetwork,
    Label,
    NetworkGateway,
    NodeNetwork,
    VmNetwork,
    is_routable,
)
from shared.messages.vm import Nic, VmDescription

MAX_ADDRESSES, MAX_FINDINGS, MAX_FINDING = 32, 32, 256
_OF_THE_HOST = frozenset({"user", "passt"})
"""Kinds of cards behind the host's own address: they have none of their own."""


class DeclaredCard(BaseModel):
    """What the operator's list says of one card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    addresses: Annotated[tuple[IpAddress, ...], Field(max_length=MAX_ADDRESSES)] = ()
    on_link: Annotated[tuple[IpNetwork, ...], Field(max_length=8)] = ()
    gateways: Annotated[tuple[NetworkGateway, ...], Field(max_length=8)] = ()
    mtu: Annotated[int, Field(ge=576, le=65_535)] | None = None
    segment: Label = ""
    holder: Label = ""
    announced_by: Label = ""
    firewall: Annotated[tuple[FirewallRule, ...], Field(max_length=256)] = ()


def as_declared(card: CardNetwork) -> DeclaredCard:
    """What was agreed for a card in the port that brought it: as good as the operator's own word."""
    return DeclaredCard(
        addresses=tuple(each.address for each in card.addresses),
        on_link=card.on_link,
        gateways=card.gateways,
        mtu=card.mtu,
        segment=card.segment,
        holder=card.holder,
        announced_by=card.announced_by,
        firewall=card.firewall,
    )


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What this host sees of one card. `mtu` 0: not known; `segment`, `holder` and `announced_by`: "" if not known."""

    addresses: tuple[CardAddress, ...] = ()
    guest_mac: str | None = None
    on_link: tuple[str, ...] = ()
    gateways: tuple[NetworkGateway, ...] = ()
    mtu: int = 0
    segment: str = ""
    holder: str = ""
    announced_by: str = ""
    firewall: tuple[FirewallRule, ...] = ()
    findings: tuple[str, ...] = ()
    """What could not be read, and why."""


class AddressReader(Protocol):
    """Reads what this host sees of a VM's cards: guest agent, leases, neighbour table."""

    async def read(self, vm: VmDescription) -> tuple[CardFacts, ...]:
        """One entry for each of `vm.nics`, in their order. Never raises: what cannot be read is a finding."""
        ...


class NoReader:
    """Sees nothing."""

    async def read(self, vm: VmDescription) -> tuple[CardFacts, ...]:
        """Nothing of any card."""
        return tuple(CardFacts() for _ in vm.nics)


def merge_sources(
    nics: Sequence[Nic],
    declared: Mapping[str, DeclaredCard],
    seen: Sequence[CardFacts],
    *,
    host: NodeNetwork,
    mtu: int,
    findings: Iterable[str] = (),
) -> VmNetwork:
    """All that is known of a VM's cards, in their order.

    `declared` is by MAC. `host` is what this node can do, `mtu` its networks' own where nobody says another one.
    """
    cards: list[CardNetwork] = []
    found = list(findings)
    for index, nic in enumerate(nics):
        facts = seen[index] if index < len(seen) else CardFacts()
        others = {
            address: mac
            for mac, card in declared.items()
            if mac != nic.mac
            for address in (*card.addresses, *(gateway.address for gateway in card.gateways))
        }
        card = _Card(nic, declared.get(nic.mac), facts, others)
        cards.append(card.merged(host, mtu))
        found += card.findings()
    return VmNetwork(cards=tuple(cards), modes=host.modes, findings=_bounded(found))


@dataclass(frozen=True, slots=True)
class _Card:
    """One card, with what each source says of it."""

    nic: Nic
    declared: DeclaredCard | None
    facts: CardFacts
    others: Mapping[str, str]
    """Addresses that the list gives to other cards or their routers, and that card's MAC."""

    def merged(self, host: NodeNetwork, mtu: int) -> CardNetwork:
        declared, facts = self.declared or DeclaredCard(), self.facts
        if self.nic.kind in _OF_THE_HOST:
            return CardNetwork(mac=self.nic.mac, mtu=mtu)
        sources = self._sources()
        addresses = (
            CardAddress(address=address, sources=tuple(sources[address]))
            for address in sources
            if self._refused(address) is None
        )
        return CardNetwork(
            mac=self.nic.mac,
            guest_mac=self._other_mac(),
            addresses=tuple(addresses)[:MAX_ADDRESSES],
            on_link=declared.on_link or facts.on_link,
            gateways=declared.gateways or facts.gateways,
            mtu=declared.mtu or facts.mtu or mtu,
            segment=declared.segment or facts.segment or self._segment(host),
            holder=declared.holder or facts.holder,
            announced_by=declared.announced_by or facts.announced_by,
            firewall=declared.firewall or facts.firewall,
        )

    def findings(self) -> Iterator[str]:
        yield from self.facts.findings
        if self.nic.kind in _OF_THE_HOST:
            return
        mac = self.nic.mac
        if self._other_mac() is not None:
            yield f"{mac}: the guest itself has set {self._other_mac()}"
        sources = self._sources()
        for address, names in sources.items():
            if (why := self._refused(address)) is not None:
                yield f"{mac}: {address} ({', '.join(names)}) is not kept: {why}"
        seen = [address for address in sources if self._seen_as(address)]
        for address in sources:
            if address not in seen and any(is_routable(each) for each in seen):
                yield f"{mac}: {address} is declared, and not seen"
        yield from self._guest_against_lease(sources)

    def _sources(self) -> dict[str, list[AddressSource]]:
        found: dict[str, list[AddressSource]] = {}
        for address in (self.declared or DeclaredCard()).addresses:
            found[address] = [AddressSource.DECLARED]
        for each in self.facts.addresses:
            names = found.setdefault(each.address, [])
            names += [source for source in each.sources if source not in names]
        return found

    def _refused(self, address: str) -> str | None:
        """Why an address is not taken as the card's own; None: it is."""
        declared = self.declared or DeclaredCard()
        if address in declared.addresses:
            return None
        routers = {gateway.address for gateway in (*declared.gateways, *self.facts.gateways)}
        if address in routers:
            return "it is a router's"
        if address in self.others:
            return f"it is declared for {self.others[address]}"
        if declared.addresses and is_routable(address):
            return "it is not declared"
        return None

    def _seen_as(self, address: str) -> bool:
        return any(each.address == address for each in self.facts.addresses)

    def _guest_against_lease(self, sources: Mapping[str, list[AddressSource]]) -> Iterator[str]:
        """Both name all addresses of their kind. A neighbour table does not: an entry may be gone."""
        pair = (AddressSource.GUEST, AddressSource.LEASE)
        said = {name: {a for a, names in sources.items() if name in names and is_routable(a)} for name in pair}
        if not all(said.values()):
            return
        for name, other in (pair, pair[::-1]):
            for address in sorted(said[name] - said[other]):
                if ":" not in address:  # IPv6 addresses are seldom leased
                    yield f"{self.nic.mac}: {address} is known by {name}, not by {other}"

    def _other_mac(self) -> str | None:
        mac = self.facts.guest_mac
        return mac if mac != self.nic.mac else None

    def _segment(self, host: NodeNetwork) -> str:
        """A card behind a VLAN tag or in a port group is not on its bridge's own segment."""
        if self.nic.port_group or (self.nic.vlan is not None and self.nic.vlan.tags):
            return ""
        return host.segments.get(self.nic.bridge, "")


def _bounded(found: list[str]) -> tuple[str, ...]:
    unique = [_line(each) for each in dict.fromkeys(found)]
    if len(unique) <= MAX_FINDINGS:
        return tuple(unique)
    return (*unique[: MAX_FINDINGS - 1], f"and {len(unique) - MAX_FINDINGS + 1} more")


def _line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)[:MAX_FINDING]
