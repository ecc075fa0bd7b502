"""What an agreed way to keep a VM's addresses means for one host at each moment of a port: steps, in order. Pure.

At the recipient a card has a bridge of its own, in every mode but `joined`. Who routes to the guest decides what is on
that bridge:

* While the donor's network is extended, the guest's gateway is the donor's: the bridge is a wire and has no address.
* When this host routes (`translate` and `anchor` from the start, `announce` after the arrival), the bridge *is* the
  guest's gateway: it has the gateway's MAC and addresses, and a route to each address of the guest. The guest's
  neighbour cache stays right, and it notices nothing.

Nothing here is about the page stream; nothing is done here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from uuid import UUID

from services.node_agent.network.firewall import guard_table
from services.node_agent.network.frames import mac_bytes
from services.node_agent.network.icmpv6 import link_local
from services.node_agent.network.steps import (
    ANNOUNCED_METRIC,
    GOING_METRIC,
    METRIC,
    ROUTES_TABLE,
    Address,
    Bridge,
    Neighbour,
    NftTable,
    ProxyNeighbour,
    Queue,
    Route,
    Setting,
    Step,
)
from services.node_agent.network.translate import away_tables, home_tables
from shared.messages.network import CardNetwork, CardPlan, CareOf, NetworkMode, NetworkPlan, is_routable

BRIDGE_PREFIX = "vmp"
"""Of the names of the cards' own bridges, which the recipient's agent chooses."""
EXTENSION_PREFIX = "vmx"
"""Of the names of extensions' devices."""
AWAITED_FRAMES = 128
"""So many may wait for a guest that has not run here yet. One that wakes up takes the oldest first, so a long queue of
what nobody waits for any more is an outage of its own; what is dropped TCP sends again.
"""


def device_name(prefix: str, port_id: UUID, card: int) -> str:
    """A device's name: at most 15 characters, told apart by the port and the card's place in the VM."""
    return f"{prefix}{port_id.hex[:10]}{card}"


def routed_at_once(plan: NetworkPlan) -> bool:
    """Whether the recipient is the guest's gateway from its first instant."""
    return plan.terms.carry in {NetworkMode.TRANSLATE, NetworkMode.ANCHOR}


def own_bridges(plan: NetworkPlan) -> tuple[tuple[int, CardPlan], ...]:
    """The cards that get a bridge of their own at the recipient, with their places in the VM."""
    if plan.terms.carry is NetworkMode.JOINED:
        return ()
    return tuple((place, card) for place, card in enumerate(plan.cards) if card.bridge)


def recipient_prepares(plan: NetworkPlan, port_id: UUID, *, closed: bool = False) -> tuple[Step, ...]:
    """Before the guest comes: a wire for each card, and what guards it. `closed`: the donor helps no longer."""
    steps: list[Step] = []
    for place, card in own_bridges(plan):
        steps.append(Bridge(name=card.bridge, mtu=card.card.mtu))
        steps += _quiet(card.bridge)
        steps.append(guard_table(card, port_id, place))
    if routed_at_once(plan) and not closed:
        steps += home_tables(_table("home", port_id), care_of(plan))
    return tuple(steps)


class Announced(Enum):
    """Whether the recipient's daemon tells the world of the guest; by the metric of the routes that it reads."""

    NOT = METRIC
    YES = ANNOUNCED_METRIC
    GOING = GOING_METRIC
    """Still, but whoever has another way is to take that one."""


class Going(Enum):
    """How far a guest has gone that was announced here, and is announced by the next host."""

    HELPED = "helped"
    """Packets for it that come here go on to it by what has been made here for it."""
    PASSED = "passed"
    """They go where the next host's announcement says, and are still asked for."""
    GONE = "gone"
    """They are not asked for any more."""


def recipient_routes(plan: NetworkPlan, announced: Announced = Announced.NOT) -> tuple[Step, ...]:
    """This host becomes the guest's gateway."""
    steps: list[Step] = []
    for _, card in own_bridges(plan):
        steps += _gateway(card, announced.value)
    return tuple(steps)


def recipient_announces(plan: NetworkPlan, announced: Announced = Announced.YES) -> tuple[Step, ...]:
    """The routes that a routing daemon tells the world. One that reads no tables finds `recipient_routes` by metric."""
    return tuple(
        Route(destination=host_prefix(address), device=card.bridge, table=ROUTES_TABLE, metric=announced.value)
        for _, card in own_bridges(plan)
        for address in addresses_of(card.card)
    )


def clone_table(plan: NetworkPlan, port_id: UUID, taps: Mapping[str, str]) -> tuple[Step, ...]:
    """From the pause on, what is sent to the guest goes over the extension, too: the first frames wait for it there.

    `taps` are the donor's devices of the guest's cards, by MAC; a card without is not cloned.
    """
    if plan.terms.carry is not NetworkMode.EXTEND:
        return ()
    steps: list[Step] = []
    for place, card in own_bridges(plan):
        if (tap := taps.get(card.card.mac)) is not None:
            name, to = f"vmport_clone_{port_id.hex[:10]}_{place}", device_name(EXTENSION_PREFIX, port_id, place)
            at = {"family": "netdev", "table": name}
            hook = {"type": "filter", "hook": "egress", "dev": tap, "prio": 0, "policy": "accept"}
            rule = {"expr": [{"dup": {"addr": to}}], "chain": "to_guest"}
            objects = ({"chain": {**at, "name": "to_guest", **hook}}, {"rule": {**at, **rule}})
            steps.append(NftTable(family="netdev", name=name, objects=objects))
    return tuple(steps)


def donor_routes_away(plan: NetworkPlan) -> tuple[Step, ...]:
    """The donor's own network asks this host's gateway for the VM, which is elsewhere now."""
    steps: list[Step] = []
    for _, card in own_bridges(plan):
        if card.donor_bridge:
            steps += [ProxyNeighbour(device=card.donor_bridge, address=address) for address in addresses_of(card.card)]
    return tuple(steps)


def donor_knows(plan: NetworkPlan) -> tuple[Step, ...]:
    """Where the recipient is the guest's gateway, too, the guest's answers to this host's ARP stay there."""
    return tuple(
        Neighbour(device=card.donor_bridge, address=address, mac=guest_mac(card.card))
        for _, card in own_bridges(plan)
        if card.donor_bridge
        for address in addresses_of(card.card)
    )


def recipient_wants(
    plan: NetworkPlan,
    port_id: UUID,
    *,
    arrived: bool,
    closed: bool = False,
    going: Going | None = None,
    taps: Iterable[str] = (),
) -> tuple[Step, ...]:
    """All that is to be made at the recipient now. `going`: the guest was ported on, and is announced elsewhere. `taps`
    are the guest's devices here, once they are known.
    """
    announced = Announced.NOT
    if arrived and plan.terms.then_announce and going is not Going.GONE:
        announced = Announced.YES if going is None else Announced.GOING
    steps = recipient_prepares(plan, port_id, closed=closed)
    if not arrived:
        steps += tuple(Queue(device=tap, frames=AWAITED_FRAMES) for tap in taps)
    leads_here = going in {None, Going.HELPED}
    if leads_here and (routed_at_once(plan) or (arrived and plan.terms.then_announce)):
        steps += recipient_routes(plan, announced)
    return steps if announced is Announced.NOT else (*steps, *recipient_announces(plan, announced))


def donor_wants(
    plan: NetworkPlan, port_id: UUID, *, paused: bool, away: bool, helps: bool, taps: Mapping[str, str]
) -> tuple[Step, ...]:
    """All that is to be made at the donor now. `helps`: packets reach the VM by this donor still."""
    translates = plan.terms.carry is NetworkMode.TRANSLATE and helps
    tables = away_tables(_table("away", port_id), care_of(plan)) if translates else ()
    if not away:
        # From the pause on: what comes meanwhile waits for the guest at the recipient.
        return (*tables, *clone_table(plan, port_id, taps)) if paused else ()
    if translates:
        return (*tables, *donor_routes_away(plan))
    if not plan.terms.then_announce:
        return ()
    # While an extension is open it is the VM's place here.
    carried = plan.terms.carry is NetworkMode.EXTEND and helps
    return donor_knows(plan) if carried else donor_routes_away(plan)


def care_of(plan: NetworkPlan) -> tuple[CareOf, ...]:
    """Of all cards."""
    return tuple(pair for card in plan.cards for pair in card.care_of)


def addresses_of(card: CardNetwork) -> tuple[str, ...]:
    """The card's addresses that others can reach: not those that hold on its own segment only."""
    return tuple(each.address for each in card.addresses if is_routable(each.address))


def host_prefix(address: str) -> str:
    """The prefix of one address."""
    return f"{address}/{ipaddress.ip_address(address).max_prefixlen}"


def guest_mac(card: CardNetwork) -> str:
    """The MAC by which the guest speaks."""
    return card.guest_mac or card.mac


def gateway_mac(card: CardNetwork) -> str | None:
    """The MAC that all of the guest's gateways have where this host is its router; None: it has none."""
    return next((gateway.mac for gateway in card.gateways), None)


def _router_address(card: CardNetwork) -> str | None:
    """By which a guest knows an IPv6 router that has advertised itself; None where the gateways have one themselves."""
    six = [
        address for address in (ipaddress.ip_address(each.address) for each in card.gateways) if address.version == 6
    ]
    mac = gateway_mac(card)
    if not six or mac is None or any(address.is_link_local for address in six):
        return None
    return str(ipaddress.IPv6Address(link_local(mac_bytes(mac))))


def _table(purpose: str, port_id: UUID) -> str:
    return f"vmport_{purpose}_{port_id.hex[:10]}"


def _quiet(bridge: str) -> Iterator[Step]:
    """The host itself says nothing on the wire, and believes nothing that the guest advertises."""
    for name, value in (("accept_ra", "0"), ("autoconf", "0"), ("addr_gen_mode", "1")):
        yield Setting(device=bridge, family="ipv6", name=name, value=value)
    # An address of this host on another device is not told to the guest.
    yield Setting(device=bridge, family="ipv4", name="arp_ignore", value="1")


def _gateway(card: CardPlan, metric: int) -> Iterator[Step]:
    bridge, network = card.bridge, card.card
    yield Bridge(name=bridge, mac=gateway_mac(network), mtu=network.mtu)
    for family in ("ipv4", "ipv6"):
        yield Setting(device=bridge, family="ipv4" if family == "ipv4" else "ipv6", name="forwarding", value="1")
    # The guest takes its whole segment for neighbours, which are behind this host now.
    yield Setting(device=bridge, family="ipv4", name="proxy_arp", value="1")
    yield Setting(device=bridge, family="ipv4", name="rp_filter", value="0")
    yield Setting(device=bridge, family="ipv4", name="arp_ignore", value="0")
    for gateway in network.gateways:
        yield Address(device=bridge, address=gateway.address)
    if (router := _router_address(network)) is not None:
        yield Address(device=bridge, address=router)
    for address in addresses_of(network):
        yield Neighbour(device=bridge, address=address, mac=guest_mac(network))
        yield Route(destination=host_prefix(address), device=bridge, metric=metric)
