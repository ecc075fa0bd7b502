"""What the broker wants of transfers that have no task here any more: aborts, and repeated grants. And what they left
behind, which is removed until it is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from uuid import UUID
from weakref import WeakValueDictionary

from services.node_agent.hypervisor.interface import Hypervisor
from services.node_agent.state.journal import Journal, Phase, PortRecord, TransferJournal
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.switchover.start_fence import StartFence
from services.node_agent.transfers.arrival_guard import Arrival, ArrivalGuard, Outcome
from services.node_agent.transfers.cleanup import forget, remove, remove_created, still_to_remove
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.reporting import TransferReports
from services.node_agent.transfers.stray_guests import StrayGuests
from shared.logs import get_logger, port_bound
from shared.messages.porting import AbortTransfer, Side, SwitchoverState
from shared.messages.switchover import QueryCopy
from shared.tasks import Tasks

log = get_logger(__name__)

NOT_HERE = "not_running_here"
_ENDED = {Phase.DONE, Phase.FAILED, Phase.KEPT, Phase.QUARANTINED}


class EndedTransfers:
    """Answers for all ended transfers of this node."""

    def __init__(self, journal: Journal, hypervisor: Hypervisor, reports: TransferReports, strays: StrayGuests) -> None:
        self._journal = journal
        self._hypervisor = hypervisor
        self._reports = reports
        self._strays = strays
        self._asking: dict[UUID, BrokerClient] = {}
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    def deliver(self, port_id: UUID, answer: SwitchoverState) -> bool:
        """An answer of the broker; whether somebody here had asked."""
        if (broker := self._asking.get(port_id)) is not None:
            broker.deliver(answer)
            return True
        return self._strays.deliver(port_id, answer)

    async def confirm_abort(self, command: AbortTransfer) -> None:
        """Answer an abort when it is certain where the guest is, and what was made is removed."""
        with port_bound(command.port_id):
            async with self._lock(command.port_id):
                record = self._journal.get(command.port_id, command.side)
                if record is None:
                    await self._confirm_without_record(command)
                elif command.side is Side.INBOUND:
                    await self._confirm_inbound(record)
                else:
                    await self._confirm_outbound(record)

    async def _confirm_without_record(self, command: AbortTransfer) -> None:
        damaged = self._journal.damaged(command.port_id, command.side)
        running = False
        if command.side is Side.OUTBOUND:
            known = not damaged or any(record.vm_uuid is not None for record in damaged)
            running = known and await self._runs_without_record(command.port_id)
        remaining = tuple(f"what {record.name} lists: the file is damaged" for record in damaged)
        self._reports.aborted(command.port_id, command.side, guest_running=running, remaining=remaining)

    async def _runs_without_record(self, port_id: UUID) -> bool:
        vms = [record.vm_uuid for record in self._journal.damaged(port_id, Side.OUTBOUND)]
        running = await self._strays.abort(port_id)
        return running and all([vm is None or await self._hypervisor.is_running(vm) for vm in vms])

    async def _confirm_inbound(self, record: PortRecord) -> None:
        outcome = await self._outcome(record, ArrivalGuard.abort)
        if outcome.arrival is Arrival.REMOVED:
            if not outcome.left_overs:
                self._journal.remove(record.port_id, record.side)
            self._reports.aborted(record.port_id, record.side, guest_running=False, remaining=outcome.left_overs)
        else:
            self._reports.final_again(record)

    async def _confirm_outbound(self, record: PortRecord) -> None:
        if record.phase in {Phase.DONE, Phase.QUARANTINED} and self._reports.final_again(record):
            return  # the guest has left
        journal = TransferJournal(self._journal, record)
        await StartFence(self._hypervisor, journal).open()  # the VM is the donor's, or it would not be said
        remaining = await remove_created(journal, self._hypervisor)
        if not remaining:
            self._journal.remove(record.port_id, record.side)
        running = await self._hypervisor.is_running(record.agreement.vm_uuid)
        self._reports.aborted(record.port_id, record.side, guest_running=running, remaining=remaining)

    async def answer_grant(self, port_id: UUID) -> None:
        """The broker repeats its grant: answer finally whether the guest runs here."""
        with port_bound(port_id):
            async with self._lock(port_id):
                record = self._journal.get(port_id, Side.INBOUND)
                if record is not None and record.phase in _ENDED - {Phase.FAILED} and self._reports.final_again(record):
                    return  # it has arrived, or is proven not to run here
                if record is not None:
                    outcome = await self._outcome(record, ArrivalGuard.granted_again)
                    self._not_here(port_id, outcome.detail)
                elif damaged := self._journal.damaged(port_id, Side.INBOUND):
                    log.error("granted, but the record is damaged: nothing is said", file=damaged[0].name)
                else:
                    self._not_here(port_id, "this node has no such guest running")

    def _not_here(self, port_id: UUID, detail: str) -> None:
        self._reports.failed(port_id, Side.INBOUND, TransferError(NOT_HERE, detail, guest_running=False))

    async def _outcome(self, record: PortRecord, tell: Callable[[ArrivalGuard], None]) -> Outcome:
        """Let the machine go on from the record, and hear one thing more."""
        journal = TransferJournal(self._journal, record)
        broker = self._asking[record.port_id] = self._reports.broker_client(record.port_id)
        guard = ArrivalGuard(
            journal,
            hypervisor=self._hypervisor,
            broker=broker,
            remove=lambda: remove_created(journal, self._hypervisor),
        )
        try:
            async with Tasks("ended transfer") as tasks:
                tasks.spawn(guard.run(), name="arrival guard")
                guard.restarted()
                tell(guard)
                return await guard.outcome()
        finally:
            del self._asking[record.port_id]

    async def answer_copy(self, question: QueryCopy) -> None:
        """The broker asks whether the guest was let go here, and no transfer is under way.

        The fence against starts says so: it is opened only where the guest stays. Without a record nothing is known,
        and nothing is said.
        """
        with port_bound(question.port_id):
            record = self._journal.get(question.port_id, Side.OUTBOUND)
            if record is not None:
                let_go = StartFence(self._hypervisor, TransferJournal(self._journal, record)).closed
                await self._reports.broker_client(question.port_id).say_copy(let_go=let_go)
            elif not self._strays.copy_asked(question.port_id):
                log.error("asked whether a guest was let go, and no record says so", vm=str(question.vm_uuid))

    async def remove_again(self, active: Callable[[], Collection[UUID]]) -> None:
        """Try once to remove what ended transfers left behind. `active` are the ports that are under way."""
        for record in self._journal.load()[0]:
            if record.phase in _ENDED and record.port_id not in active() and (things := still_to_remove(record)):
                with port_bound(record.port_id):
                    async with self._lock(record.port_id):
                        gone, _ = await remove(things, record, self._hypervisor)
                        # Read again: somebody may have written it, or removed it, meanwhile.
                        now = self._journal.get(record.port_id, record.side)
                        if now is not None and gone:
                            forget(TransferJournal(self._journal, now), *gone)

    def _lock(self, port_id: UUID) -> asyncio.Lock:
        """One at a time for a port."""
        return self._locks.setdefault(port_id, asyncio.Lock())
