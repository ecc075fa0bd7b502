"""The shell of the donor's machine: fences the guest, asks the broker, answers libvirtd, as `machine.donor` decides.

It lives from the transfer's first moment until the guest has left, or is seen running here. `machine.table` has the
rules; `outbound` names the crash windows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError
from services.node_agent.network.parties import MovedVm
from services.node_agent.state.journal import Phase, TransferJournal
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.switchover.start_fence import StartFence
from services.node_agent.transfers.machine import Donor, DonorPhase
from services.node_agent.transfers.machine import commands as do
from services.node_agent.transfers.machine import events as ev
from services.node_agent.transfers.ownership import (
    Ownership,
    ask_for_post_copy,
    clear_copy,
    freeze_guest,
    let_run,
    look_at_guest,
    start_post_copy,
    store_phase,
)
from services.node_agent.transfers.port_network import JoinedNetworks, PortNetwork
from shared.logs import get_logger
from shared.messages.porting import SwitchoverState
from shared.tasks import Tasks, first_of

log = get_logger(__name__)

ANSWER_WITHIN_S = 10.0
"""An answer to Finish that takes longer is probably lost. Asking too early costs only a question."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What libvirtd is to hear in answer to its Finish."""

    runs_there: bool
    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """The guest has left, or stayed; `running` is whether it runs here."""

    left: bool
    running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardTuning:
    """Times, in seconds."""

    look_again_s: float = 1.0
    post_copy_again_s: float = 5.0


class Leaving(MovedVm, Protocol):
    """What is agreed about a guest that leaves; a ServiceChangeAgreement is one."""

    @property
    def donor(self) -> str: ...


class DonorFinishGuard:
    """One port's donor side. `run` until cancelled; what is told before is heard then."""

    def __init__(
        self,
        agreement: Leaving,
        *,
        hypervisor: Hypervisor,
        broker: BrokerClient,
        store: Callable[[Phase], None],
        stays: Callable[[], Awaitable[None]],
        was_running: bool,
        in_doubt: Callable[[str], Awaitable[None]],
        ask_for_post_copy: Callable[[], Awaitable[None]] | None = None,
        tuning: GuardTuning | None = None,
        heard_epoch: int = 0,
        remember_epoch: Callable[[int], None] = lambda _: None,
        network: PortNetwork | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`store` writes a phase to the journal, as `declaring` makes it; `stays` is called when the VM is this host's
        without doubt; both raise OSError. `was_running` is whether the guest is to run on if it
        stays. `ask_for_post_copy` has the recipient's node ask the broker; raises `QuestionError`. `heard_epoch` is the
        newest that a former process heard; `remember_epoch` stores a newer one, and raises OSError."""
        self._agreement = agreement
        self._hypervisor = hypervisor
        self._broker = broker
        self._store = store
        self._in_doubt = in_doubt
        self._ask_for_post_copy = ask_for_post_copy
        self._tuning = tuning or GuardTuning()
        self._network = network or JoinedNetworks()
        self._clock = clock
        self._stays = stays
        self._tasks = Tasks("finish guard")
        self._asking: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._passes: asyncio.Future[str | None] = loop.create_future()
        self._outcome: asyncio.Future[Outcome] = loop.create_future()
        self._end: asyncio.Future[End] = loop.create_future()
        self._remember_epoch = remember_epoch
        donor = Donor(agreement.donor, was_running=was_running, heard_epoch=heard_epoch)
        self._machine: Ownership[Donor] = Ownership(donor, self._perform)
        self.passed = False
        """Whether Finish goes out, or went: QEMU is stopped then, and connections mean nothing any more."""
        self.settled_at_s: float | None = None
        """When it was known here that the guest runs at the recipient."""

    @property
    def post_copy(self) -> bool:
        """Whether post-copy has started."""
        return self._machine.state.post_copy

    async def run(self) -> None:
        """Serve until cancelled."""
        stop_listening = self._broker.listen(self._on_ledger)
        try:
            await self._machine.run()
        finally:
            stop_listening()
            await self._tasks.close()

    # ---- what is heard ----

    def restarted(self, phase: Phase) -> None:
        """A former process has left the transfer in this phase."""
        self._machine.tell(ev.Restarted(phase))

    def guest_runs(self) -> None:
        """The guest runs here, and is to run on if it stays."""
        self._machine.tell(ev.GuestResumed())

    def guest_suspended(self) -> None:
        """An operator has paused the guest."""
        self._machine.tell(ev.GuestSuspended())

    def abort(self) -> None:
        """The broker's AbortTransfer: it has decided that the guest stays here."""
        self._machine.tell(ev.Aborted())

    def want_post_copy(self) -> None:
        """Switch to post-copy as soon as the broker has committed. Nothing happens where the switchover has begun."""
        self._machine.tell(ev.PostCopyWanted())

    def finish_answered(self, error: str | None) -> None:
        """The recipient's hypervisor answered."""
        if error is not None:
            log.warning("finish failed at the recipient", error=error)
        self._machine.tell(ev.FinishAnswered(error))

    def lane_lost(self, reason: str) -> None:
        """No answer of the recipient will come."""
        log.warning("switchover in doubt; asking the broker", reason=reason)
        self._machine.tell(ev.LaneLost(reason))

    def copy_asked(self) -> None:
        """The broker asks whether the guest was let go here."""
        self._machine.tell(ev.CopyAsked())

    def _on_ledger(self, state: SwitchoverState) -> None:
        try:
            if state.epoch >= self._agreement.epoch:
                self._remember_epoch(state.epoch)
        except OSError as error:
            log.warning("epoch not stored", epoch=state.epoch, error=str(error))
        self._machine.tell(ev.LedgerSaid(state))

    # ---- what others wait for ----

    async def before_finish(self) -> str | None:
        """Declare and fence. Finish may go out if this returns None; else libvirtd is to hear the reason."""
        self._passes = asyncio.get_running_loop().create_future()
        self.passed = True
        self._machine.tell(ev.FinishWanted())
        return await self._machine.until(self._passes)

    async def outcome(self) -> Outcome:
        """What libvirtd is to hear, when the ledger has decided."""
        return await self._machine.until(self._outcome)

    async def migration_ended(self, error: str | None) -> End:
        """libvirt's call has returned, or is not made: return where the guest is, when that is certain."""
        if not self._end.done():
            self._machine.tell(ev.MigrationEnded(error))
        return await self.ended()

    async def ended(self) -> End:
        """Where the guest is, when that is certain."""
        return await self._machine.until(self._end)

    # ---- what the machine wants ----

    async def _perform(self, command: do.Command) -> ev.Event | None:
        match command:
            case do.Store(phase):
                return store_phase(self._store, phase)
            case do.Freeze():
                return await freeze_guest(self._hypervisor, self._agreement.vm_uuid)
            case do.KillFrozen():
                return await self._kill_frozen()
            case do.Thaw() | do.AbortJob() | do.Resume():
                await let_run(self._hypervisor, self._agreement.vm_uuid, command)
            case do.TellDoubt(reason):
                await self._tell_doubt(reason)
            case do.Stayed():
                await self._may_be_started()
                self._settle(command)
            case _:
                self._settle(command)
        return None

    def _settle(self, command: do.Command) -> None:
        """Commands that only say something, or begin what runs beside the rest."""
        match command:
            case do.PassFinish():
                _set(self._passes, None)
                self._network.guest_stands_still(self._agreement.port_id)
            case do.RefuseFinish(reason):
                self.passed = False
                _set(self._passes, reason)
            case do.Answer(runs_there, reason):
                self.settled_at_s = self._known_there_at_s() if runs_there else None
                _set(self._passes, reason)
                _set(self._outcome, Outcome(runs_there, f"the port failed: {reason}"))
            case do.Left():
                self._network.guest_is_away(self._agreement)
                _set(self._end, End(left=True, running=False))
            case do.Stayed(running):
                self._network.guest_runs_on(self._agreement.port_id)
                _set(self._end, End(left=False, running=running))
            case _:
                self._begin(command)

    def _begin(self, command: do.Command) -> None:
        match command:
            case do.SayPaused():
                self._ask(self._say_paused_then_ask())
            case do.AskLedger():
                self._hurry.set()
                self._ask(self._ask_ledger())
            case do.SayCopy(let_go):
                self._beside(self._broker.say_copy(let_go=let_go), "say whether it was let go")
            case do.LookAtGuest(again):
                self._beside(self._look(again=again), "look at the guest")
            case do.Destroy():
                self._beside(self._destroy(), "destroy the copy")
            case do.AskForPostCopy(again):
                self._beside(self._ask_for_it(again=again), "ask for post-copy")
            case do.StartPostCopy():
                self._beside(self._start_post_copy(), "start post-copy")
            case do.WantPostCopyAgain():
                self._beside(self._want_post_copy_again(), "want post-copy again")

    def _beside(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.spawn(work, name=name)

    # ---- the guest ----

    async def _may_be_started(self) -> None:
        """The VM is this host's without doubt."""
        try:
            await self._stays()
        except OSError as error:
            # AbortTransfer tries it again; until then libvirt's hook refuses a start and says why.
            log.error("fence against starts not opened", error=str(error))  # noqa: TRY400  # a full disk, no defect

    async def _kill_frozen(self) -> ev.Event:
        self._network.guest_is_away(self._agreement)
        self.settled_at_s = self._clock()
        try:
            killed = await self._hypervisor.kill_frozen(self._agreement.vm_uuid)
            log.info("guest runs at the recipient; its frozen copy here is killed", killed=killed)
        except HypervisorError as error:
            log.warning("frozen copy not killed; libvirt is asked to", error=str(error))
        return ev.FrozenKilled()

    def _known_there_at_s(self) -> float:
        return self._clock() if self.settled_at_s is None else self.settled_at_s

    async def _look(self, *, again: bool) -> None:
        if again:
            await asyncio.sleep(self._tuning.look_again_s)
        self._machine.tell(await look_at_guest(self._hypervisor, self._agreement.vm_uuid))

    async def _destroy(self) -> None:
        await clear_copy(self._hypervisor, self._agreement.vm_uuid, again_s=self._tuning.look_again_s)
        self._machine.tell(ev.Destroyed())

    # ---- the broker ----

    async def _tell_doubt(self, reason: str) -> None:
        try:
            await self._in_doubt(reason)
        except OSError as error:
            # The broker's own deadlines end the port, then; the ledger is asked all the same.
            log.error("doubt not stored", error=str(error))  # noqa: TRY400  # a full disk, no defect

    def _ask(self, work: Coroutine[Any, Any, None]) -> None:
        if self._asking is not None and not self._asking.done():
            work.close()
            return
        self._asking = self._tasks.spawn(work, name="ask the broker")

    @property
    def _undecided(self) -> bool:
        return self._machine.state.phase in {
            DonorPhase.POST_COPY_WANTED,
            DonorPhase.STARTING_POST_COPY,
            DonorPhase.DECLARING,
            DonorPhase.FREEZING,
            DonorPhase.UNDECIDED,
        }

    async def _say_paused_then_ask(self) -> None:
        """Say it until the broker answers; then its push is enough, unless the recipient's answer stays away. Where
        there is something to decide before that, the ledger is asked at once.
        """
        await first_of(self._say_paused(), self._hurry.wait())
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._hurry.wait()
        except TimeoutError:
            log.warning("no reply to finish; asking the broker")
        await self._ask_ledger()

    async def _say_paused(self) -> None:
        agreement = self._agreement
        while self._undecided and not await self._broker.say_paused(agreement.vm_uuid, agreement.epoch):
            pass

    async def _ask_ledger(self) -> None:
        while self._undecided:
            await self._broker.query()
            await asyncio.sleep(self._broker.repeat_s / 2)

    # ---- post-copy ----

    async def _ask_for_it(self, *, again: bool) -> None:
        if again:
            await asyncio.sleep(self._tuning.post_copy_again_s)
        if self._ask_for_post_copy is not None:
            self._machine.tell(await ask_for_post_copy(self._ask_for_post_copy))

    async def _start_post_copy(self) -> None:
        self._machine.tell(await start_post_copy(self._hypervisor, self._agreement.vm_uuid))

    async def _want_post_copy_again(self) -> None:
        await asyncio.sleep(self._tuning.post_copy_again_s)
        self._machine.tell(ev.PostCopyWanted())


def _set(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


def declaring(journal: TransferJournal, fence: StartFence) -> Callable[[Phase], None]:
    """What stores a phase; before the guest may run elsewhere, nobody may boot it here any more. Raises OSError."""

    def store(phase: Phase) -> None:
        if phase in {Phase.POST_COPY, Phase.FINISH_PASSED}:
            fence.close("the switchover was asked for")
        journal.enter(phase)

    return store
