"""The shell of the recipient's machine: asks the broker for the VM, decides for the gate, looks for the guest and
removes what was made for it, as `machine.recipient` decides.

It lives from the transfer's first moment until the guest has arrived, or is proven not to run here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from services.node_agent.hypervisor.interface import Hypervisor, Lifecycle, LifecycleEvent
from services.node_agent.state.boot import boot_id
from services.node_agent.state.journal import Kind, Phase, TransferJournal
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.switchover.vcpu_watch import VcpuWatch
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.machine import Recipient, RecipientPhase
from services.node_agent.transfers.machine import commands as do
from services.node_agent.transfers.machine import events as ev
from services.node_agent.transfers.ownership import Ownership, look_at_guest, store_phase
from shared.logs import get_logger
from shared.messages.porting import SwitchoverDenied, SwitchoverState
from shared.tasks import Tasks

log = get_logger(__name__)


class Arrival(StrEnum):
    """What became of the guest here."""

    ARRIVED = "arrived"
    MAY_HAVE_RUN = "may_have_run"
    """It is gone, and whether it ran before is not known. It counts as arrived: what was made for it is its disks."""
    NOT_HERE = "not_here"
    """Granted, and proven not to run here. What was made for it is kept."""
    REMOVED = "removed"
    """It has never run here, or was given back; what was made for it is removed."""


_ENDS: Mapping[type[do.Command], Arrival] = {
    do.TellArrived: Arrival.ARRIVED,
    do.TellMayHaveRun: Arrival.MAY_HAVE_RUN,
    do.TellNotHere: Arrival.NOT_HERE,
    do.TellRemoved: Arrival.REMOVED,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the guest is not, `code` and `detail` say why, and `left_overs` what could not be removed."""

    arrival: Arrival
    code: str = ""
    detail: str = ""
    left_overs: tuple[str, ...] = ()

    def error(self) -> TransferError:
        """The outcome as a failed transfer's error."""
        may_have_run = self.arrival is Arrival.MAY_HAVE_RUN
        return TransferError(self.code, self.detail, guest_running=False, may_have_run=may_have_run)


class ArrivalGuard:
    """One port's recipient side. `run` until cancelled; what is told before is heard then."""

    def __init__(
        self,
        journal: TransferJournal,
        *,
        hypervisor: Hypervisor,
        broker: BrokerClient,
        remove: Callable[[], Awaitable[tuple[str, ...]]],
        look_again_s: float = 0.5,
        boot_id: Callable[[], str] = boot_id,
    ) -> None:
        """`remove` removes what the journal lists; returns what remains. `boot_id` is of this boot of the host."""
        self._journal = journal
        self._agreement = journal.record.agreement
        self._hypervisor = hypervisor
        self._broker = broker
        self._remove_once = remove
        self._look_again_s = look_again_s
        self._boot_id = boot_id
        self._vcpus = VcpuWatch()
        self._tasks = Tasks("arrival guard")
        self._question: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._wanted: set[type[ev.Event]] = set()
        self._remaining: tuple[str, ...] = ()
        loop = asyncio.get_running_loop()
        self._decision: asyncio.Future[SwitchoverDenied | None] = loop.create_future()
        self._early_decision: asyncio.Future[SwitchoverDenied | None] = loop.create_future()
        self._outcome: asyncio.Future[Outcome] = loop.create_future()
        recipient = Recipient(self._agreement.recipient, epoch=self._agreement.epoch)
        self._machine: Ownership[Recipient] = Ownership(recipient, self._perform)

    async def run(self) -> None:
        """Serve until cancelled."""
        stops = (self._broker.listen(self._on_ledger), self._hypervisor.listen(self._on_lifecycle))
        try:
            await self._machine.run()
        finally:
            for stop_listening in stops:
                stop_listening()
            await self._tasks.close()

    # ---- what is heard ----

    def restarted(self) -> None:
        """A former process has left the transfer as the journal says."""
        record = self._journal.record
        rebooted = record.boot_id != self._boot_id()
        self._machine.tell(ev.Restarted(record.phase, rebooted=rebooted, ran=record.may_have_run))

    def abort(self) -> None:
        """The broker's AbortTransfer."""
        self._machine.tell(ev.Aborted())

    def granted_again(self) -> None:
        """The broker repeats its grant: it wants to know whether the guest runs here."""
        self._machine.tell(ev.Granted())

    def stop(self) -> None:
        """This process ends; says nothing about who owns the VM."""
        self._machine.tell(ev.Stopping())

    def trouble(self, code: str, detail: str) -> None:
        """The transfer cannot go on, and no Finish is in flight."""
        self._machine.tell(ev.Trouble(code, detail))

    def finish_answered(self, error: str | None, *, hung_up: bool = False) -> None:
        """This host's libvirtd answered Finish, or cannot any more; without an error the guest runs."""
        if not hung_up:
            self._vcpus.answered()
        self._machine.tell(ev.FinishAnswered(error))

    def _on_lifecycle(self, event: LifecycleEvent) -> None:
        if event.vm_uuid == self._agreement.vm_uuid and event.kind is Lifecycle.RESUMED:
            self._machine.tell(ev.GuestResumed())

    def _on_ledger(self, state: SwitchoverState) -> None:
        self._machine.tell(ev.LedgerSaid(state))

    # ---- what others wait for ----

    @property
    def over(self) -> bool:
        """Whether it is known what became of the guest."""
        return self._outcome.done()

    @property
    def arrived(self) -> bool:
        """Whether the guest has arrived."""
        return self.over and self._outcome.result().arrival is Arrival.ARRIVED

    async def ask_switchover(self) -> SwitchoverDenied | None:
        """Ask the broker for the VM, once for all who want to know; None when it is granted."""
        self._want(ev.SwitchoverWanted())
        return await self._machine.until(self._decision)

    async def ask_for_post_copy(self) -> SwitchoverDenied | None:
        """Ask the broker for the VM before Finish comes; None when it is granted. Finish does not pass yet."""
        self._want(ev.PostCopyAsked())
        return await self._machine.until(self._early_decision)

    def _want(self, event: ev.SwitchoverWanted | ev.PostCopyAsked) -> None:
        if type(event) not in self._wanted:
            self._wanted.add(type(event))
            self._machine.tell(event)

    async def outcome(self) -> Outcome:
        """What became of the guest, when that is certain."""
        return await self._machine.until(self._outcome)

    # ---- what the machine wants ----

    async def _perform(self, command: do.Command) -> ev.Event | None:
        match command:
            case do.Store(phase):
                return store_phase(self._store, phase)
            case do.Remove():
                return await self._remove()
            case do.AskForVm():
                self._tasks.spawn(self._count_vcpu_time(), name="count the time of vCPUs")
                self._question = self._tasks.spawn(self._ask_for_vm(), name="ask for the switchover")
            case do.AskLedger():
                if self._asking is None or self._asking.done():
                    self._asking = self._tasks.spawn(self._ask_ledger(), name="ask for the owner")
            case do.LookAtGuest(again):
                self._tasks.spawn(self._look(again=again), name="look at the guest")
            case do.NoteRan():
                self._note_ran()
            case do.GrantPostCopy():
                self._decide(None, self._early_decision)
            case do.PassFinish():
                self._decide(None, self._early_decision, self._decision)
            case do.DenyFinish(code, detail):
                denied = SwitchoverDenied(port_id=self._agreement.port_id, code=code, detail=detail)
                self._decide(denied, self._early_decision, self._decision)
            case do.TellArrived() | do.TellMayHaveRun() | do.TellNotHere() | do.TellRemoved():
                self._settle(_ENDS[type(command)])
        return None

    def _store(self, phase: Phase) -> None:
        if phase is Phase.FINISH_PASSED:
            self._journal.pass_finish(self._boot_id())
        else:
            self._journal.enter(phase)

    def _note_ran(self) -> None:
        try:
            self._journal.note_ran()
        except OSError as error:
            log.warning("not noted that the guest may have run", error=str(error))

    async def _count_vcpu_time(self) -> None:
        self._vcpus.begin(await self._hypervisor.vcpu_time_ns(self._agreement.vm_uuid))

    def _decide(self, denied: SwitchoverDenied | None, *decisions: asyncio.Future[SwitchoverDenied | None]) -> None:
        if self._question is not None:
            self._question.cancel()
        for decision in decisions:
            if not decision.done():
                decision.set_result(denied)

    def _settle(self, arrival: Arrival) -> None:
        if not self._outcome.done():
            code, detail = self._machine.state.trouble or ("inbound_failed", "the transfer ended without a reason")
            self._outcome.set_result(Outcome(arrival, code, detail, self._remaining))

    async def _remove(self) -> ev.Event:
        """Files may stay and are named. A domain may not: on this word the broker lets the donor run its copy."""
        while True:
            self._remaining = await self._remove_once()
            if not any(name.startswith(Kind.DOMAIN) for name in self._remaining):
                return ev.Removed(self._remaining)
            await asyncio.sleep(self._look_again_s)

    async def _ask_for_vm(self) -> None:
        agreement = self._agreement
        denied = await self._broker.request_switchover(
            agreement.vm_uuid, agreement.epoch, this_provider=agreement.recipient
        )
        self._machine.tell(ev.Granted() if denied is None else ev.Denied(denied.code, denied.detail))

    async def _ask_ledger(self) -> None:
        while self._machine.state.aborted and self._machine.state.phase in {
            RecipientPhase.STARTING,
            RecipientPhase.ARRIVED,
        }:
            await self._broker.query()
            await asyncio.sleep(self._look_again_s)

    async def _look(self, *, again: bool) -> None:
        if again:
            await asyncio.sleep(self._look_again_s)
        said = await look_at_guest(
            self._hypervisor, self._agreement.vm_uuid, self._vcpus, lambda: self._journal.ended_by_itself
        )
        self._machine.tell(said)
