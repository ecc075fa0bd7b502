"""One judgement over everything that decides whether and where a VM can come, and what it costs. Pure.

Used for a quote and again for the reservation, so that the two cannot disagree but by what has changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from services.recipient_agent.capacity import Held, Nodes, Overcommit, Quota, quota_refusals, room_on, room_refusals
from services.recipient_agent.cpu_check import NOT_COMPARED, without_unasked
from services.recipient_agent.huge_pages import huge_page_refusals
from services.recipient_agent.network_terms import NO_WISH, ExtensionTerms, NetworkAsk, NetworkWish
from services.recipient_agent.placement import MAX_REFUSALS, Candidate, NotPlaced, place
from services.recipient_agent.places import NOTHING_CHOSEN, HostChoice, NodePlaces
from services.recipient_agent.platform import blocker_refusals, collision_refusals, judge_host
from services.recipient_agent.prefix_proof import Proofs, unproven
from services.recipient_agent.pricing import NO_JOINING, InstanceType, Joining, cheapest
from services.recipient_agent.quote import Promise
from services.recipient_agent.quote_lines import NO_LINES, Lines, quote_lines, requirement_refusals
from shared.messages.base import Refusal
from shared.messages.quote_lines import Part
from shared.messages.vm import HypervisorVersions, VmDescription


@dataclass(frozen=True, slots=True)
class Terms:
    """What the provider sells and how, as plain values."""

    overcommit: Overcommit
    quota_total: Quota
    quota_per_tenant: Quota
    instance_types: tuple[InstanceType, ...]
    promise: Promise
    places: NodePlaces
    places_of: Mapping[str, NodePlaces]
    node_silent_after_s: float
    extension: ExtensionTerms
    joining: Joining = NO_JOINING

    def places_on(self, node: str) -> NodePlaces:
        """Where the host-side parts of VMs lie on this node."""
        return self.places_of.get(node, self.places)


@dataclass(frozen=True, slots=True)
class Suitable:
    """The VM can come: where, and as what it is billed."""

    node: str
    instance_type: InstanceType
    choice: HostChoice = NOTHING_CHOSEN
    lines: Lines = NO_LINES


CpuAnswers = Mapping[str, tuple[Refusal, ...]]
"""By node: what its libvirt has against the VM's CPU. A node that is not there has not answered."""


def assess(
    vm: VmDescription,
    donor: HypervisorVersions,
    *,
    tenant: str,
    nodes: Nodes,
    held: Iterable[Held],
    terms: Terms,
    now: datetime,
    require: Iterable[Part] = (),
    cpu_answers: CpuAnswers = MappingProxyType({}),
    promised: Lines | None = None,
    wish: NetworkWish = NO_WISH,
    proofs: Proofs | None = None,
) -> Suitable | tuple[Refusal, ...]:
    """Judge a VM. ``held`` is every reservation, and every VM that came by a port and is here, but not this port's.

    `promised` is what this port's quote said of the VM; a node on which that holds goes before others. `wish` is what
    the port asks for the VM's addresses, `proofs` what is known of public ones; None: they are not looked at.
    """
    others = list(held)
    billed = cheapest(vm, terms.instance_types)
    general = [
        *blocker_refusals(vm),
        *collision_refusals(vm, nodes.in_order(), others),
        *quota_refusals(vm, others, tenant=tenant, quota=terms.quota_per_tenant),
        *quota_refusals(vm, others, tenant=None, quota=terms.quota_total),
        *([billed] if isinstance(billed, Refusal) else []),
    ]
    currency = "" if isinstance(billed, Refusal) else billed.currency
    found = candidates(
        vm,
        donor,
        nodes,
        others,
        terms=terms,
        now=now,
        require=require,
        cpu_answers=cpu_answers,
        wish=wish,
        proofs=proofs,
        currency=currency,
    )
    placed = place(vm, found, promised=promised)
    if isinstance(placed, NotPlaced):
        of_nodes = placed.refusals if not general else [each for each in placed.refusals if each.code != NOT_COMPARED]
        return (*general, *of_nodes)[:MAX_REFUSALS]
    if general or isinstance(billed, Refusal):
        return tuple(general)[:MAX_REFUSALS]
    chosen = next(each for each in found if each.node == placed.node)
    return Suitable(placed.node, billed, chosen.choice, chosen.lines)


def candidates(
    vm: VmDescription,
    donor: HypervisorVersions,
    nodes: Nodes,
    held: list[Held],
    *,
    terms: Terms,
    now: datetime,
    require: Iterable[Part] = (),
    cpu_answers: CpuAnswers = MappingProxyType({}),
    wish: NetworkWish = NO_WISH,
    proofs: Proofs | None = None,
    currency: str = "",
) -> list[Candidate]:
    """All nodes, with what speaks against each, and what the VM would get there."""
    found, required = [], tuple(require)
    taken = frozenset(real for each in held for real in each.care_of)
    missing = unproven(vm.network, proofs, now) if proofs is not None else ()
    network = NetworkAsk(wish, terms.extension, currency, taken, missing)
    for node in nodes.in_order():
        room = room_on(node, held, terms.overcommit)
        judged = judge_host(
            vm,
            donor,
            node,
            places=terms.places_on(node.name),
            silent_s=(now - node.heard_at).total_seconds(),
            silent_after_s=terms.node_silent_after_s,
            cpu=cpu_answers.get(node.name),
            network=network,
        )
        lines = quote_lines(vm, node.platform, judged.choice)
        fits = all(refusal.code == NOT_COMPARED for refusal in judged.refusals)
        refusals = without_unasked(
            (
                *judged.refusals,
                *(requirement_refusals(required, lines) if fits else ()),
                *room_refusals(vm, node, room),
                *huge_page_refusals(vm, node, held),
            )
        )
        found.append(Candidate(node.name, room, refusals, judged.choice, lines))
    return found
