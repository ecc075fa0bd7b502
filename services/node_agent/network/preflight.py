"""What is looked at on this host before a port, and found to speak against it: findings, each with what to do.

A finding begins with its code; `findings` says which of them stop a port. A probe can be answered by somebody who means
no harm, such as a router that answers for everybody: whoever claims addresses that nobody has is not believed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from services.node_agent.network.address_probe import NOBODYS, who_has
from services.node_agent.network.netlink import Netlink, NetlinkError
from services.node_agent.network.plan import addresses_of
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
    if side is Side.INBOUND and plan.terms.carry is NetworkMode.JOINED:
        try:
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


async def _taken(plan: NetworkPlan, probe: WhoHas) -> list[str]:
    found = []
    async with Netlink() as kernel:
        for card in plan.cards:
            addresses = addresses_of(card.card)
            if not card.bridge or not addresses:
                continue
            macs = {card.card.mac, card.card.guest_mac}
            own = {each.partition("/")[0] for each in await kernel.addresses(card.bridge)}
            found += [f"address_taken: {address} is this host's own on {card.bridge}" for address in own & {*addresses}]
            claims = await probe(card.bridge, (*addresses, *NOBODYS.values()))
            everybody = set[str]().union(*(claims.pop(address, set()) for address in NOBODYS.values()))
            for address, claimed in sorted(claims.items()):
                others = claimed - macs - everybody
                if others:
                    found.append(f"address_taken: {address} is claimed by {_listed(others)} on {card.bridge}")
            if everybody - macs:
                found.append(
                    f"claims_everything: {_listed(everybody - macs)} answers for all addresses on {card.bridge}; "
                    "whether it has the VM's is not known: turn its proxy ARP off"
                )
    return found


def _listed(macs: Iterable[str]) -> str:
    return ", ".join(sorted(macs))
