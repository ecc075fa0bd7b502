"""The known bugs in the core tier: in the shells, the bus and the host's hook, never in the product's machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from services.node_agent.network import journal
from services.node_agent.network.journal import NetworkRecord
from services.node_agent.network.plan import recipient_wants
from services.node_agent.network.settling import Settling
from services.node_agent.network.steps import Step
from services.node_agent.state.journal import Phase
from services.node_agent.transfers.machine import Guest
from services.node_agent.transfers.machine import commands as do
from services.node_agent.transfers.machine import events as ev
from shared.messages import Message
from shared.messages.network import NetworkPlan
from shared.messages.porting import InboundFinished, Side, TransferFailed
from shared.messages.vm import VmState
from tests.simulation import core_host, core_world
from tests.simulation.core_host import CoreHost
from tests.simulation.core_ids import PORT
from tests.simulation.core_nodes import CoreNode, DonorNode, RecipientNode
from tests.simulation.core_world import CoreWorld, Dead


def _commit_after_finish() -> None:
    came = RecipientNode.finish_came

    def finish_came(self: RecipientNode) -> None:
        self.world.migration.finish_at_recipient()
        came(self)

    RecipientNode.finish_came = finish_came  # type: ignore[method-assign]  # planted


def _ack_before_store() -> None:
    def deliver(self: CoreWorld, to: str) -> None:
        queue = self._queues[to]
        while queue and self.lives(to) and not self._cut[to]:
            source, message, number = queue.popleft()
            try:
                self.step(to, "acked")
                self.acknowledged(to, message, number)
                self._deliver(to, source, message, number)
            except (Dead, core_world.Again):
                return

    CoreWorld._drain = deliver  # type: ignore[method-assign]  # planted


def _disconnected_twice() -> None:
    disconnect = DonorNode._disconnect

    def again(self: DonorNode) -> None:
        if self.phase is Phase.QUARANTINED:
            self.host.quarantined = None
        disconnect(self)

    DonorNode._disconnect = again  # type: ignore[method-assign]  # planted


def _arrival_undone() -> None:
    conclude = CoreNode.say_last_word

    def say_last_word(self: CoreNode, phase: Phase, message: Message) -> None:
        if self.disk_full and isinstance(message, InboundFinished):
            self.host.destroy()
            self.host.image = None
            self.active = False
            failed = TransferFailed(
                port_id=PORT, side=Side.INBOUND, code="os_error", detail="full", guest_running=False
            )
            self.tell_agent(failed)
            return
        conclude(self, phase, message)

    CoreNode.say_last_word = say_last_word  # type: ignore[method-assign]  # planted


def _unknown_is_no() -> None:
    def look(self: RecipientNode) -> None:
        guest = self.host.guest()
        self.tell(ev.LibvirtSaid(Guest.NOT_THERE if guest is Guest.UNKNOWN else guest))

    RecipientNode._look = look  # type: ignore[method-assign]  # planted


def _no_fence() -> None:
    core_world.fence_allows = lambda world: world is not None


def _recovery_removes() -> None:
    start = RecipientNode.start

    def restarted(self: RecipientNode) -> None:
        if self.phase is Phase.FINISH_PASSED and self.host.guest() is not Guest.RUNNING:
            self.host.destroy()
            self.host.image = None
        start(self)

    RecipientNode.start = restarted  # type: ignore[method-assign]  # planted


def _thawed() -> None:
    perform = DonorNode._perform

    def instead(self: DonorNode, command: do.Command) -> ev.Event | None:
        if isinstance(command, do.KillFrozen):
            self.host.thaw()
            self.world.step(self.name, "thawed")
            return ev.FrozenKilled()
        return perform(self, command)

    DonorNode._perform = instead  # type: ignore[method-assign]  # planted


def _stale_timers() -> None:
    start = CoreWorld._start

    def restarted(self: CoreWorld, name: str) -> None:
        if name == "broker":
            self.broker.forget_timers()
        start(self, name)

    CoreWorld._start = restarted  # type: ignore[method-assign]  # planted


def _restart_not_noticed() -> None:
    cut = CoreHost.power_cut

    def power_cut(self: CoreHost) -> None:
        cut(self)
        self.boots -= 1

    CoreHost.power_cut = power_cut  # type: ignore[method-assign]  # planted


def _shutting_down_runs() -> None:
    core_host.ENDING = VmState.RUNNING


def _stored_late() -> None:
    async def settle(self: Settling, record: NetworkRecord, *, again: bool = False) -> tuple[str, ...]:  # noqa: ARG001
        await self._maker.make(record.wanted)
        await self._maker.undo([step for step in record.steps if step not in record.wanted])
        self._journal.store_steps(record, record.wanted)
        return ()

    Settling.settle = settle  # type: ignore[method-assign]  # planted


def _announced_early() -> None:
    wants = recipient_wants

    def too_early(plan: NetworkPlan, port_id: UUID, *, arrived: bool, **more: Any) -> tuple[Step, ...]:
        return wants(plan, port_id, arrived=arrived or plan.terms.then_announce, **more)

    vars(journal)["recipient_wants"] = too_early


PATCHES: Final[dict[str, Callable[[], None]]] = {
    "commit after Finish": _commit_after_finish,
    "ack before store": _ack_before_store,
    "disconnect is not idempotent": _disconnected_twice,
    "arrival that cannot be stored is undone": _arrival_undone,
    "unknown counts as not running": _unknown_is_no,
    "no fence against a boot": _no_fence,
    "recovery removes what may have run": _recovery_removes,
    "thawed instead of killed": _thawed,
    "stale timers after a restart": _stale_timers,
    "a restart of the host is not noticed": _restart_not_noticed,
    "shutting down counts as running": _shutting_down_runs,
    "a network is made before it is stored": _stored_late,
    "an announcement before the ledger": _announced_early,
}
