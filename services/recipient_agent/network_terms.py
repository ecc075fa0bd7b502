"""How a VM keeps its addresses on one node: which mode, on which terms, and where its cards go then. Pure.

One function for quote and reservation. What is wanted by name is had or refused, with the side that cannot. Without a
name it is the first that both sides can do: `joined` where every card's segment is named and this node has the same
one, then `extend`, `translate`; an address that the recipient can announce is announced afterwards, a public one only
with its proofs (`prefix_proof`). Where nothing can be done the networks are taken as one, and the quote says so.

An address of a neutral prefix is kept by `anchor` or not at all, unless a mode is named: only so its gateways are told.
A VM that is away from its segment comes home to it by `joined`, whatever modes the nodes take part in. As long as a
donor of before helps with its addresses it can go home only, since that help ends with the port.

In every mode but `joined` a card is alone on a bridge that the node makes for it. The network map has no say there:
its rules keep tenants' networks apart, and on such a bridge there is nobody else. VLAN tags, port groups and switch
ports end at it. Cards of QEMU's own user network go by the map in every mode.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from services.recipient_agent.network_map import CardPlace, NetworkMap, card, is_users, place_cards
from services.recipient_agent.network_refusals import chained, impossible, unproven
from services.recipient_agent.prefix_proof import Finding
from shared.messages.base import Price, Refusal
from shared.messages.network import (
    CardNetwork,
    CardPlan,
    CareOf,
    Carrier,
    NetworkMode,
    NetworkPlan,
    NetworkTerms,
    VmNetwork,
    WantedMode,
    is_routable,
)
from shared.messages.vm import HostPlatform, Nic, VmDescription

M = NetworkMode
HELPED: frozenset[NetworkMode] = frozenset({M.EXTEND, M.TRANSLATE})
"""Modes in which the donor helps after the port, for a time and a price."""
TRANSLATED: frozenset[NetworkMode] = frozenset({M.TRANSLATE, M.ANCHOR})
_BY_PREFERENCE: tuple[Carrier, ...] = (M.EXTEND, M.TRANSLATE, M.ANCHOR)
_UNTIL_ANNOUNCED: tuple[Carrier, ...] = (M.EXTEND, M.TRANSLATE)
"""In joined networks a card is on the provider's own bridge: nobody announces single addresses of it."""
_BRIDGE_CHARACTERS = 15


class ExtensionTerms(BaseModel):
    """The provider's terms for addresses that stay reachable with the donor's help."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    extension_s: Annotated[float, Field(gt=0, le=10**9)] | None = Field(
        default=None,
        description="For how long after a port this provider takes part in an extension or a translation, in seconds; "
        "unset: for as long as the donor does.",
        examples=[2592000.0],
    )
    extension_price: Price | None = Field(
        default=None,
        description="What it asks for that time, in the currency of its instance types, beside what the donor asks.",
        examples=["5.00"],
    )


_NO_PORT = UUID(int=0)
_DONORS_TERMS = ExtensionTerms()


@dataclass(frozen=True, slots=True)
class NetworkWish:
    """What a port asks for its VM's addresses. `anchor`: neutral prefixes whose gateways the broker tells."""

    port_id: UUID = _NO_PORT
    mode: WantedMode = "auto"
    anchor: tuple[str, ...] = ()


NO_WISH = NetworkWish()


@dataclass(frozen=True, slots=True)
class NetworkAsk:
    """The wish, and what this provider knows besides: its terms and currency, care-of addresses in use, and proofs."""

    wish: NetworkWish = NO_WISH
    ours: ExtensionTerms = _DONORS_TERMS
    currency: str = ""
    taken: frozenset[str] = frozenset()
    unproven: tuple[Finding, ...] = ()
    """What is missing before the VM's public addresses may be announced here."""


@dataclass(frozen=True, slots=True)
class NetworkChoice:
    """The outcome for one node. `terms` None: the networks are taken as one. `cards` is whole if nothing is refused."""

    terms: NetworkTerms | None = None
    cards: tuple[CardPlace, ...] = ()
    care_of: tuple[tuple[CareOf, ...], ...] = ()
    """Of each card; empty in modes that translate nothing."""
    refusals: tuple[Refusal, ...] = ()
    unproven: tuple[Finding, ...] = ()
    """Why the addresses are not announced, where nothing else speaks against it."""


NOTHING_KEPT = NetworkChoice()


def choose_network(
    vm: VmDescription, platform: HostPlatform, network_map: NetworkMap, ask: NetworkAsk, *, node: str
) -> NetworkChoice:
    """The mode and its terms, and where each card goes on this node."""
    return _Choice(vm, platform, network_map, ask, node).made()


def network_plan(vm: VmDescription, choice: NetworkChoice) -> NetworkPlan | None:
    """What is agreed for the VM's cards; None where nothing is done for its addresses."""
    if choice.terms is None:
        return None
    known = _known(vm)
    plans = []
    for index, place in enumerate(choice.cards):
        identity = known.cards[index] if known else CardNetwork(mac=place.nic.mac)
        donors = place.nic.bridge if _is_device_name(place.nic.bridge) else ""
        ours = place.bridge if _is_device_name(place.bridge) else ""
        care_of = choice.care_of[index] if choice.care_of else ()
        plans.append(CardPlan(card=identity, donor_bridge=donors, bridge=ours, care_of=care_of))
    return NetworkPlan(terms=choice.terms, cards=tuple(plans))


def own_bridge(port_id: UUID, index: int) -> str:
    """The bridge that a node makes for one card of a port; at most 15 characters."""
    return f"vmp{port_id.hex[:10]}{index}"


def addresses_of(vm: VmDescription) -> tuple[str, ...]:
    """The VM's addresses that mean the same host on every link."""
    cards = vm.network.cards if vm.network is not None else ()
    return tuple(dict.fromkeys(address for each in cards for address in routable(each)))


def routable(identity: CardNetwork) -> tuple[str, ...]:
    """A card's addresses, without link-local ones."""
    return tuple(each.address for each in identity.addresses if is_routable(each.address))


@dataclass(frozen=True, slots=True)
class _Choice:
    """One question: this VM, on this node."""

    vm: VmDescription
    platform: HostPlatform
    network_map: NetworkMap
    ask: NetworkAsk
    node: str

    def made(self) -> NetworkChoice:
        wanted = self.ask.wish.mode
        if wanted is M.ANNOUNCE and self.ask.unproven:
            return NetworkChoice(refusals=tuple(map(unproven, self.ask.unproven)))
        carry = self._first_possible() if wanted == "auto" else self._by_name(wanted)
        if isinstance(carry, Refusal):
            return NetworkChoice(refusals=(carry,))
        if (helper := self._helper()) and (carry is None or carry in HELPED):
            return NetworkChoice(refusals=(chained(helper),))
        if carry is None or carry is M.JOINED:
            return self._joined(None if carry is None else self._terms(carry, wanted))
        cards, refusals = self._alone()
        care_of = self._care_of() if carry in TRANSLATED else ()
        could_announce = wanted == "auto" and carry in HELPED and self._against(M.ANNOUNCE) is None
        missing = self.ask.unproven if could_announce else ()
        return NetworkChoice(self._terms(carry, wanted), cards, care_of, refusals, missing)

    # Which mode

    def _first_possible(self) -> Carrier | Refusal | None:
        if not any(True for _ in self._cards()):
            return None
        if (neutral := self._neutral()) is not None:
            why = self._against(M.ANCHOR)
            return M.ANCHOR if why is None else impossible(M.ANCHOR, f"{neutral} is in a neutral prefix, but {why}")
        if self._against(M.JOINED) is None and self._segments_are_one():
            return M.JOINED
        return next((mode for mode in _BY_PREFERENCE if self._against(mode) is None), None)

    def _by_name(self, wanted: NetworkMode) -> Carrier | Refusal:
        if wanted is not M.ANNOUNCE:
            carry: Carrier = wanted
            why = self._against(carry)
            return carry if why is None else impossible(wanted, why)
        if (why := self._against(M.ANNOUNCE)) is not None:
            return impossible(wanted, why)
        reasons = [(mode, self._against(mode)) for mode in _UNTIL_ANNOUNCED]
        possible = next((mode for mode, reason in reasons if reason is None), None)
        if possible is not None:
            return possible
        return impossible(wanted, "nothing carries the traffic until then: " + "; ".join(str(r) for _, r in reasons))

    def _against(self, mode: NetworkMode) -> str | None:
        """Which side cannot do this mode for this VM, and why; None: both can."""
        network, host = _known(self.vm), self.platform.network
        if mode is M.JOINED and self._comes_home():
            return None
        donors = network.modes if network else (M.JOINED,)
        if mode not in donors:
            told = f"its node offers {_listed(donors)}" if network else "it tells nothing of the VM's addresses"
            return f"the donor cannot: {told}"
        if mode not in host.modes:
            return f"node {self.node} cannot: it offers {_listed(host.modes)}"
        if mode is M.JOINED:
            return self._other_segment()
        return self._nothing_to_keep() or self._against_carrying(mode)

    def _against_carrying(self, mode: NetworkMode) -> str | None:
        network = _known(self.vm)
        if mode is M.EXTEND:
            for nic, _ in self._cards():
                if not _is_device_name(nic.bridge):
                    return f"the donor cannot: {card(nic)} is on no bridge there"
        if mode in HELPED and network and network.price is not None and self.ask.currency not in {"", network.currency}:
            return f"prices cannot be added: the donor asks {network.currency}, this provider {self.ask.currency}"
        if mode is M.ANCHOR:
            for address in addresses_of(self.vm):
                if not any(_is_in(address, prefix) for prefix in self.ask.wish.anchor):
                    return f"the broker cannot: {address} is in no neutral prefix"
        if mode in TRANSLATED and (missing := self._without_care_of()) is not None:
            return f"node {self.node} cannot: it has no care-of address left for {missing}"
        return None

    def _nothing_to_keep(self) -> str | None:
        cards = list(self._cards())
        if not cards:
            return "the VM has no network card with addresses of its own"
        for nic, identity in cards:
            if not routable(identity):
                return f"the donor cannot: it knows no address of {card(nic)}"
        return None

    def _neutral(self) -> str | None:
        """An address whose prefix has gateways of its own."""
        prefixes = self.ask.wish.anchor
        return next((each for each in addresses_of(self.vm) if any(_is_in(each, prefix) for prefix in prefixes)), None)

    def _helper(self) -> str:
        network = _known(self.vm)
        return network.helped_by if network is not None else ""

    # Segments

    def _comes_home(self) -> bool:
        """From a bridge of its own to its segment: no networks need to be joined for that."""
        network = _known(self.vm)
        return network is not None and network.away and self._segments_are_one()

    def _segments_are_one(self) -> bool:
        return all(identity.segment and self._bridge_of(nic, identity) is not None for nic, identity in self._cards())

    def _other_segment(self) -> str | None:
        """Where both sides name a card's segment, and it is not one. The tenant's word counts where one has no name."""
        named = set(self.platform.network.segments.values())
        for nic, identity in self._cards():
            if identity.segment and named and self._bridge_of(nic, identity) is None:
                return f"{card(nic)} is on segment {identity.segment}, node {self.node} has {_listed(sorted(named))}"
        return None

    def _bridge_of(self, nic: Nic, identity: CardNetwork) -> str | None:
        """Our bridge on the card's segment: the network map's, or where no rule of it speaks of the card, any."""
        segments = self.platform.network.segments
        place = self.network_map.place(nic, self.platform.networks)
        if isinstance(place, CardPlace) and place.bridge and segments.get(place.bridge) == identity.segment:
            return place.bridge
        if any(rule.fits(nic) for rule in self.network_map.rules):
            return None
        found = (name for name in sorted(segments) if segments[name] == identity.segment)
        return next((name for name in found if name in self.platform.bridges), None)

    # What is chosen

    def _terms(self, carry: Carrier, wanted: WantedMode) -> NetworkTerms:
        possible = wanted == "auto" and carry in HELPED and not self.ask.unproven
        announced = wanted == M.ANNOUNCE or (possible and self._against(M.ANNOUNCE) is None)
        if carry not in HELPED:
            return NetworkTerms(carry=carry, then_announce=announced)
        network, ours = _known(self.vm), self.ask.ours
        limits = [each for each in (network.ends_after_s if network else None, ours.extension_s) if each is not None]
        prices = [each for each in (network.price if network else None, ours.extension_price) if each is not None]
        return NetworkTerms(
            carry=carry,
            then_announce=announced,
            ends_after_s=min(limits, default=None),
            price=sum(prices, Decimal()) if prices else None,
        )

    def _joined(self, terms: NetworkTerms | None) -> NetworkChoice:
        """By the network map; but the name of a segment is more than the name of a bridge."""
        by_segment: dict[int, str] = {}
        known = _known(self.vm)
        if terms is not None and known is not None:
            for index, (nic, identity) in enumerate(zip(self.vm.nics, known.cards, strict=True)):
                bridge = self._bridge_of(nic, identity) if identity.segment and not is_users(nic) else None
                if bridge is not None:
                    by_segment[index] = bridge
        cards, refusals = place_cards(self.vm.nics, self.network_map, self.platform, known=by_segment)
        return NetworkChoice(terms, cards, refusals=refusals)

    def _alone(self) -> tuple[tuple[CardPlace, ...], tuple[Refusal, ...]]:
        cards: list[CardPlace] = []
        refusals: list[Refusal] = []
        for index, nic in enumerate(self.vm.nics):
            if is_users(nic):
                placed, against = place_cards([nic], self.network_map, self.platform)
                cards += placed
                refusals += against
            else:
                cards.append(CardPlace(nic, bridge=own_bridge(self.ask.wish.port_id, index), own=True))
        return tuple(cards), tuple(refusals)

    # Addresses

    def _cards(self) -> Iterator[tuple[Nic, CardNetwork]]:
        """Cards that have addresses of their own, with what is known of each."""
        known = _known(self.vm)
        for index, nic in enumerate(self.vm.nics):
            if not is_users(nic):
                yield nic, known.cards[index] if known else CardNetwork(mac=nic.mac)

    def _without_care_of(self) -> str | None:
        wanted = addresses_of(self.vm)
        got = {pair.address for pairs in self._care_of() for pair in pairs}
        return next((address for address in wanted if address not in got), None)

    def _care_of(self) -> tuple[tuple[CareOf, ...], ...]:
        """One address of this node's pools for each of the VM's; what the pools cannot give is left out."""
        known = _known(self.vm)
        taken = set(self.ask.taken)
        found: list[tuple[CareOf, ...]] = []
        for identity in known.cards if known else ():
            pairs = []
            for address in routable(identity):
                real = _free(self.platform.network.care_of, address, taken)
                if real is not None:
                    taken.add(real)
                    pairs.append(CareOf(address=address, real=real))
            found.append(tuple(pairs))
        return tuple(found)


def _known(vm: VmDescription) -> VmNetwork | None:
    """What the donor tells, if it is of these cards."""
    network = vm.network
    if network is None or [each.mac for each in network.cards] != [nic.mac for nic in vm.nics]:
        return None
    return network


def _free(pools: tuple[str, ...], address: str, taken: set[str]) -> str | None:
    version = ipaddress.ip_address(address).version
    for pool in map(ipaddress.ip_network, pools):
        if pool.version == version:
            found = next((str(each) for each in pool.hosts() if str(each) not in taken), None)
            if found is not None:
                return found
    return None


def _is_in(address: str, prefix: str) -> bool:
    network = ipaddress.ip_network(prefix)
    return ipaddress.ip_address(address) in network


def _is_device_name(name: str) -> bool:
    return 0 < len(name) <= _BRIDGE_CHARACTERS and all(
        each.isascii() and (each.isalnum() or each in "_.-") for each in name
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
