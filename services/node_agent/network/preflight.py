"""What is looked at on this host before a port, and found to speak against it: findings, each with what to do.

A finding begins with its code; `findings` says which of them stop a port. A probe can be answered by somebody who means
no harm, such as a router that answers for everybody: whoever claims addresses that nobody has is not believed. Where
networks are joined, who has an address of the VM takes its packets; where this host routes to the VM, a neighbour with
the same address is told only. An address that this host has itself would never lead to the VM.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from services.node_agent.network.address_probe import NOBODYS, who_has
from services.node_agent.network.netlink import Netlink, NetlinkError
from services.node_agent.network.plan import BRIDGE_PREFIX, EXTENSION_PREFIX, addresses_of, routed_at_once
from shared.messages.network import NetworkMode, NetworkPlan
from shared.messages.porting import Side

BRIDGE_SETTINGS: Final = Path("/proc/sys/net/bridge")
_CALLS: Final = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")

WhoHas = Callable[[str, Iterable[str]], Awaitable[dict[str, set[str]]]]


async def preflight(
    plan: NetworkPlan, side: Side, *, probe: WhoHas = who_has, bridge_settings: Path = BRIDGE_SETTINGS
) -> tuple[str, ...]:
    """Findings of this side, at most a second later. What cannot be looked at is a finding, too."""
    found = list(bridge_netfilter(bridge_settings))
    if side is Side.INBOUND:
        try:
            found += await own_conflicts(plan)
            found += await _taken(plan, probe)
        except (OSError, NetlinkError) as error:
            found.append(f"address_not_probed: {error}")
    return tuple(found)


def bridge_netfilter(settings: Path = BRIDGE_SETTINGS) -> tuple[str, ...]:
    """Whether bridged frames go through rules that were written for routed packets."""
    calls = []
    for name in _CALLS:
        try:
            if (settings / name).read_text("ascii").strip() != "0":
                calls.append(name)
        except OSError:
            continue  # the module is not there, and nothing is called
    if not calls:
        return ()
    settings_text = ", ".join(f"net.bridge.{name}=0" for name in calls)
    return (f"bridge_netfilter: bridged frames of guests go through this host's IP rules and NAT; set {settings_text}",)


async def own_conflicts(plan: NetworkPlan) -> tuple[str, ...]:
    """Recipient: the VM's addresses that this host has itself. Raises `NetlinkError`."""
    found = []
    for device, addresses in (await _neighbourhood(plan)).items():
        here = {each.partition("/")[0] for each in addresses}
        found += [
            f"address_taken: {each} is this host's own on {device}" for each in _wanted(plan, device) if each in here
        ]
    return tuple(found)


async def _taken(plan: NetworkPlan, probe: WhoHas) -> list[str]:
    found: list[str] = []
    macs = {mac for card in plan.cards for mac in (card.card.mac, card.card.guest_mac)}
    code = "address_taken" if plan.terms.carry is NetworkMode.JOINED else "address_claimed"
    for device, own in (await _neighbourhood(plan)).items():
        near = [each for each in _wanted(plan, device) if _is_near(plan, device, each, own)]
        if not near:
            continue
        claims = await probe(device, (*near, *NOBODYS.values()))
        everybody = set[str]().union(*(claims.get(address, set()) for address in NOBODYS.values()))
        found += [
            f"{code}: {address} is claimed by {_listed(others)} on {device}"
            for address in sorted(near)
            if (others := claims.get(address, set()) - macs - everybody)
        ]
        if everybody - macs:
            found.append(
                f"claims_everything: {_listed(everybody - macs)} answers for all addresses on {device}; "
                "whether it has the VM's is not known: turn its proxy ARP off"
            )
    return found


def _listed(macs: Iterable[str]) -> str:
    return ", ".join(sorted(macs))


async def _neighbourhood(plan: NetworkPlan) -> Mapping[str, tuple[str, ...]]:
    """Devices of this host whose neighbours may have an address of the VM, with this host's own addresses there.

    In joined networks it is the card's own bridge; where this host routes to the VM it is every device. What only stays
    on a wire of its own meets nobody.
    """
    joined = plan.terms.carry is NetworkMode.JOINED
    if not joined and not routed_at_once(plan) and not plan.terms.then_announce:
        return {}
    async with Netlink() as kernel:
        bridges = {card.bridge for card in plan.cards if card.bridge}
        names = [link.name for link in await kernel.links() if link.up and link.kind != "loopback"]
        others = [name for name in names if not name.startswith((BRIDGE_PREFIX, EXTENSION_PREFIX, "lo"))]
        return {name: await kernel.addresses(name) for name in (sorted(bridges) if joined else others)}


def _wanted(plan: NetworkPlan, device: str) -> tuple[str, ...]:
    """The VM's addresses that could be taken at this device."""
    joined = plan.terms.carry is NetworkMode.JOINED
    return tuple(
        address for card in plan.cards if not joined or card.bridge == device for address in addresses_of(card.card)
    )


def _is_near(plan: NetworkPlan, device: str, address: str, own: Iterable[str]) -> bool:
    """Whether neighbours at this device are asked for it: on a bridge of the segment, or within a prefix here."""
    if any(card.bridge == device for card in plan.cards):
        return True
    return any(ipaddress.ip_address(address) in ipaddress.ip_interface(each).network for each in own)
