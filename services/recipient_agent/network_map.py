"""Where a donor's network cards go here: bridge, network, Open vSwitch port, VLAN tags, by the operator's rules. Pure.

A card is placed by the first rule that fits it. One that no rule fits goes by name: to the bridge that `bridges` names
for its own, to the network of the same name, to the default bridge, or to the bridge of the same name.

A VLAN is a wall between tenants, so no name is enough for it: a card with tags, or in a port group (whose VLAN stands
in the donor's network), goes only where a rule says what becomes of its tags. A rule without `vlan` fits no such card.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.domain import PASST_VHOST
from shared.messages.base import Refusal
from shared.messages.vm import HostPlatform, Nic, Vlan

NetworkName = Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.:-]*$")]
Tag = Annotated[int, Field(ge=1, le=4094)]
Tags = Annotated[tuple[Tag, ...], Field(min_length=1, max_length=64)]
_WITHOUT_OFFLOADS = frozenset({"user", "passt"})
"""Kinds whose packets have no header for offloads."""
Guard = Literal["filter", "bandwidth", "isolated", "virtualport"]


class NetworkRule(BaseModel):
    """One rule of the network map: which cards it fits, and where they go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["any", "bridge", "network", "user", "passt", "ethernet"] = Field(
        default="any",
        description="Fits cards of this kind at the donor. any: of every kind but ethernet, which is a tap device that "
        "a program of the donor's host connects to something. user: QEMU's user network, and passt where it serves as "
        "that; passt: all of passt, also over vhost-user.",
    )
    bridge: NetworkName = Field(default="", description="Fits cards on this bridge of the donor; empty: on any.")
    network: NetworkName = Field(default="", description="Fits cards on this network of the donor; empty: on any.")
    port_group: NetworkName = Field(
        default="", description="Fits cards of this port group of the donor; empty: only those that are in none."
    )
    vlan: Literal["none", "any"] | Tags = Field(
        default="none", description="Fits cards with exactly these VLAN tags; none: without tags; any: with some."
    )
    to_bridge: NetworkName = Field(default="", description="Our bridge for them.")
    to_network: NetworkName = Field(default="", description="Our libvirt network for them, instead of a bridge.")
    to_port_group: NetworkName = Field(default="", description="The port group of that network.")
    to_user: bool = Field(default=False, description="They stay on QEMU's own user network, behind the host's address.")
    openvswitch: bool = Field(default=False, description="to_bridge is one of Open vSwitch.")
    to_vlan: Literal["none", "same", "is_that_vlan"] | Tags = Field(
        default="none",
        description="The tags here: same, or these, on a port that tags (Open vSwitch or a network); is_that_vlan: the "
        "target carries nothing but that VLAN, so the card needs no tag.",
    )
    never_without: tuple[Guard, ...] = Field(
        default=(),
        description="Refuse cards that have one of these at the donor, since it is not kept: filter, bandwidth, "
        "isolated, virtualport.",
    )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if sum((bool(self.to_bridge), bool(self.to_network), self.to_user)) != 1:
            raise ValueError("give one of to_bridge, to_network and to_user")
        if self.openvswitch and not self.to_bridge:
            raise ValueError("openvswitch says what to_bridge is, which is not given")
        if self.to_port_group and not self.to_network:
            raise ValueError("to_port_group needs to_network")
        return self

    @model_validator(mode="after")
    def _tags_have_a_target(self) -> Self:
        tagged = self.vlan != "none" or bool(self.port_group)
        if tagged and self.to_vlan == "none":
            raise ValueError('say in to_vlan what becomes of the VLAN: "same", tags, or "is_that_vlan"')
        if not tagged and self.to_vlan != "none":
            raise ValueError("to_vlan needs vlan or port_group: cards without a VLAN get no tag here")
        if self.to_vlan not in {"none", "is_that_vlan"} and not (self.openvswitch or self.to_network):
            raise ValueError("tags need a port that tags: a to_network, or a to_bridge with openvswitch = true")
        for name, tags in (("vlan", self.vlan), ("to_vlan", self.to_vlan)):
            if not isinstance(tags, str) and len(set(tags)) != len(tags):
                raise ValueError(f"{name} names a tag twice")
        if not isinstance(self.to_vlan, str) and (isinstance(self.vlan, str) or len(self.to_vlan) != len(self.vlan)):
            raise ValueError("to_vlan names as many tags as vlan, in the same order")
        return self

    def fits(self, nic: Nic) -> bool:
        """Whether the rule is for this card."""
        tags = nic.vlan.tags if nic.vlan else ()
        wanted = {"none": not tags, "any": bool(tags)}.get(self.vlan) if isinstance(self.vlan, str) else None
        return (
            (self.kind in _kinds(nic) or (self.kind == "any" and nic.kind != "ethernet"))
            and self.bridge in {"", nic.bridge}
            and self.network in {"", nic.network}
            and self.port_group == nic.port_group
            and (tags == self.vlan if wanted is None else wanted)
        )

    @property
    def matches(self) -> tuple[object, ...]:
        """What it fits; of two rules that fit the same cards the second is never reached."""
        return (self.kind, self.bridge, self.network, self.port_group, self.vlan)


@dataclass(frozen=True, slots=True)
class CardPlace:
    """Where one card goes here: to a bridge, to a network, or (neither) to QEMU's user network."""

    nic: Nic
    bridge: str = ""
    network: str = ""
    port_group: str = ""
    openvswitch: bool = False
    vlan: Vlan | None = None
    is_that_vlan: bool = False
    """The target is the card's VLAN, so it needs no tag."""
    own: bool = False
    """The node makes this bridge for the card alone (`network_terms`)."""

    @property
    def isolated(self) -> bool:
        """Whether it stays isolated from other cards: a Linux bridge can do that."""
        return self.nic.isolated and bool(self.bridge) and not self.openvswitch and not self.own

    def __str__(self) -> str:
        if self.own:
            return "a bridge of its own"
        if self.network:
            return f"network {self.network}" + (f", port group {self.port_group}" if self.port_group else "")
        if self.bridge:
            return f"{'Open vSwitch bridge' if self.openvswitch else 'bridge'} {self.bridge}"
        return "QEMU's user network"


@dataclass(frozen=True, slots=True)
class NetworkMap:
    """How a donor's networks map to this provider's."""

    by_name: dict[str, str] = field(default_factory=dict)
    """The donor's bridge names to ours."""
    default: str = ""
    rules: tuple[NetworkRule, ...] = ()

    def here(self, theirs: str) -> str:
        """Our bridge for theirs: as mapped, else the default, else the one of the same name."""
        return self.by_name.get(theirs) or self.default or theirs

    def place(self, nic: Nic, networks: Sequence[str] = ()) -> CardPlace | Refusal:
        """Where a card goes; `networks` are the node's own."""
        rule = next((rule for rule in self.rules if rule.fits(nic)), None)
        if rule is not None:
            return _by_rule(nic, rule)
        if nic.vlan is not None and nic.vlan.tags:
            tags = ", ".join(map(str, nic.vlan.tags))
            return _refusal(
                "vlan_unmapped", f"{card(nic)} has VLAN {tags} on {_theirs(nic)}: no rule says where it goes"
            )
        if nic.port_group:
            found = f"{card(nic)} is in port group {nic.port_group} of {_theirs(nic)}: no rule says where it goes"
            return _refusal("port_group_unmapped", found)
        return self._by_name(nic, networks)

    def _by_name(self, nic: Nic, networks: Sequence[str]) -> CardPlace | Refusal:
        kind = nic.kind
        if kind == "bridge" and nic.bridge:
            return CardPlace(nic, bridge=self.here(nic.bridge))
        if kind == "network" and nic.bridge in self.by_name:
            return CardPlace(nic, bridge=self.by_name[nic.bridge])
        if kind == "network" and nic.network in networks:
            return CardPlace(nic, network=nic.network)
        if kind == "network" and self.default:
            return CardPlace(nic, bridge=self.default)
        return _refusal("network_unmapped", f"{card(nic)} is on {_theirs(nic)}: nothing here says where it goes")


def place_cards(
    nics: Iterable[Nic],
    network_map: NetworkMap,
    platform: HostPlatform,
    *,
    known: Mapping[int, str] = MappingProxyType({}),
) -> tuple[tuple[CardPlace, ...], tuple[Refusal, ...]]:
    """Places of all cards in their order (two cards may have one MAC), and what speaks against it on this host.

    `known` are bridges, by a card's index, that are on the very segment of the card; they go before names.
    """
    places: list[CardPlace] = []
    refusals: list[Refusal] = []
    for index, nic in enumerate(nics):
        found = network_map.place(nic, platform.networks)
        if index in known and not (isinstance(found, CardPlace) and found.bridge == known[index]):
            found = CardPlace(nic, bridge=known[index])
        if isinstance(found, Refusal):
            refusals.append(found)
        else:
            places.append(found)
            refusals += _missing(found, platform)
    return tuple(places), tuple(dict.fromkeys(refusals))


def _missing(place: CardPlace, platform: HostPlatform) -> Iterator[Refusal]:
    if place.bridge and place.bridge not in platform.bridges:
        there = ", ".join(platform.bridges) or "none"
        yield _refusal("bridge_missing", f"the donor's {_theirs(place.nic)} is {place.bridge} here; there is {there}")
    elif place.openvswitch and place.bridge not in platform.ovs_bridges:
        yield _refusal("bridge_missing", f"{place.bridge} is no bridge of Open vSwitch on this node")
    if place.network and place.network not in platform.networks:
        there = ", ".join(platform.networks) or "none"
        yield _refusal("network_missing", f"the donor's {_theirs(place.nic)} is {place.network} here; there is {there}")


def _by_rule(nic: Nic, rule: NetworkRule) -> CardPlace | Refusal:
    if nic.kind == "user" and not rule.to_user:
        there = rule.to_bridge or rule.to_network
        return _refusal("user_network_moved", f"{card(nic)} is on QEMU's user network, and a rule says {there}")
    if rule.to_user and nic.kind not in _WITHOUT_OFFLOADS and nic.model.startswith("virtio"):
        found = f"{card(nic)} is on {_theirs(nic)}, and a rule says QEMU's user network"
        return _refusal("user_network_too_plain", found)
    place = CardPlace(
        nic,
        bridge=rule.to_bridge,
        network=rule.to_network,
        port_group=rule.to_port_group,
        openvswitch=rule.openvswitch,
        vlan=_vlan_here(nic.vlan, rule),
        is_that_vlan=rule.to_vlan == "is_that_vlan",
    )
    lost = [guard for guard in rule.never_without if guard in guards_of(nic) and not _keeps(place, guard)]
    if lost:
        return _refusal("network_guard_lost", f"{card(nic)} has {', '.join(lost)} at the donor, which is not kept here")
    return place


def _keeps(place: CardPlace, guard: Guard) -> bool:
    return guard == "isolated" and place.isolated


def _vlan_here(theirs: Vlan | None, rule: NetworkRule) -> Vlan | None:
    if theirs is None or rule.to_vlan in {"none", "is_that_vlan"}:
        return None
    if isinstance(rule.to_vlan, str):
        return theirs
    ours = dict(zip(theirs.tags, rule.to_vlan, strict=True))
    native = None if theirs.native is None else ours.get(theirs.native)
    return theirs.model_copy(update={"tags": tuple(rule.to_vlan), "native": native})


def guards_of(nic: Nic) -> tuple[Guard, ...]:
    """What guards or limits a card at the donor, and is never kept."""
    found: tuple[tuple[Guard, bool], ...] = (
        ("filter", bool(nic.filter)),
        ("bandwidth", nic.has_bandwidth),
        ("isolated", nic.isolated),
        ("virtualport", bool(nic.virtualport)),
    )
    return tuple(name for name, has in found if has)


def card(nic: Nic) -> str:
    """What people call a card."""
    return f"network card {nic.mac}"


def _kinds(nic: Nic) -> tuple[str, ...]:
    """What a rule may call the card's kind."""
    return {"passt": ("user", "passt"), PASST_VHOST: ("passt",)}.get(nic.kind, (nic.kind,))


def is_users(nic: Nic) -> bool:
    """Whether a card is on a user network: it has no address of its own outside."""
    return nic.kind in {"user", "passt", PASST_VHOST}


def _theirs(nic: Nic) -> str:
    if nic.network:
        return f"network {nic.network}"
    return f"bridge {nic.bridge}" if nic.bridge else f"a network of kind {nic.kind}"


_RULES = {
    "vlan_unmapped": "A card with VLAN tags goes only where a rule of the network map says what becomes of them.",
    "port_group_unmapped": "A card in a port group, which may have a VLAN, goes only where a rule names the group.",
    "network_unmapped": "Each network card goes where the network map says, or to what has the same name here.",
    "user_network_moved": "QEMU's user network is part of the guest's state, and QEMU loads it only into another one.",
    "user_network_too_plain": "QEMU loads a virtio card whose network has offloads only on such a network.",
    "network_guard_lost": "The network map does not let in cards that lose this.",
    "bridge_missing": "Each network card needs a bridge on the host.",
    "network_missing": "Each network card needs its network on the host, and active.",
}


def _refusal(code: str, evidence: str) -> Refusal:
    return Refusal(code=code, rule=_RULES[code], evidence=evidence)
