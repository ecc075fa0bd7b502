"""Tells the broker which VMs this provider serves: neither what has left, nor what has not arrived yet."""

from __future__ import annotations

from services.donor_agent import records
from services.donor_agent.context import DonorContext
from services.donor_agent.port_record import GONE
from shared.messages.nodes import InventoryReported, OwnedVm
from shared.parties import BROKER
from shared.provider_agent import silence_s
from shared.store import Transaction


class InventoryReport:
    """Sends reports, and remembers the last one."""

    def __init__(self, context: DonorContext) -> None:
        self._context = context
        self._reported: tuple[OwnedVm, ...] | None = None

    async def send(self, tx: Transaction, *, only_changes: bool) -> None:
        """Report now; with ``only_changes`` only if another set of VMs is served than was reported last."""
        inventory = self._context.inventory
        served_before = frozenset(owned.vm.uuid for owned in self._reported or ())
        elsewhere = await records.vms_in(tx, GONE)
        elsewhere |= inventory.arriving(await records.outbound_ports(tx), served_before)
        owned = inventory.owned(self._context.policy)
        served = tuple(each for each in owned if each.vm.uuid not in elsewhere)
        if not inventory.nodes or (only_changes and served == self._reported):
            return
        silent = {name: silence_s(view.heard_at, tx.now) for name, view in inventory.nodes.items()}
        await tx.send(BROKER, InventoryReported(at=tx.now, vms=served, nodes_silent_s=silent))
        tx.after_commit(lambda: self._sent(served))

    def _sent(self, served: tuple[OwnedVm, ...]) -> None:
        self._reported = served
