"""Values about a VM's place in networks: its addresses, the ways to keep them in a port, and what was agreed. Pure.

A card's addresses stay as they are in every mode. What differs is how packets find the VM while it moves, and who
routes to it afterwards.
"""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from shared.messages.base import Price, Seconds, Value

MAX_CARDS = 64
MacAddress = Annotated[str, Field(pattern=r"^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$")]
BridgeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{0,15}$", description="A Linux device's name.")]
Label = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{0,256}$", description="One short line.")]
Port = Annotated[int, Field(ge=0, le=65_535)]


def _address(text: str) -> str:
    address = ipaddress.ip_address(text)
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ValueError(f"{text} is no address of a host")
    if str(address) != text or (address.version == 6 and address.scope_id):
        raise ValueError(f"write the address as {ipaddress.ip_address(int(address))}")
    return text


def _network(text: str) -> str:
    network = ipaddress.ip_network(text)
    if str(network) != text:
        raise ValueError(f"write the prefix as {network}")
    return text


IpAddress = Annotated[str, AfterValidator(_address), Field(max_length=45, json_schema_extra={"format": "ip-address"})]
"""One address of a host in its canonical form, IPv4 or IPv6."""
IpNetwork = Annotated[str, AfterValidator(_network), Field(max_length=49, json_schema_extra={"format": "ip-network"})]
"""A prefix in its canonical form, without bits of hosts."""
AnchorPrefixes = Annotated[
    tuple[IpNetwork, ...],
    Field(max_length=16, description="Neutral prefixes whose gateways the broker tells where a VM is served."),
]


def is_routable(address: str) -> bool:
    """Whether an address means the same host on every link; a link-local one does not."""
    return not ipaddress.ip_address(address).is_link_local


class NetworkMode(StrEnum):
    """How packets find the VM after it has moved."""

    JOINED = "joined"
    """The providers' networks are one already: nothing is changed but that the VM is announced there."""
    EXTEND = "extend"
    """A layer-2 extension for this VM alone, encrypted, between the two nodes."""
    TRANSLATE = "translate"
    """The donor's gateway translates the address into one of the recipient's, and the recipient's back."""
    ANCHOR = "anchor"
    """The address belongs to a neutral prefix, whose gateways know by which provider the VM is served."""
    ANNOUNCE = "announce"
    """The recipient announces the address itself; another mode carries the traffic until it does."""


Carrier = Literal[NetworkMode.JOINED, NetworkMode.EXTEND, NetworkMode.TRANSLATE, NetworkMode.ANCHOR]
"""A mode that can carry the traffic at the switchover."""
WantedMode = Literal["auto"] | NetworkMode


class AddressSource(StrEnum):
    """Who says that a card has an address."""

    DECLARED = "declared"
    """The provider's own list."""
    GUEST = "guest"
    """The guest's agent."""
    LEASE = "lease"
    NEIGHBOUR = "neighbour"
    """The host's neighbour table."""


class CardAddress(Value):
    """One address of a card, and who says so."""

    address: IpAddress
    sources: tuple[AddressSource, ...] = Field(default=(), max_length=len(AddressSource))


class NetworkGateway(Value):
    """A router that the guest uses, as the guest's neighbour cache knows it."""

    address: IpAddress
    mac: MacAddress


class FirewallRule(Value):
    """One rule of a card's own firewall. What no rule accepts is dropped, if there are rules; answers always pass."""

    direction: Literal["in", "out"]
    action: Literal["accept", "drop"]
    protocol: Literal["any", "tcp", "udp", "icmp", "icmpv6"] = "any"
    remote: IpNetwork | None = Field(default=None, description="Of the other side; none: any.")
    first_port: Port = Field(default=0, description="Of the destination; 0 to 65535 means any.")
    last_port: Port = 65_535


class CardNetwork(Value):
    """A card's identity in its network. Cards are known by their order, as `Nic` is."""

    mac: MacAddress
    guest_mac: MacAddress | None = Field(default=None, description="Where the guest itself has set another one.")
    addresses: tuple[CardAddress, ...] = Field(default=(), max_length=32)
    on_link: tuple[IpNetwork, ...] = Field(default=(), max_length=8, description="Prefixes of its segment.")
    gateways: tuple[NetworkGateway, ...] = Field(default=(), max_length=8)
    mtu: int = Field(default=1500, ge=576, le=65_535)
    segment: Label = Field(default="", description="Operators' name of the segment; the same name means one network.")
    holder: Label = Field(default="", description="Who holds the addresses: a provider, the tenant or a neutral party.")
    announced_by: Label = Field(default="", description="Who announces them now.")
    firewall: tuple[FirewallRule, ...] = Field(default=(), max_length=256)


class VmNetwork(Value):
    """What is known of a VM's addresses, and what its donor can do to keep them."""

    cards: tuple[CardNetwork, ...] = Field(max_length=MAX_CARDS)
    modes: tuple[NetworkMode, ...] = Field(default=(NetworkMode.JOINED,), max_length=len(NetworkMode))
    findings: tuple[Label, ...] = Field(default=(), max_length=32, description="Where the sources differ.")
    ends_after_s: Seconds | None = Field(default=None, description="How long the donor helps at most; none: for ever.")
    price: Price | None = Field(default=None, description="What the donor asks for that time; none: nothing.")
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "EUR"
    away: bool = Field(
        default=False, description="It came by a port with its addresses, and is on a bridge of its own."
    )
    helped_by: Label = Field(
        default="", description="Provider whose extension or translation its packets need now. That ends with a port."
    )


class NodeNetwork(Value):
    """What a node can do to keep addresses. Part of its heartbeat."""

    modes: tuple[NetworkMode, ...] = Field(default=(NetworkMode.JOINED,), max_length=len(NetworkMode))
    segments: dict[BridgeName, Label] = Field(default_factory=dict, max_length=64)
    care_of: tuple[IpNetwork, ...] = Field(
        default=(), max_length=16, description="Addresses of this node to which others may translate."
    )


class NetworkTerms(Value):
    """What a quote offers for the VM's addresses."""

    carry: Carrier
    then_announce: bool = Field(default=False, description="The recipient then announces them itself.")
    ends_after_s: Seconds | None = Field(default=None, description="When the donor's help ends; none: never.")
    price: Price | None = Field(default=None, description="For that time, in the quote's currency.")


class CareOf(Value):
    """Where packets for an address are sent while another party routes it."""

    address: IpAddress
    real: IpAddress = Field(description="An address of the recipient's, of the same family.")

    @model_validator(mode="after")
    def _one_family(self) -> Self:
        if ipaddress.ip_address(self.address).version != ipaddress.ip_address(self.real).version:
            raise ValueError(f"{self.address} and {self.real} are not of one family")
        return self


class CardPlan(Value):
    """What was agreed for one card."""

    card: CardNetwork
    donor_bridge: BridgeName = ""
    bridge: BridgeName = Field(default="", description="The recipient's; in all modes but joined the card's own.")
    care_of: tuple[CareOf, ...] = Field(default=(), max_length=32)


class NetworkPlan(Value):
    """How a port keeps the VM's addresses. Part of the agreement."""

    terms: NetworkTerms
    cards: tuple[CardPlan, ...] = Field(max_length=MAX_CARDS)
