"""Takes the core tier's host model through a situation, and writes down what it showed. Pure, on virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from services.node_agent.switchover.vcpu_watch import VcpuWatch
from services.node_agent.transfers.machine import events as ev
from tests.simulation.calibration.situations import HOSTS, POWER_OFF, SITUATIONS, split
from tests.simulation.calibration.trace import ABSENT, NO_ANSWER, Moment, Place, Trace
from tests.simulation.core_host import CoreHost, Vm
from tests.simulation.core_migration import SILENCE_S
from tests.simulation.core_world import CoreWorld
from tests.simulation.faults import Plan, Stage

SETTLES_S: Final = 10.0
MEMORY_WITHIN_S: Final = 60.0
WAIT_S: Final = 35.0
POWER_OFF_S: Final = 0.2
"""How long a guest that ends itself runs before."""


class Node:
    """Stands for a node agent, and decides nothing: what libvirt asks waits for the next step."""

    def __init__(self, ended: dict[str, str]) -> None:
        self.alive = self.active = True
        self.life = 0
        self.phase = None
        self.vcpus = VcpuWatch()
        self.finish_wanted = False
        self.reply: ev.FinishAnswered | None = None
        self._ended = ended

    def tell(self, event: ev.Event) -> None:
        """libvirt's side has something to say."""
        match event:
            case ev.FinishWanted():
                self.finish_wanted = True
            case ev.FinishAnswered() if self.finish_wanted:
                self.reply = event
            case ev.MigrationEnded(error):
                self._ended["migrate"] = "ok" if error is None else "error"

    def finish_came(self) -> None:
        """It is at the gate, which holds it."""


class World(CoreWorld):
    """Hosts and their migration, without vmport."""

    def __init__(self, ended: dict[str, str]) -> None:
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._queued = 0
        super().__init__(Plan(0))
        self.nodes = {name: Node(ended) for name in HOSTS}
        for host in self.hosts.values():
            host.resumed = lambda: None
            host.may_start = lambda: True

    def after(self, delay_s: float, work: Callable[[], None]) -> None:
        """Do something later."""
        self._queued += 1
        heapq.heappush(self._queue, (self.time_s + delay_s, self._queued, work))

    def step(self, process: str, what: str) -> None:
        """No faults come by themselves."""

    def advance(self, stage: Stage) -> None:
        """Nobody counts."""

    def violate(self, rule: str, detail: str) -> None:
        """Without vmport every rule may be broken."""

    def pass_time(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> None:
        """Let it happen."""
        end_s = self.time_s + seconds
        while self._queue and self._queue[0][0] <= end_s and not until():
            self.time_s, _, work = heapq.heappop(self._queue)
            work()
        if not until():
            self.time_s = end_s


class ModelPlayer:
    """One situation; `play` once."""

    def __init__(self, situation: str) -> None:
        self._situation = situation
        self._ended: dict[str, str] = {}
        self._world = World(self._ended)
        self._events: dict[str, list[str]] = {name: [] for name in HOSTS}
        for name, host in self._world.hosts.items():
            host.event = self._events[name].append
        self._stood_still = False
        self._hosts = self._world.hosts
        self._hosts["beta"].image = 0

    def play(self) -> Trace:
        """Go through its steps."""
        return Trace(self._situation, tuple(self._step(step) for step in SITUATIONS[self._situation]))

    def _step(self, step: str) -> Moment:
        verb, host = split(step)
        if host:
            getattr(self, f"_{verb}")(self._hosts[host])
        else:
            getattr(self, f"_{verb}")()
        self._world.pass_time(SETTLES_S)
        if self._stood_still:
            self._end_itself()
        if verb in {"start_libvirtd", "boot"}:
            self._events[host].clear()
        places = {name: self._place(name) for name in HOSTS}
        calls = dict(self._ended)
        self._ended.clear()
        return Moment(step, places, calls)

    def _place(self, name: str) -> Place:
        host = self._hosts[name]
        vm, events = host.vm, tuple(self._events[name])
        self._events[name].clear()
        vcpus = "none" if vm is None or vm.off else "run" if vm.executes else "stand"
        if not host.libvirtd:
            return Place(NO_ANSWER, "", False, vcpus, events)  # libvirt's "is lasting"
        if vm is None:
            return Place(ABSENT, "", False, vcpus, events)
        return Place(_state(vm), "", vm.persistent, vcpus, events)

    def _end_itself(self) -> None:
        for name, host in self._hosts.items():
            if host.vm is not None and host.vm.executes:
                self._world._end_guest(name, by_itself=True)
                self._world.pass_time(SETTLES_S)
                self._stood_still = False

    # ---- the verbs of a migration

    def _start(self) -> None:
        self._world.migration.held = True
        self._world.migration.begin()

    def _memory(self) -> None:
        self._world.migration.held = False
        self._world.pass_time(MEMORY_WITHIN_S, until=lambda: bool(self._world.nodes["alpha"].finish_wanted))

    def _gate(self) -> None:
        self._world.migration.pass_finish()

    def _pass(self) -> None:
        self._world.migration.finish_at_recipient()

    def _cancel(self) -> None:
        self._world.migration.cancel_at_recipient()

    def _answer(self) -> None:
        reply = self._world.nodes["alpha"].reply
        if reply is not None and reply.error is None:
            self._runs_there()
        else:
            self._refuse()

    def _runs_there(self) -> None:
        self._world.migration.answer(runs_there=True, reason="")

    def _refuse(self) -> None:
        self._world.migration.answer(runs_there=False, reason="the port failed")

    def _abort(self) -> None:
        self._world.migration.abort("canceled by client")

    def _post_copy(self) -> None:
        self._world.migration.post_copy.start()
        self._world.migration.post_copy.slow = True
        self._memory()

    def _pages(self) -> None:
        self._world.migration.post_copy.slow = False

    def _links(self) -> None:
        self._world.migration.post_copy.end()

    def _wait(self) -> None:
        self._world.pass_time(WAIT_S)
        self._stood_still = self._situation.endswith(POWER_OFF)

    def _node_dies(self, host: CoreHost) -> None:
        was_under_way = self._world.migration.runs
        self._world._kill(host.name)
        if was_under_way and not self._world.migration.runs:
            self._ended["migrate"] = "error"  # nobody is there to hear it
        self._world.pass_time(SILENCE_S)

    # ---- the verbs of a host

    def _freeze(self, host: CoreHost) -> None:
        host.freeze()

    def _thaw(self, host: CoreHost) -> None:
        host.thaw()

    def _kill_frozen(self, host: CoreHost) -> None:
        host.kill_frozen()

    def _kill_libvirtd(self, host: CoreHost) -> None:
        host.kill_libvirtd()
        self._world.migration.libvirtd_died(host.name)

    def _start_libvirtd(self, host: CoreHost) -> None:
        host.start_libvirtd()

    def _kill_qemu(self, host: CoreHost) -> None:
        self._world._end_guest(host.name, by_itself=True)

    def _destroy(self, host: CoreHost) -> None:
        self._world._end_guest(host.name, by_itself=False)
        self._ended["destroy"] = "ok"

    def _suspend(self, host: CoreHost) -> None:
        self._world._suspend(host.name)

    def _resume(self, host: CoreHost) -> None:
        host.resume()

    def _autostart(self, host: CoreHost) -> None:
        assert host.vm is not None
        host.vm.autostart = True

    def _reboot(self, host: CoreHost) -> None:
        self._world._reboot(host.name)

    def _boot(self, host: CoreHost) -> None:
        host.boot()


def _state(vm: Vm) -> str:
    """As libvirtd names it."""
    if vm.off and not vm.unseen:
        return "shutoff"
    if vm.ending:
        return "shutdown"
    return "running" if vm.runs else "paused"
