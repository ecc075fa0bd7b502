"""The core tier's host: libvirtd, one QEMU and its disk as plain values, with libvirt's phases and recovery. Pure.

It is the same model as the fake hypervisor's (`services.node_agent.hypervisor.fake_host`), without sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from services.node_agent.hypervisor.fake_host import MigrationPhase
from services.node_agent.transfers.machine import Guest
from shared.messages.vm import VmState

ENDING: VmState = VmState.OTHER
"""How `services.node_agent.hypervisor.libvirt_mapping` reads libvirt's "shutting down"."""
_ENDS_WITHIN_S = 1.0
"""How long a restarted libvirtd shows a copy that it ends as "shutting down"."""
_SEEN_AFTER_S = 30.0
"""How long a libvirtd waits for the monitor of a QEMU that does not answer, at most."""
EVENT_S = 0.0225
"""How long QEMU's news of its vCPUs takes to libvirt's clients; lost where libvirtd dies meanwhile."""
RAN_NS = 1_000_000_000
"""What a guest's vCPUs have used once they ran."""


@dataclass(slots=True)
class Vm:
    """A VM that is defined, or runs."""

    content: int
    runs: bool = True
    off: bool = False
    persistent: bool = True
    autostart: bool = False
    frozen: bool = False
    runs_after_thaw: bool = False
    phase: MigrationPhase = MigrationPhase.NONE
    unreachable: bool = False
    unseen: bool = False
    """Its process ended while libvirtd waited for its monitor, and libvirtd has not noticed."""
    ending: bool = False
    """libvirtd ends it, and its process is not gone yet."""
    left_behind: bool = False
    """Post-copy has begun: QEMU does not let it run again."""
    stalled: bool = False
    """Its vCPUs wait for memory that does not come."""
    vcpu_ns: int = 0
    """CPU time of its vCPUs, as far as it matters: whether they ever ran."""

    @property
    def executes(self) -> bool:
        """Whether vCPUs execute now."""
        return self.runs and not (self.frozen or self.off or self.ending or self.stalled)


class CoreHost:
    """One host. `image` is the version on its disk, None without one; `changed` hears of vCPUs."""

    def __init__(self, name: str, changed: Callable[[str], None]) -> None:
        self.name = name
        self.vm: Vm | None = None
        self.image: int | None = None
        self.quarantined: int | None = None
        self.libvirtd = True
        self.libvirtd_starts = 1
        self.boots = 1
        self.ended_by_itself = False
        """What libvirt's hook has written down of the guest that arrives."""
        self.resumed: Callable[[], None] = lambda: None
        """libvirtd's event: vCPUs were started."""
        self.event: Callable[[str], None] = lambda _: None
        """libvirtd's events by name, as `calibration` compares them; the nodes of this tier need only `resumed`."""
        self.may_start: Callable[[], bool] = lambda: True
        self.later: Callable[[float, Callable[[], None]], None] = lambda _, work: work()
        """Do something after so many seconds."""
        self._changed = changed

    # ---- what libvirt is asked

    def guest(self) -> Guest:
        """What libvirtd says."""
        if not self.libvirtd:
            return Guest.UNKNOWN
        guest = Guest.of(self._state())
        is_left = guest is Guest.PAUSED and self.vm is not None and self.vm.left_behind
        return Guest.LEFT_BEHIND if is_left else guest

    def _state(self) -> VmState | None:
        vm = self.vm
        if vm is not None and vm.unseen:
            return VmState.PAUSED
        if vm is None or vm.off:
            return None
        if vm.ending:
            return ENDING
        return VmState.RUNNING if vm.runs else VmState.PAUSED

    def vcpu_ns(self) -> int | None:
        """What the kernel says of QEMU's process, with or without a libvirtd; None without a process."""
        return None if self.vm is None or self.vm.off else self.vm.vcpu_ns

    @property
    def reachable(self) -> Vm | None:
        """The VM, if libvirtd can do something with it."""
        vm = self.vm
        return vm if self.libvirtd and vm is not None and not (vm.off or vm.unreachable or vm.ending) else None

    def resume(self) -> None:
        """Let the vCPUs run."""
        if (vm := self.reachable) is not None and not vm.left_behind:
            self.let_run()

    @property
    def paused_after_start(self) -> bool:
        """Whether libvirtd says that what paused the guest is no migration: it ran here before."""
        vm = self.vm
        return vm is not None and not vm.runs and not vm.off and vm.vcpu_ns > 0 and vm.phase is MigrationPhase.NONE

    def destroy(self) -> bool:
        """End the guest; False where libvirtd cannot."""
        if not self.libvirtd or (self.vm is not None and (self.vm.unreachable or self.vm.unseen)):
            return False
        self.stop()
        return True

    # ---- the fence: signals to QEMU's process

    def freeze(self) -> None:
        """Stop the process."""
        if self.vm is not None and not self.vm.off:
            self.vm.frozen = True
            self._changed(self.name)

    def thaw(self) -> None:
        """Let it go on, with what was queued."""
        vm = self.vm
        if vm is None or not vm.frozen:
            return
        vm.frozen = False
        if vm.phase is MigrationPhase.CONFIRM:
            self.stop()  # libvirtd has asked it to end
            return
        if vm.runs_after_thaw:
            vm.runs_after_thaw = False
            self.let_run()
        self._changed(self.name)
        if vm.unreachable and self.libvirtd:
            self._reconnect(vm)

    def kill_frozen(self) -> None:
        """Kill the process if it is stopped."""
        if self.vm is not None and self.vm.frozen:
            self.stop()

    # ---- QEMU

    def let_run(self) -> None:
        """libvirtd's `cont`; a stopped process obeys later."""
        vm = self.vm
        if vm is None or vm.off:
            return
        if vm.frozen:
            vm.runs_after_thaw = True
            return
        vm.runs, vm.vcpu_ns = True, RAN_NS
        self._changed(self.name)
        starts = self.libvirtd_starts
        self.later(EVENT_S, lambda: self._tell_resumed() if self.libvirtd and self.libvirtd_starts == starts else None)

    def _tell_resumed(self) -> None:
        self.event("resumed")
        self.resumed()

    def _tell(self, event: str) -> None:
        if self.libvirtd:
            self.event(event)

    def stop(self, *, by_itself: bool = False) -> None:
        """QEMU is gone; `by_itself`: not by libvirtd's doing, which tells its hook so."""
        vm = self.vm
        if vm is None:
            return
        self.ended_by_itself = self.ended_by_itself or by_itself
        vm.unseen = vm.unreachable and self.libvirtd
        vm.runs = vm.frozen = vm.runs_after_thaw = vm.unreachable = vm.ending = vm.stalled = False
        vm.off, vm.phase = True, MigrationPhase.NONE
        if not vm.persistent:
            self.vm = None
        self._changed(self.name)
        if vm.unseen:
            self.later(_SEEN_AFTER_S, partial(self._see, vm))
        else:
            self._tell("stopped")

    def _see(self, vm: Vm) -> None:
        if vm.unseen:
            vm.unseen = False
            self._tell("stopped")

    def pause(self) -> None:
        """An operator, an I/O error, or a migration's last round."""
        if self.vm is not None and not self.vm.off and self.vm.runs:
            self.vm.runs = False
            self._changed(self.name)
            self._tell("suspended")

    def power_on(self) -> None:
        """Boot the VM, if it is off, has its image, and the hook allows it."""
        vm = self.vm
        if vm is None or not vm.off or vm.unseen or not self.libvirtd or self.image is None or not self.may_start():
            return
        vm.off, vm.runs, vm.left_behind, vm.content = False, True, False, self.image
        self._changed(self.name)

    def define(self, content: int) -> None:
        """Make a VM lasting that is not there."""
        self.vm = Vm(content, runs=False, off=True)

    # ---- what befalls it

    def kill_libvirtd(self) -> None:
        """Every QEMU goes on."""
        self.libvirtd = False

    def start_libvirtd(self) -> None:
        """It reconnects."""
        self.libvirtd = True
        self.libvirtd_starts += 1
        vm = self.vm
        if vm is not None:
            self._see(vm)
        if vm is not None and not vm.off and not vm.ending:
            if vm.frozen:
                vm.unreachable = True
            else:
                self._reconnect(vm)

    def _reconnect(self, vm: Vm) -> None:
        vm.unreachable = False
        phase, vm.phase = vm.phase, MigrationPhase.NONE
        match phase:
            case MigrationPhase.PERFORM | MigrationPhase.CONFIRM_CANCELLED:
                self.let_run()
            case MigrationPhase.CONFIRM | MigrationPhase.PREPARE:
                self._end(vm)
            case MigrationPhase.FINISH if not vm.runs:
                self._end(vm)
            case _:
                pass  # PERFORM_DONE: it stays paused

    def _end(self, vm: Vm) -> None:
        vm.ending = True
        self._changed(self.name)
        self.later(_ENDS_WITHIN_S, lambda: self.stop() if self.vm is vm and vm.ending else None)

    def power_cut(self) -> None:
        """Everything that runs is gone."""
        self.libvirtd = False
        self.boots += 1
        if self.vm is not None and not self.vm.off:
            self.stop()

    def boot(self) -> None:
        """libvirtd starts, and what has autostart."""
        self.libvirtd = True
        self.libvirtd_starts += 1
        if self.vm is not None and self.vm.autostart:
            self.power_on()
