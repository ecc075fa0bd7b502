"""Tells the broker what this provider can take, in sum over its nodes that are healthy and heard."""

from __future__ import annotations

from services.recipient_agent.assessment import Terms
from services.recipient_agent.capacity import room_on
from services.recipient_agent.context import RecipientContext
from shared.messages.catalogue import Catalogue, TenantLimits
from shared.messages.nodes import CapacityReported
from shared.parties import BROKER
from shared.provider_agent import silence_s
from shared.store import Transaction


class CapacityReport:
    """Sends reports, and remembers the last one's numbers of nodes."""

    def __init__(self, context: RecipientContext) -> None:
        self._context = context
        self._reported: tuple[int, int] | None = None

    async def send(self, tx: Transaction, *, only_changes: bool) -> None:
        """Report now; with ``only_changes`` only if nodes came or went since the last report."""
        context = self._context
        held = await context.held(tx)
        rooms = [
            room_on(view, held, context.terms.overcommit)
            for view in context.nodes.in_order()
            if not view.problems and context.is_heard(view.name, tx.now)
        ]
        counts = (len(rooms), len(context.nodes.views))
        if not context.nodes.views or (only_changes and counts == self._reported):
            return
        report = CapacityReported(
            at=tx.now,
            nodes_healthy=counts[0],
            nodes=counts[1],
            memory_free_bytes=sum(max(room.memory_bytes, 0) for room in rooms),
            disk_free_bytes=sum(max(room.disk_bytes, 0) for room in rooms),
            nodes_silent_s={name: silence_s(view.heard_at, tx.now) for name, view in context.nodes.views.items()},
            catalogue=catalogue_of(context.terms),
        )
        await tx.send(BROKER, report)
        tx.after_commit(lambda: self._sent(counts))

    def _sent(self, counts: tuple[int, int]) -> None:
        self._reported = counts


def catalogue_of(terms: Terms) -> Catalogue:
    """What is sold, and the most that one tenant may have."""
    most = terms.quota_per_tenant
    return Catalogue(
        types=tuple(each.offered() for each in terms.instance_types),
        per_tenant=TenantLimits(vms=most.vms, vcpus=most.vcpus, memory_mib=most.memory_mib, disk_gib=most.disk_gib),
    )
