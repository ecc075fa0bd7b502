"""What the donor agent's handlers share: policy, settings, metrics, and what the provider's nodes run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from uuid import UUID

from services.donor_agent import records
from services.donor_agent.approval import Request
from services.donor_agent.inventory import Inventory
from services.donor_agent.leaving_terms import LeavingSection
from services.donor_agent.metrics import DonorMetrics
from services.donor_agent.policy import Policy
from services.donor_agent.policy_file import PolicyFile
from services.donor_agent.port_record import DonorPort, Phase
from services.donor_agent.settings import DonorSection, NetworkSection
from shared.messages import AnyEnvelope
from shared.messages.base import Refusal
from shared.messages.costs import LeavingTerms
from shared.messages.nodes import DescribeVm
from shared.messages.vm import IdentityBundle, VmState
from shared.provider_agent import count_refusals, send_to_node, timer_key
from shared.store import Transaction

NO_LEAVING_TERMS = LeavingSection()


class DonorContext:
    """One per donor agent. ``inventory`` is replaced with each heartbeat."""

    def __init__(
        self,
        policy_file: PolicyFile,
        settings: DonorSection,
        metrics: DonorMetrics,
        *,
        network: NetworkSection,
        leaving: LeavingSection = NO_LEAVING_TERMS,
        on_policy_change: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self._network = network
        self._leaving = leaving
        self.inventory = Inventory()
        self._policy_file = policy_file
        self._on_policy_change = on_policy_change

    @property
    def policy(self) -> Policy:
        """The policy that was read last."""
        return self._policy_file.policy

    def read_policy(self) -> Policy:
        """The policy, after a look at its file: a legal hold that was written a moment ago must hold."""
        if self._policy_file.refresh():
            self._on_policy_change()
        return self.policy

    async def request(
        self,
        tx: Transaction,
        port_id: UUID,
        *,
        tenant: str,
        vm_uuid: UUID,
        recipient: str | None,
        asked_start: datetime | None = None,
        told: Mapping[str, str] | None = None,
        void: Iterable[str] = (),
    ) -> Request:
        """What is asked, with all that this agent knows about the VM at this moment."""
        count, busy = await records.under_way(tx, except_port=port_id)
        return Request(
            tenant=tenant,
            vm_uuid=vm_uuid,
            now=tx.now,
            located=self.inventory.locate(vm_uuid, tx.now),
            node_silent_after_s=self.settings.node_silent_after_s,
            recipient=recipient,
            ports_under_way=count,
            vm_under_way=busy.get(vm_uuid),
            asked_start=asked_start,
            told=told or {},
            void=frozenset(void),
        )

    def runs(self, vm_uuid: UUID, now: datetime) -> bool:
        """Whether a node of this provider runs the VM, as last heard."""
        located = self.inventory.locate(vm_uuid, now)
        return located is not None and located.vm.state is VmState.RUNNING

    def with_terms(self, identity: IdentityBundle) -> IdentityBundle:
        """What the node has read, with the provider's terms for its help with the VM's addresses."""
        if identity.vm.network is None:
            return identity
        ours = self._network
        terms = {"ends_after_s": ours.extension_s, "price": ours.extension_price, "currency": ours.currency}
        network = identity.vm.network.model_copy(update=terms)
        return identity.model_copy(update={"vm": identity.vm.model_copy(update={"network": network})})

    def leaving_terms(self, port: DonorPort, vm_name: str) -> LeavingTerms:
        """What this provider asks for this VM's leaving, and what its tenant pays now, by the policy."""
        view = self.inventory.nodes.get(port.node)
        rules = self.policy.rules_for(port.tenant, port.vm_uuid, vm_name)
        prices = [rule.price_per_month for rule in rules if rule.price_per_month is not None]
        return self._leaving.terms(view.energy if view is not None else None, prices[0] if prices else None)

    def count(self, tx: Transaction, refusals: tuple[Refusal, ...]) -> None:
        """Count refusals after the commit."""
        count_refusals(tx, self.metrics.refusals_total, refusals)

    def count_demands(self, codes: Iterable[str]) -> None:
        """Count demands that the broker has refused."""
        for code in codes:
            self.metrics.demands_refused_total.labels(code).inc()

    async def ask_to_describe(self, tx: Transaction, port: DonorPort, kind: str, *, cause: AnyEnvelope) -> None:
        """Have the VM's node read the live VM, and set the timer of this kind by which it must have answered."""
        due_at = tx.now + timedelta(seconds=self.settings.describe_within_s)
        # The request itself is kept with the timer: the answer, when it is too late, refers to it.
        await tx.arm(timer_key(kind, port.port_id), due_at, {"cause": cause.to_json().decode()})
        shown = port.phase is Phase.INSPECTING
        describe = DescribeVm(port_id=port.port_id, vm_uuid=port.vm_uuid, port_may_follow=not shown)
        await send_to_node(tx, port.node, describe, cause=cause, deadline=due_at)
