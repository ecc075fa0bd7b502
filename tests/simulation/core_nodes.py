"""The core tier's node agents: the pure machines of a transfer, with shells that are plain calls. No asyncio.

A shell carries out commands as `transfers.finish_guard` and `transfers.arrival_guard` do; a process that dies loses
everything but its journal's phase and its outbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.node_agent.state.journal import Phase
from services.node_agent.switchover.vcpu_watch import VcpuWatch
from services.node_agent.transfers.machine import Donor, DonorPhase, Guest, Recipient, RecipientPhase, step
from services.node_agent.transfers.machine import commands as do
from services.node_agent.transfers.machine import events as ev
from shared.messages import Message
from shared.messages.porting import (
    AbortTransfer,
    CompletionFailed,
    DisconnectVm,
    GuestPaused,
    InboundFinished,
    InboundOpened,
    OpenInbound,
    OutboundFinished,
    OutboundStarted,
    ProvisionVm,
    QuerySwitchover,
    RequestSwitchover,
    Side,
    StartOutbound,
    SwitchoverDenied,
    SwitchoverGranted,
    SwitchoverState,
    TransferAborted,
    TransferFailed,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.switchover import CopyState, QueryCopy
from tests.simulation.core_ids import EPOCH, PORT, VM
from tests.simulation.core_network import CoreNetwork
from tests.simulation.core_post_copy import DonorAsks, RecipientAnswers

if TYPE_CHECKING:
    from tests.simulation.core_world import CoreWorld

REPEAT_S = 2.0
LOOK_AGAIN_S = 1.0
ANSWER_WITHIN_S = 10.0
PROBE_S = 5.0
_UNDECIDED = frozenset(
    {
        DonorPhase.POST_COPY_WANTED,
        DonorPhase.STARTING_POST_COPY,
        DonorPhase.DECLARING,
        DonorPhase.FREEZING,
        DonorPhase.UNDECIDED,
    }
)
"""Where the guard of the donor's Finish asks the broker."""


class CoreNode:
    """What both node agents have: a journal, an outbox, timers that die with the process."""

    side: Side

    def __init__(self, world: CoreWorld, name: str) -> None:
        self.world = world
        self.name = name
        self.host = world.hosts[name]
        self.alive = True
        self.disk_full = False
        self.life = 0
        # What is on its disk:
        self.phase: Phase | None = None
        self.heard_epoch = 0
        self.boot = 0
        self.last_word: Message | None = None
        # What is not:
        self.active = False
        self.aborting = False
        self.network = CoreNetwork(self, world.network)

    def later(self, delay_s: float, work: object) -> None:
        """Do something in this process's life."""
        life = self.life

        def run() -> None:
            if self.life == life and self.alive:
                work()  # type: ignore[operator]  # a callable without arguments

        self.world.after(delay_s, run)

    def store(self, phase: Phase) -> ev.Event:
        """Write the journal."""
        self.world.step(self.name, f"store {phase}")
        if self.disk_full:
            return ev.StoreFailed("no space left on device")
        self.phase = phase
        if phase is Phase.FINISH_PASSED:
            self.boot = self.host.boots
            if self.side is Side.INBOUND:
                self.heard_epoch = EPOCH
                self.host.ended_by_itself = False
        self.world.step(self.name, f"stored {phase}")
        return ev.Stored()

    def tell_agent(self, message: Message) -> None:
        """Through the outbox: it arrives."""
        self.world.post(self.name, "donor" if self.side is Side.OUTBOUND else "recipient", message)

    def ask_broker(self, message: Message) -> bool:
        """At once, or not at all; False where the bus did not take it."""
        return self.world.post(self.name, "broker", message, durable=False)

    def say_last_word(self, phase: Phase, message: Message) -> None:
        """Store the end with its message, however long a full disk makes that take; then send it."""
        if phase is Phase.FAILED:
            self.network.undo()
        self.world.step(self.name, "conclude")
        if self.disk_full:
            self.later(1.0, lambda: self.say_last_word(phase, message))
            return
        self.phase, self.last_word = phase, message
        self.active = False
        self.world.step(self.name, "concluded")
        if self.aborting and isinstance(message, TransferFailed):
            self.answer_abort(running=message.guest_running)
        else:
            self.tell_agent(message)

    def answer_abort(self, *, running: bool) -> None:
        """The abort has an answer of its own."""
        self.tell_agent(TransferAborted(port_id=PORT, side=self.side, guest_running=running))


class DonorNode(CoreNode):
    """alpha's."""

    side = Side.OUTBOUND
    machine: Donor

    def __init__(self, world: CoreWorld, name: str) -> None:
        super().__init__(world, name)
        self.machine = Donor("alpha")
        self._said_paused = self._heard_ledger = False
        self._asking = False
        self.passed = False
        """Whether Finish goes out: then the guest's vCPUs say nothing about where it is."""
        self.host.event = lambda event: self.later(0.0, lambda: self._lifecycle(event))
        self.post_copy = DonorAsks(self)

    def start(self) -> None:
        """A new process."""
        self.network.start()
        self.machine = Donor("alpha", was_running=True, heard_epoch=self.heard_epoch)
        self._said_paused = self._heard_ledger = self._asking = self.aborting = self.passed = False
        self.network.recover(self.phase)
        self.active = self.phase in {Phase.TRANSFERRING, Phase.POST_COPY, Phase.FINISH_PASSED, Phase.RETURNING}
        if self.active and self.phase is not None:
            self.tell(ev.Restarted(self.phase))

    def handle(self, message: Message) -> None:
        """A message from the agent or the broker."""
        match message:
            case StartOutbound():
                self._start()
            case AbortTransfer(epoch=epoch):
                if epoch is None or epoch >= self.heard_epoch:
                    self._abort()
            case QueryCopy():
                self._copy_asked()
            case SwitchoverState():
                self._heard_ledger = self._said_paused
                if self.active:
                    if not self.disk_full and message.epoch >= EPOCH:
                        self.heard_epoch = max(self.heard_epoch, message.epoch)
                    self.tell(ev.LedgerSaid(message))
            case DisconnectVm():
                self._disconnect()

    def _start(self) -> None:
        if self.active or self.phase is not None:
            if not self.active and self.last_word is not None:
                self.tell_agent(self.last_word)
            return
        self.begin()

    def begin(self) -> None:
        """A transfer begins."""
        if isinstance(self.store(Phase.TRANSFERRING), ev.StoreFailed):
            self.world.redeliver()
        vm = self.host.vm
        self.machine = Donor("alpha", was_running=vm is not None and vm.executes)
        self.active = True
        if not self.network.prepare(self.world.agreement):
            running = vm is not None and vm.executes
            self.say_last_word(Phase.FAILED, _failed(Side.OUTBOUND, "the network is not ready", running=running))
            return
        self.tell_agent(OutboundStarted(port_id=PORT))
        self.world.migration.begin()
        self.later(PROBE_S, self._probe)

    def _lifecycle(self, event: str) -> None:
        """libvirt's event: as `Outbound` hears it, until Finish goes out."""
        if not self.active or self.passed or self.machine.phase is not DonorPhase.MOVING:
            return
        if event == "suspended":
            self.network.stands_still()
        elif event == "resumed":
            self.network.runs_on()

    def _abort(self) -> None:
        self.aborting = True
        if not self.active:
            self.network.undo()
        if self.active:
            self.tell(ev.Aborted())
            if self.machine.phase is DonorPhase.MOVING:
                self.world.migration.abort("canceled by client")
        elif self.phase in {Phase.DONE, Phase.QUARANTINED} and self.last_word is not None:
            self.tell_agent(self.last_word)
        else:
            vm = self.host.vm
            self.answer_abort(running=vm is not None and not vm.off)

    def _copy_asked(self) -> None:
        if self.active:
            self.tell(ev.CopyAsked())
        else:
            self.ask_broker(CopyState(port_id=PORT, let_go=self.phase in {Phase.DONE, Phase.QUARANTINED}))

    def _disconnect(self) -> None:
        host = self.host
        busy = self.active or not host.libvirtd or (host.vm is not None and not host.vm.off)
        if busy or (self.disk_full and self.phase is not Phase.QUARANTINED):
            failed = CompletionFailed(port_id=PORT, side=Side.OUTBOUND, code="busy", detail="not yet")
            self.tell_agent(failed)
            return
        self.store(Phase.QUARANTINED)
        host.vm = None
        if host.image is not None:
            host.quarantined, host.image = host.image, None
        self.tell_agent(VmDisconnected(port_id=PORT))

    def tell(self, event: ev.Event) -> None:
        """Run the machine, with all that follows from the event."""
        events = [event]
        while events:
            decision = step(self.machine, events.pop(0))
            self.machine = decision.state
            for command in decision.commands:
                answer = self._perform(command)
                if answer is not None:
                    events.append(answer)

    def _perform(self, command: do.Command) -> ev.Event | None:  # noqa: PLR0912  # one line for each command
        world, host = self.world, self.host
        world.step(self.name, type(command).__name__)
        match command:
            case do.Store(phase):
                return self.store(phase)
            case do.AskForPostCopy() | do.StartPostCopy() | do.WantPostCopyAgain():
                self.post_copy.perform(command)
            case do.Freeze():
                host.freeze()
                return ev.Frozen(fenced=True)
            case do.KillFrozen():
                self.network.is_away()
                host.kill_frozen()
                return ev.FrozenKilled()
            case do.Thaw():
                host.thaw()
            case do.AbortJob():
                world.migration.abort("canceled by client")
            case do.Resume():
                host.resume()
            case do.LookAtGuest(again):
                self.later(LOOK_AGAIN_S if again else 0.0, self._look)
            case do.Destroy():
                self._destroy()
            case do.SayPaused():
                self._said_paused = self._heard_ledger = False
                self._say_paused()
            case do.SayCopy(let_go):
                self.ask_broker(CopyState(port_id=PORT, let_go=let_go))
            case do.AskLedger():
                self._ask()
            case do.TellDoubt(reason):
                failed = TransferFailed(
                    port_id=PORT, side=Side.OUTBOUND, code="switchover_in_doubt", detail=reason, guest_running=False
                )
                self.tell_agent(failed)
            case do.PassFinish():
                self.passed = True
                world.migration.pass_finish()
                self.network.stands_still()
            case do.RefuseFinish(reason):
                self.passed = False
                world.migration.answer(runs_there=False, reason=reason)
            case do.Answer(runs_there, reason):
                world.migration.answer(runs_there=runs_there, reason=reason)
            case do.Left():
                self.network.is_away()
                self.say_last_word(Phase.DONE, _figures())
            case do.Stayed(running):
                self.network.runs_on()
                self.world.migration.hang_up("alpha")
                self.say_last_word(Phase.FAILED, _failed(Side.OUTBOUND, "the guest stays", running=running))
        return None

    def _look(self) -> None:
        self.tell(ev.LibvirtSaid(self.host.guest()))

    def _destroy(self) -> None:
        self.host.kill_frozen()
        if self.host.destroy():
            self.later(0.0, lambda: self.tell(ev.Destroyed()))
        else:
            self.later(LOOK_AGAIN_S, self._destroy)

    @property
    def _undecided(self) -> bool:
        return self.active and self.machine.phase in _UNDECIDED

    def _say_paused(self) -> None:
        """Until the broker answers; then ask, but not at once: its push is enough if all goes well."""
        if not self._undecided:
            return
        if self._heard_ledger:
            self.later(ANSWER_WITHIN_S, self._ask)
            return
        self._said_paused |= self.ask_broker(GuestPaused(port_id=PORT, vm_uuid=VM, epoch=EPOCH))
        self.later(REPEAT_S, self._say_paused)

    def _probe(self) -> None:
        """While it moves: could the broker commit now?"""
        if self.active and self.machine.phase is DonorPhase.MOVING:
            self.ask_broker(QuerySwitchover(port_id=PORT))
            self.later(PROBE_S, self._probe)

    def _ask(self) -> None:
        if self._undecided:
            self.ask_broker(QuerySwitchover(port_id=PORT))
            if not self._asking:
                self._asking = True
                self.later(REPEAT_S, self._ask_on)

    def _ask_on(self) -> None:
        self._asking = False
        self._ask()


class RecipientNode(CoreNode):
    """beta's."""

    side = Side.INBOUND
    machine: Recipient

    def __init__(self, world: CoreWorld, name: str) -> None:
        super().__init__(world, name)
        self.machine = Recipient("beta", epoch=EPOCH)
        self.host.resumed = lambda: self.later(0.0, self._resumed)
        self._asks_owner = False
        self.vcpus = VcpuWatch()
        self.post_copy = RecipientAnswers(self)
        self.noted_ran = False
        """On its disk."""

    def start(self) -> None:
        """A new process."""
        self.network.start()
        self.network.recover(self.phase)
        self.machine = Recipient("beta", epoch=EPOCH)
        self.vcpus = VcpuWatch()
        self.post_copy = RecipientAnswers(self)
        self.aborting = self._asks_owner = False
        self.active = self.phase in {Phase.OPEN, Phase.SWITCHOVER_ASKED, Phase.FINISH_PASSED}
        if self.active and self.phase is not None:
            self.tell(ev.Restarted(self.phase, rebooted=self.boot != self.host.boots, ran=self.noted_ran))
        elif self.phase is Phase.KEPT and self.last_word is None:
            self.active = True
            self.tell(ev.Restarted(self.phase))
            self.tell(ev.Granted())

    def handle(self, message: Message) -> None:
        """A message from the agent or the broker."""
        match message:
            case OpenInbound():
                self._open()
            case AbortTransfer(epoch=epoch):
                if epoch is None or epoch >= self.heard_epoch:
                    self._abort()
            case SwitchoverGranted():
                self._granted()
            case SwitchoverDenied(code=code, detail=detail):
                if self.active:
                    self.tell(ev.Denied(code, detail))
            case SwitchoverState():
                self._state(message)
            case ProvisionVm():
                self._provision()

    def _open(self) -> None:
        if self.active or self.phase is not None:
            if self.active:
                self.tell_agent(InboundOpened(port_id=PORT))
            elif self.last_word is not None:
                self.tell_agent(self.last_word)
            return
        self.begin()

    def begin(self) -> None:
        """A transfer begins."""
        if isinstance(self.store(Phase.OPEN), ev.StoreFailed):
            self.world.redeliver()
        self.machine = Recipient("beta", epoch=EPOCH)
        self.post_copy = RecipientAnswers(self)
        self.active = True
        if not self.network.prepare(self.world.agreement):
            self.say_last_word(Phase.FAILED, _failed(Side.INBOUND, "the network is not ready", running=False))
            return
        self.host.image = 0
        self.tell_agent(InboundOpened(port_id=PORT))

    def _abort(self) -> None:
        self.aborting = True
        if self.active:
            self.tell(ev.Aborted())
        elif self.phase in {Phase.DONE, Phase.KEPT}:
            phase = self.phase
            self.active = True
            self.machine = Recipient("beta", epoch=EPOCH)
            self.tell(ev.Restarted(phase))
            self.tell(ev.Aborted())
        else:
            self.network.undo()
            self.answer_abort(running=False)

    def _granted(self) -> None:
        if self.active:
            self.tell(ev.Granted())
        elif self.phase in {Phase.DONE, Phase.KEPT} and self.last_word is not None:
            self.tell_agent(self.last_word)
        else:
            self.tell_agent(_failed(Side.INBOUND, "this node has no such guest running", running=False))

    def _state(self, state: SwitchoverState) -> None:
        if not self.active:
            return
        self.tell(ev.LedgerSaid(state))
        if self.machine.phase is RecipientPhase.ASKED:
            if state.committed and state.owner == "beta":
                self.tell(ev.Granted())
            elif state.ended:
                self.tell(ev.Denied("port_ended", "the port is over"))

    def _provision(self) -> None:
        host = self.host
        if self.active or not host.libvirtd or host.image is None:
            self.tell_agent(CompletionFailed(port_id=PORT, side=Side.INBOUND, code="busy", detail="not yet"))
            return
        if host.vm is None:
            host.define(host.image)
        if host.vm is not None:
            host.vm.persistent, host.vm.autostart = True, self.world.plan.autostart
        self.tell_agent(VmProvisioned(port_id=PORT))

    def _resumed(self) -> None:
        if self.active and self.host.libvirtd:
            self.tell(ev.GuestResumed())

    def finish_came(self) -> None:
        """The donor's Finish is at the gate."""
        if self.active and not self.post_copy.finish_denied():
            self.tell(ev.SwitchoverWanted())

    def tell(self, event: ev.Event) -> None:
        """Run the machine, with all that follows from the event."""
        events = [event]
        while events:
            decision = step(self.machine, events.pop(0))
            self.machine = decision.state
            for command in decision.commands:
                answer = self._perform(command)
                if answer is not None:
                    events.append(answer)

    def _perform(self, command: do.Command) -> ev.Event | None:  # noqa: PLR0912  # one line for each command
        world = self.world
        world.step(self.name, type(command).__name__)
        match command:
            case do.Store(phase):
                return self.store(phase)
            case do.AskForVm():
                self.vcpus.begin(self.host.vcpu_ns())
                self._ask_for_vm()
            case do.NoteRan():
                self.noted_ran = self.noted_ran or not self.disk_full
            case do.AskLedger():
                self._ask_owner()
            case do.LookAtGuest(again):
                self.later(LOOK_AGAIN_S / 2 if again else 0.0, self._look)
            case do.GrantPostCopy():
                self.post_copy.answer(granted=True)
            case do.PassFinish():
                self.post_copy.answer(granted=True)
                world.migration.finish_at_recipient()
            case do.DenyFinish():
                self.post_copy.deny()
            case do.TellArrived():
                known = self.last_word if self.phase is Phase.DONE else None
                self.network.has_arrived()
                self.say_last_word(Phase.DONE, known or InboundFinished(port_id=PORT, epoch=EPOCH))
            case do.TellMayHaveRun():
                failed = _failed(Side.INBOUND, "the host was restarted", running=False)
                self.network.has_arrived()
                self.say_last_word(Phase.DONE, failed.model_copy(update={"may_have_run": True}))
            case do.TellNotHere():
                self.say_last_word(Phase.KEPT, _failed(Side.INBOUND, "it did not start here", running=False))
            case do.Remove():
                self._remove()
            case do.TellRemoved():
                self.world.migration.hang_up("beta")
                self.say_last_word(Phase.FAILED, _failed(Side.INBOUND, "the transfer failed", running=False))
        return None

    def _remove(self) -> None:
        host = self.host
        if host.vm is not None and not host.destroy():
            self.later(LOOK_AGAIN_S, self._remove)
            return
        if not host.libvirtd:
            self.later(LOOK_AGAIN_S, self._remove)
            return
        host.image = None
        self.later(0.0, lambda: self.tell(ev.Removed()))

    def _ask_for_vm(self) -> None:
        if self.active and self.machine.phase is RecipientPhase.ASKED:
            self.ask_broker(RequestSwitchover(port_id=PORT, vm_uuid=VM, epoch=EPOCH))
            self.later(REPEAT_S, self._ask_for_vm)

    def _ask_owner(self) -> None:
        aborted = self.machine.aborted and self.machine.phase in {RecipientPhase.STARTING, RecipientPhase.ARRIVED}
        if self.active and aborted:
            self.ask_broker(QuerySwitchover(port_id=PORT))
            self.later(REPEAT_S, self._ask_owner)

    def _look(self) -> None:
        guest = self.host.guest()
        if guest is Guest.UNKNOWN:
            ran = self.vcpus.has_run(self.host.vcpu_ns())
        else:
            gone = guest is Guest.NOT_THERE and self.host.ended_by_itself
            ran = gone or (guest is Guest.PAUSED and self.host.paused_after_start)
        self.tell(ev.LibvirtSaid(guest, ran=ran))


def _failed(side: Side, detail: str, *, running: bool) -> TransferFailed:
    return TransferFailed(port_id=PORT, side=side, code="transfer_failed", detail=detail, guest_running=running)


def _figures() -> OutboundFinished:
    return OutboundFinished(port_id=PORT, downtime_ms=100, total_ms=1000, memory_bytes=1, disk_bytes=1, wire_bytes=1)
