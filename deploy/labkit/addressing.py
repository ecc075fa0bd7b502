"""Who has which addresses behind the WAN: providers' internal networks, the neutral prefix, the client. Pure.

In a joined lab all guests and the client are in 10.88.0.0/24 and fd00:88::/64. In a routed one provider N has
10.81.N.0/24 and fd00:81:N::/64 with its router as gateway, the client is in 203.0.113.0/24 and 2001:db8:c::/64 behind
the hub, and the neutral party's prefix is 198.51.100.0/24 and 2001:db8:a::/48. The last number of an IPv6 address is
written as that of the IPv4 address.
"""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from deploy.labkit.plan import GUEST_PREFIX, HUB, LabPlan
from shared.messages.network import NetworkMode

TRANSIT_AS = 65_000
NEUTRAL_AS = 65_100
NEUTRAL4 = IPv4Network("198.51.100.0/24")
NEUTRAL6 = IPv6Network("2001:db8:a::/48")
CLIENT4 = IPv4Network("203.0.113.0/24")
CLIENT6 = IPv6Network("2001:db8:c::/64")


@dataclass(frozen=True)
class Site:
    """A provider's internal network, and what its router has."""

    as_number: int
    network4: IPv4Network
    network6: IPv6Network
    gateway4: str
    gateway6: str
    gateway_mac: str
    care_of4: IPv4Network
    """Addresses to which gateways of others may translate; the provider announces them, and no host has them."""
    care_of6: IPv6Network


@dataclass(frozen=True)
class Station:
    """Addresses with their prefix lengths (`10.81.1.10/24`) and gateways; an empty gateway means that there is none."""

    ip: str
    ip6: str
    gateway: str = ""
    gateway6: str = ""

    @property
    def address(self) -> str:
        """The IPv4 address alone."""
        return self.ip.partition("/")[0]

    @property
    def address6(self) -> str:
        """The IPv6 address alone."""
        return self.ip6.partition("/")[0]

    def settings(self) -> dict[str, str]:
        """What the guest is told on its kernel's command line."""
        named = {"ip": self.ip, "ip6": self.ip6, "gw": self.gateway, "gw6": self.gateway6}
        return {name: value for name, value in named.items() if value}


def site(plan: LabPlan, provider: str) -> Site:
    """The internal network of a provider of a routed lab."""
    number = plan.providers.index(provider) + 1
    return Site(
        as_number=TRANSIT_AS + number,
        network4=IPv4Network(f"10.81.{number}.0/24"),
        network6=IPv6Network(f"fd00:81:{number}::/64"),
        gateway4=f"10.81.{number}.1",
        gateway6=f"fd00:81:{number}::1",
        gateway_mac=f"02:81:00:00:{number:02x}:01",
        care_of4=IPv4Network(f"10.82.{number}.0/28"),
        care_of6=IPv6Network(f"fd00:82:{number}::/124"),
    )


def as_number(plan: LabPlan, host: str) -> int:
    """The autonomous system of a host that speaks BGP."""
    if host == HUB:
        return TRANSIT_AS
    return NEUTRAL_AS if host in plan.gateways else site(plan, host).as_number


def client(plan: LabPlan) -> Station:
    """The client that talks to guests: in their network where it is joined, else in one of its own."""
    if not plan.routed:
        return Station(f"{GUEST_PREFIX}.2/24", "fd00:88::2/64")
    return Station("203.0.113.2/24", "2001:db8:c::2/64", "203.0.113.1", "2001:db8:c::1")


def guest(plan: LabPlan, provider: str, number: int) -> Station:
    """The addresses of the guest with this number (10 to 254) that begins at a provider.

    A neutral address is alone on its link, as it may be served by anybody: all else is behind the provider's gateway.
    """
    if not plan.routed:
        return Station(f"{GUEST_PREFIX}.{number}/24", f"fd00:88::{number}/64")
    here = site(plan, provider)
    if plan.network is NetworkMode.ANCHOR:
        ip, ip6 = f"198.51.100.{number}/32", f"2001:db8:a::{number}/128"
    else:
        place = provider_number(here)
        ip, ip6 = f"10.81.{place}.{number}/24", f"fd00:81:{place}::{number}/64"
    return Station(ip, ip6, here.gateway4, here.gateway6)


def provider_number(here: Site) -> int:
    """The N in the provider's addresses, from 1."""
    return here.as_number - TRANSIT_AS
