"""Guests of this host that are frozen and that no journal record explains: a former process froze them at their Finish,
and its record is damaged.

Where the damaged file still says of which VM it was, the ledger is asked as a recovery would ask it. Where it does not,
the guest stays as it is, and an operator is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from uuid import UUID

from services.node_agent.hypervisor.interface import Hypervisor
from services.node_agent.state.given_away import GivenAway
from services.node_agent.state.journal import DamagedRecord, Phase
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.finish_guard import DonorFinishGuard, End, GuardTuning
from services.node_agent.transfers.reporting import TransferReports
from shared.logs import get_logger, port_bound
from shared.messages.network import NetworkPlan
from shared.messages.porting import Side, SwitchoverState
from shared.tasks import Tasks

log = get_logger(__name__)

CODE = "journal_damaged"


@dataclass(frozen=True, slots=True)
class _Leaving:
    """What a damaged record still says."""

    port_id: UUID
    vm_uuid: UUID
    epoch: int
    donor: str
    network: NetworkPlan | None = None


@dataclass(slots=True)
class _Stray:
    guard: DonorFinishGuard
    broker: BrokerClient


class StrayGuests:
    """All of this host. `find` once, at the start."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        reports: TransferReports,
        given_away: GivenAway,
        *,
        provider: str,
        tasks: Tasks,
        tuning: GuardTuning | None = None,
    ) -> None:
        self._hypervisor = hypervisor
        self._reports = reports
        self._given_away = given_away
        self._provider = provider
        self._tasks = tasks
        self._tuning = tuning
        self._strays: dict[UUID, _Stray] = {}
        self._unexplained: dict[UUID, str] = {}
        self._looked = asyncio.Event()

    async def find(self, explained: Iterable[UUID], damaged: Iterable[DamagedRecord]) -> None:
        """Look at this host's processes. `explained` are the VMs whose records will be recovered."""
        try:
            frozen = await self._hypervisor.frozen() - set(explained)
        finally:
            self._looked.set()
        records = {record.vm_uuid: record for record in damaged if record.side is Side.OUTBOUND}
        for vm in sorted(frozen):
            record = records.get(vm)
            if record is None:
                self._unexplained[vm] = f"VM {vm} is frozen on this host, and no record says why: it stays frozen"
                log.error("frozen guest without a record", vm=str(vm))
            else:
                log.error("frozen guest with a damaged record; asking the broker", vm=str(vm), file=record.name)
                self._begin(record, _Leaving(record.port_id, vm, record.epoch, self._provider))

    def problems(self) -> tuple[str, ...]:
        """For the heartbeat: one sentence for each guest that nobody can be asked about."""
        return tuple(self._unexplained.values())

    def deliver(self, port_id: UUID, answer: SwitchoverState) -> bool:
        """An answer of the broker; whether somebody here had asked."""
        stray = self._strays.get(port_id)
        if stray is not None:
            stray.broker.deliver(answer)
        return stray is not None

    def copy_asked(self, port_id: UUID) -> bool:
        """The broker asks whether the guest of this port was let go here; False where nobody can answer."""
        stray = self._strays.get(port_id)
        if stray is not None:
            stray.guard.copy_asked()
        return stray is not None

    async def abort(self, port_id: UUID) -> bool:
        """The broker's AbortTransfer for a port without a record: return whether its guest runs here, by looking.

        Where nothing of the port is known, it was never begun; then what runs on this host runs, unless a guest is
        frozen whose port nobody knows.
        """
        await self._looked.wait()
        stray = self._strays.get(port_id)
        if stray is None:
            return not self._unexplained
        stray.guard.abort()
        return (await stray.guard.ended()).running

    def _begin(self, record: DamagedRecord, leaving: _Leaving) -> None:
        async def in_doubt(reason: str) -> None:
            self._reports.in_doubt(record.port_id, reason)

        async def may_start() -> None:
            self._given_away.take_back(leaving.vm_uuid, record.port_id)

        broker = self._reports.broker_client(record.port_id)
        guard = DonorFinishGuard(
            leaving,
            hypervisor=self._hypervisor,
            broker=broker,
            store=_nothing_to_store,
            stays=may_start,
            was_running=True,
            in_doubt=in_doubt,
            tuning=self._tuning,
        )
        self._strays[record.port_id] = _Stray(guard, broker)
        self._tasks.spawn(guard.run(), name=f"stray guest of {record.port_id}")
        guard.restarted(Phase.FINISH_PASSED)
        self._tasks.spawn(self._report(record.port_id, guard.ended), name=f"report on {record.port_id}")

    async def _report(self, port_id: UUID, ended: Callable[[], Awaitable[End]]) -> None:
        with port_bound(port_id):
            end = await ended()
            self._reports.ended(port_id)
            where = "runs here" if end.running else "does not run here"
            log.warning("frozen guest settled", left=end.left, running=end.running)
            detail = f"this node's record of the port was damaged; the guest {where}"
            self._reports.failed(port_id, Side.OUTBOUND, TransferError(CODE, detail, guest_running=end.running))


def _nothing_to_store(_: Phase) -> None:
    """The record is lost; the next process asks the ledger again."""
