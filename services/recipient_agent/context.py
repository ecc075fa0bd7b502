"""What the recipient agent's handlers share: terms, settings, metrics, and what the provider's nodes have."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

from services.recipient_agent import records
from services.recipient_agent.assessment import CpuAnswers, Suitable, Terms, assess, candidates
from services.recipient_agent.capacity import Held, Nodes
from services.recipient_agent.metrics import RecipientMetrics
from services.recipient_agent.network_terms import NO_WISH, NetworkWish
from services.recipient_agent.placement import Candidate
from services.recipient_agent.prefix_files import PrefixFiles
from services.recipient_agent.prefix_proof import Proofs
from services.recipient_agent.quote_lines import Lines
from services.recipient_agent.reservation import HOLDS_CAPACITY, Phase
from services.recipient_agent.settings import RecipientSection
from shared.messages.base import Refusal
from shared.messages.porting import QuoteRequested, ReservationRequested
from shared.messages.quote_lines import Part
from shared.messages.vm import HypervisorVersions, VmDescription
from shared.provider_agent import count_refusals
from shared.store import Transaction

_COUNTED = HOLDS_CAPACITY | {Phase.PROVISIONED}


class RecipientContext:
    """One per recipient agent. ``nodes`` is replaced with each heartbeat."""

    def __init__(
        self,
        terms: Terms,
        settings: RecipientSection,
        metrics: RecipientMetrics,
        *,
        prefixes: PrefixFiles | None = None,
    ) -> None:
        self.terms = terms
        self.settings = settings
        self.metrics = metrics
        self.nodes = Nodes()
        self._prefixes = prefixes

    async def held(self, tx: Transaction, *, except_port: UUID | None = None) -> list[Held]:
        """Reservations, but not this port's, and VMs that came by a port and are still on a node."""
        everyone = await records.in_phases(tx, _COUNTED)
        return [
            each.as_held()
            for each in everyone
            if each.port_id != except_port and (each.holds_capacity or self.nodes.serves(each.vm.uuid) is not None)
        ]

    async def candidates(self, tx: Transaction, asked: QuoteRequested) -> list[Candidate]:
        """All nodes, with what speaks against each before any was asked about the VM."""
        held = await self.held(tx, except_port=asked.port_id)
        return candidates(
            asked.vm,
            asked.versions,
            self.nodes,
            held,
            terms=self.terms,
            now=tx.now,
            require=asked.limits.require,
            wish=wish_of(asked),
            proofs=await self._proofs(),
        )

    async def assess(
        self,
        tx: Transaction,
        port_id: UUID,
        vm: VmDescription,
        donor: HypervisorVersions,
        *,
        tenant: str,
        require: Iterable[Part] = (),
        cpu_answers: CpuAnswers = MappingProxyType({}),
        promised: Lines | None = None,
        wish: NetworkWish = NO_WISH,
    ) -> Suitable | tuple[Refusal, ...]:
        """Whether and where the VM can come, by what is known at this moment."""
        return assess(
            vm,
            donor,
            tenant=tenant,
            nodes=self.nodes,
            held=await self.held(tx, except_port=port_id),
            terms=self.terms,
            now=tx.now,
            require=require,
            cpu_answers=cpu_answers,
            promised=promised,
            wish=wish,
            proofs=await self._proofs(),
        )

    async def _proofs(self) -> Proofs | None:
        return await self._prefixes.current() if self._prefixes is not None else None

    def is_heard(self, node: str, now: datetime, *, within_s: float | None = None) -> bool:
        """Whether the node was heard lately: within so many seconds, or as the settings say."""
        view = self.nodes.views.get(node)
        if view is None:
            return False
        silent_after_s = self.settings.node_silent_after_s if within_s is None else within_s
        return (now - view.heard_at).total_seconds() <= silent_after_s

    def count(self, tx: Transaction, refusals: tuple[Refusal, ...]) -> None:
        """Count refusals after the commit."""
        count_refusals(tx, self.metrics.refusals_total, refusals)


def wish_of(message: QuoteRequested | ReservationRequested) -> NetworkWish:
    """What the port asks for its VM's addresses."""
    return NetworkWish(message.port_id, message.limits.network_mode, message.anchor)
