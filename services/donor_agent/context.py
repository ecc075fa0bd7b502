"""What the donor agent's handlers share: policy, settings, metrics, and what the provider's nodes run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from services.donor_agent import records
from services.donor_agent.approval import Request
from services.donor_agent.inventory import Inventory
from services.donor_agent.metrics import DonorMetrics
from services.donor_agent.policy import Policy
from services.donor_agent.policy_file import PolicyFile
from services.donor_agent.settings import DonorSection
from shared.messages.base import Refusal
from shared.messages.vm import VmState
from shared.provider_agent import count_refusals
from shared.store import Transaction


class DonorContext:
    """One per donor agent. ``inventory`` is replaced with each heartbeat."""

    def __init__(
        self,
        policy_file: PolicyFile,
        settings: DonorSection,
        metrics: DonorMetrics,
        *,
        on_policy_change: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.metrics = metrics
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
        self, tx: Transaction, port_id: UUID, *, tenant: str, vm_uuid: UUID, recipient: str | None
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
        )

    def runs(self, vm_uuid: UUID, now: datetime) -> bool:
        """Whether a node of this provider runs the VM, as last heard."""
        located = self.inventory.locate(vm_uuid, now)
        return located is not None and located.vm.state is VmState.RUNNING

    def count(self, tx: Transaction, refusals: tuple[Refusal, ...]) -> None:
        """Count refusals after the commit."""
        count_refusals(tx, self.metrics.refusals_total, refusals)
