"""The core tier's migration: what the two libvirtds, their QEMUs and the lanes between the node agents do. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from services.node_agent.hypervisor.fake_host import MigrationPhase
from services.node_agent.transfers.machine import events as ev
from tests.simulation.core_host import Vm
from tests.simulation.core_post_copy import PAGES_S, PAGES_STEPS, PostCopy
from tests.simulation.faults import Stage

if TYPE_CHECKING:
    from tests.simulation.core_world import CoreWorld

ROUNDS = 4
ROUND_S = 1.5
FINISH_STEPS = 6
"""libvirtd's talks with QEMU before `cont`, and again from there to its answer to Finish; faults strike at each."""
FINISH_STEP_S = 0.005
CONFIRM_S = 0.5
"""How often libvirtd looks whether it can confirm."""
_HUNG_UP = "this host's libvirtd ended the connection"
SILENCE_S = 300.0
"""A lane whose other end is dead fails after so long."""


class Migration:
    """One migration from alpha to beta. `waits`: alpha's libvirtd waits for the answer to Finish."""

    def __init__(self, world: CoreWorld) -> None:
        self._world = world
        self.runs = False
        self.waits = False
        self.at_gate = False
        """Finish is held, or in progress, at beta."""
        self.post_copy = PostCopy(world)
        self._content = 0
        self._number = 0
        self._finish_passed = False
        self._was_paused = False
        """Before it began: then it stays so, wherever it is. What is paused meanwhile runs on afterwards."""
        self.held = False
        """The memory does not flow, for no fault of anybody's."""
        self._gate_life = 0
        """In which life beta's node agent has taken Finish: with it the way back to the donor is gone."""

    def begin(self) -> None:
        """libvirt at alpha is told to migrate."""
        world, alpha, beta = self._world, self._world.hosts["alpha"], self._world.hosts["beta"]
        self._number += 1
        node = world.nodes["beta"]
        vm = alpha.reachable
        if vm is None or not node.alive or not node.active or not beta.libvirtd or beta.vm is not None:
            self._end("the recipient cannot be prepared")
            return
        self._finish_passed, self._was_paused = False, not vm.runs
        self.post_copy.begin()
        beta.vm = Vm(0, runs=False, persistent=False, phase=MigrationPhase.PREPARE)
        vm.phase = MigrationPhase.PERFORM
        self.runs = True
        world.advance(Stage.MEMORY)
        self._next_round(ROUNDS)

    @property
    def connected_to_recipient(self) -> bool:
        """Whether beta's libvirtd still waits for a Finish."""
        beta = self._world.hosts["beta"]
        return self.runs and beta.libvirtd and beta.vm is not None and beta.vm.phase is MigrationPhase.PREPARE

    def may_run(self, name: str) -> bool:
        """Whether a copy may run that the ledger says is the other host's: where post-copy was granted and has not
        begun, the guest still runs at the donor, and cannot at the recipient."""
        waits = self._world.plan.post_copy and not self.post_copy.began and not self._finish_passed
        return name == "alpha" and waits

    def _later(self, delay_s: float, work: object) -> None:
        number = self._number

        def run() -> None:
            if self._number == number and self.runs:
                work()  # type: ignore[operator]  # a callable without arguments

        self._world.after(delay_s, run)

    def _next_round(self, left: int) -> None:
        world = self._world
        world.step("alpha-host", "round")
        if not self.runs:
            return
        if self.held or not world.lanes_up or not world.nodes["beta"].alive:
            self._later(1.0, partial(self._next_round, left))
        elif not self.post_copy.wanted and (left or self.post_copy.is_slow):
            if world.plan.post_copy and left < ROUNDS:
                world.nodes["alpha"].post_copy.want()
            self._later(ROUND_S, partial(self._next_round, max(0, left - 1)))
        else:
            self._last_round()

    def _last_round(self) -> None:
        world, alpha = self._world, self._world.hosts["alpha"]
        vm, arriving = alpha.vm, world.hosts["beta"].vm
        if vm is None or vm.off or arriving is None or arriving.phase is not MigrationPhase.PREPARE:
            self.abort("domain is not running")
            return
        alpha.pause()
        world.advance(Stage.PAUSED)
        self._content = vm.content
        vm.phase = MigrationPhase.PERFORM_DONE
        self.waits = True
        if self.post_copy.wanted:
            world.hosts["beta"].image = arriving.content = self._content
            self.post_copy.take_over()
        world.in_node("alpha", lambda: world.nodes["alpha"].tell(ev.FinishWanted()))

    # ---- what the donor's node does

    def pass_finish(self) -> None:
        """Finish goes to the recipient."""
        self._finish_passed = True
        self._world.over_lane(self._finish_arrives)

    def _finish_arrives(self) -> None:
        world, beta = self._world, self._world.hosts["beta"]
        if beta.image is not None and beta.vm is not None and beta.vm.phase is MigrationPhase.PREPARE:
            beta.image = self._content  # the mirror was complete, and flushed, before Finish was sent
        self.at_gate = True
        self._gate_life = world.nodes["beta"].life
        world.in_node("beta", world.nodes["beta"].finish_came)

    def answer(self, *, runs_there: bool, reason: str) -> None:
        """Finish is answered to alpha's libvirtd, if it waits: it confirms."""
        if not self.waits:
            return
        self.waits = False
        self._confirm(None if runs_there else reason or "the port failed")

    def _confirm(self, error: str | None) -> None:
        """alpha's libvirtd lets its copy run, or kills it, in post-copy when all of it has left. A stopped QEMU hears
        nothing."""
        alpha = self._world.hosts["alpha"]
        if alpha.vm is not None and alpha.vm.frozen:
            alpha.vm.phase = MigrationPhase.CONFIRM if error is None else MigrationPhase.CONFIRM_CANCELLED
            self._later(CONFIRM_S, partial(self._confirm, error))
            return
        if error is None and self.post_copy.under_way:
            self._later(CONFIRM_S, partial(self._confirm, error))
            return
        if error is None and self.post_copy.broken:
            error = "post-copy failed"
        if error is not None:
            self._resume()
        elif alpha.vm is not None and not alpha.vm.off:
            alpha.stop()
        self._end(error)

    def abort(self, reason: str) -> None:
        """The job ends without a Finish; libvirt lets its guest run on. Nothing happens while Finish is out."""
        if self.runs and not self.waits:
            self._resume()
            self._cancel_incoming()
            self._end(reason)

    def guest_ended(self, name: str) -> None:
        """A QEMU is gone; the other's connections end."""
        if name == "alpha":
            self.abort("domain is not running")
            return
        number = self._number
        self._world.over_lane(lambda: self.abort("connection closed") if self._number == number else None)

    def _resume(self) -> None:
        alpha = self._world.hosts["alpha"]
        if alpha.vm is not None and alpha.libvirtd:
            alpha.vm.phase = MigrationPhase.NONE
            if not (self._was_paused or self.post_copy.began or alpha.vm.runs):
                alpha.let_run()

    def _end(self, error: str | None) -> None:
        world = self._world
        self.runs = self.waits = False
        world.over_lane(self._donor_gone)  # libvirtd has closed its connections
        world.after(0.0, lambda: world.in_node("alpha", lambda: world.nodes["alpha"].tell(ev.MigrationEnded(error))))

    # ---- what the recipient's node does

    def finish_at_recipient(self) -> None:
        """beta's libvirtd hears Finish: it lets the guest run, and answers."""
        world, beta = self._world, self._world.hosts["beta"]
        vm = beta.vm
        if not self.at_gate:
            # The gate finds its connection closed when it passes Finish on.
            world.after(0.0, self._trouble_at_recipient)
            return
        if vm is None or vm.off or not beta.libvirtd or vm.phase is not MigrationPhase.PREPARE:
            self._answer_from_recipient(_HUNG_UP)
            return
        vm.phase = MigrationPhase.FINISH
        vm.content = self._content
        self._talk_at_recipient("finish", FINISH_STEPS, partial(self._cont_at_recipient, vm))

    def _talk_at_recipient(self, what: str, left: int, work: Callable[[], None]) -> None:
        """As long as this libvirtd lives: where it dies, the end of its connections is the answer."""
        world, beta = self._world, self._world.hosts["beta"]
        starts = beta.libvirtd_starts

        def run() -> None:
            if not beta.libvirtd or beta.libvirtd_starts != starts:
                return
            if beta.vm is not None and beta.vm.frozen:
                self._talk_at_recipient(what, left, work)  # a stopped QEMU answers nobody
                return
            if left == 0:
                work()
                return
            world.step("beta-host", what)
            self._talk_at_recipient(what, left - 1, work)

        world.after(FINISH_STEP_S, run)

    def _cont_at_recipient(self, vm: Vm) -> None:
        beta = self._world.hosts["beta"]
        if not vm.off:
            self.post_copy.ran = True
            if self._was_paused:
                beta.event("suspended")
            else:
                beta.let_run()
        self._talk_at_recipient("cont", FINISH_STEPS, partial(self._finished_at_recipient, vm))

    def _finished_at_recipient(self, vm: Vm) -> None:
        world, beta = self._world, self._world.hosts["beta"]
        if self.post_copy.under_way:
            starts = beta.libvirtd_starts

            def look_again() -> None:
                if beta.libvirtd and beta.libvirtd_starts == starts:
                    self._finished_at_recipient(vm)

            world.after(PAGES_S / PAGES_STEPS, look_again)
            return
        if beta.vm is not vm:
            # QEMU died while libvirtd waited for its answer, or just after: Finish is answered either way.
            self._answer_from_recipient("QEMU is gone" if world.happens(0.5) else None)
            return
        vm.phase = MigrationPhase.NONE
        self._answer_from_recipient("post-copy failed" if self.post_copy.broken else None)

    def cancel_at_recipient(self) -> None:
        """beta's libvirtd hears a cancelled Finish."""
        self._cancel_incoming()
        if self.at_gate:
            self._answer_from_recipient("cancelled")
        else:
            self._world.after(0.0, self._trouble_at_recipient)

    def _cancel_incoming(self) -> None:
        beta = self._world.hosts["beta"]
        if beta.libvirtd and beta.vm is not None and beta.vm.phase is MigrationPhase.PREPARE:
            beta.stop()

    def _answer_from_recipient(self, error: str | None) -> None:
        world, node = self._world, self._world.nodes["beta"]
        self.at_gate = False
        if not node.alive or node.life != self._gate_life:
            return
        if error != _HUNG_UP:
            world.nodes["beta"].vcpus.answered()
        life, told_first = node.life, world.happens(0.5)
        if not told_first:
            self._reply_to_donor(error)

        def tell() -> None:
            world.in_node("beta", lambda: node.tell(ev.FinishAnswered(error)))
            if told_first and node.alive and node.life == life:
                self._reply_to_donor(error)

        world.after(0.0, tell)

    def _reply_to_donor(self, error: str | None) -> None:
        world = self._world
        world.over_lane(lambda: world.in_node("alpha", lambda: self._reply(error)))

    def _reply(self, error: str | None) -> None:
        if self.waits:
            self._world.nodes["alpha"].tell(ev.FinishAnswered(error))

    # ---- ends of connections

    def libvirtd_died(self, name: str) -> None:
        """Its connections break."""
        world = self._world
        if name == "alpha":
            if self.runs:
                self._end("Cannot recv data: connection reset")
            return
        if self.at_gate:
            self._answer_from_recipient(_HUNG_UP)
        elif self.runs:
            world.after(0.0, self._trouble_at_recipient)
            self._lane_ends()

    def node_died(self, name: str) -> None:
        """The kernel closes its sockets; the lane falls silent."""
        world = self._world
        self.post_copy.end()
        if name == "alpha":
            if self.runs:
                self._resume()
                self.runs = self.waits = False
            number = self._number
            world.after(SILENCE_S, lambda: self._silent_donor(number))
            return
        if not self.at_gate or self._gate_holds():
            self._cancel_incoming()
        self.at_gate = False
        if self.runs:
            number = self._number
            world.after(SILENCE_S, lambda: self._silent_recipient(number))

    def _gate_holds(self) -> bool:
        vm = self._world.hosts["beta"].vm
        return vm is not None and vm.phase is MigrationPhase.PREPARE

    def _silent_donor(self, number: int) -> None:
        if self._number == number and not self.runs:
            if not self.at_gate:
                self._cancel_incoming()
            self._trouble_at_recipient()

    def _silent_recipient(self, number: int) -> None:
        if self._number == number and self.runs:
            self._lane_ends()

    def hang_up(self, name: str) -> None:
        """A node has ended its transfer and closes its lanes."""
        world = self._world
        self.post_copy.end()
        if name == "alpha":
            world.over_lane(self._donor_gone)
        else:
            world.over_lane(self._lane_ends)

    def _donor_gone(self) -> None:
        if not self.at_gate:
            self._cancel_incoming()
            self._world.after(0.0, self._trouble_at_recipient)

    def _trouble_at_recipient(self) -> None:
        self._world.in_node("beta", self._trouble)

    def _trouble(self) -> None:
        node = self._world.nodes["beta"]
        if node.active:
            node.tell(ev.Trouble("donor_left", "the donor's side ended the transfer"))

    def _lane_ends(self) -> None:
        world = self._world
        if self.waits:
            world.in_node("alpha", lambda: world.nodes["alpha"].tell(ev.LaneLost("the lane ended")))
        else:
            self.abort("the lane ended")
