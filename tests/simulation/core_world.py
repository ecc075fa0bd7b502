"""The `core` tier: the broker's saga, the transfer machines and a host model over direct queues. No asyncio, no I/O.

The same plans as in the services tier, from the window's opening on. A schedule takes some milliseconds.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from services.broker.saga import (
    Alarm,
    CommitEpoch,
    DeadlinePassed,
    Event,
    Heard,
    LanesOpened,
    OpenLanes,
    Owner,
    Send,
    Settled,
    WakeUp,
    step,
)
from services.broker.saga.decision import Decision
from services.broker.saga.state import SagaState
from services.node_agent.state.journal import Phase
from shared.messages import Message
from shared.messages.porting import (
    AbortTransfer,
    DisconnectVm,
    InboundFinished,
    OpenInbound,
    ProvisionVm,
    RequestSwitchover,
    StartOutbound,
)
from shared.messages.service_change import CancelPort, PortCancelled, PortCompleted, PortFailed, PortPhase
from shared.parties import Party
from tests.simulation.core_host import CoreHost, Vm
from tests.simulation.core_ids import PORT
from tests.simulation.core_migration import Migration
from tests.simulation.core_network import announced_early, network_of, violations_at_rest
from tests.simulation.core_nodes import CoreNode, DonorNode, RecipientNode
from tests.simulation.faults import STAGES, Fault, Plan, Stage
from tests.simulation.report import Line, Outcome, Violation
from tests.support.broker_samples import ACME, ALPHA, ALPHA_NODE, BETA, BETA_NODE, NOW, Conversation, request
from tests.support.port_rules import rules

LIMIT_S = 7200.0
LATENCY_S = 0.01
LATE_S = 20.0
"""How late the second copy of a message can be."""
OPERATOR_S = 1800.0
"""How long an alarm waits for its operator."""
NAMES = {ALPHA: "donor", BETA: "recipient", ALPHA_NODE: "alpha", BETA_NODE: "beta", ACME: "tenant"}
PARTIES = {name: party for party, name in NAMES.items()}
ENDS = (PortCompleted, PortFailed, PortCancelled)
_GIVEN_AWAY = frozenset({Phase.POST_COPY, Phase.FINISH_PASSED, Phase.DONE, Phase.QUARANTINED})
_COMMANDS = (OpenInbound, StartOutbound, AbortTransfer, ProvisionVm, DisconnectVm)
_BEGIN: list[Conversation] = []


class Dead(Exception):
    """The process in whose code this is has just died; what it did not store is lost."""


class Again(Exception):
    """A handler could not store: its message comes again."""


def _opened() -> SagaState:
    """A port whose window has just opened; made once."""
    if not _BEGIN:
        _BEGIN.append(Conversation.begin(request(), rules=rules()).fixed())
    return _BEGIN[0].state


class CoreBroker:
    """The saga with its ledger."""

    def __init__(self, world: CoreWorld) -> None:
        self.world = world
        self.alive = True
        self.state = _opened()
        self.timing = _BEGIN[0].timing
        self.seen: set[int] = set()
        self.outbox: deque[tuple[str, Message]] = deque()
        self._armed: set[Any] = set()
        self._timers = 0
        self.called = False
        """Whether an operator was: the words of both sides contradict each other."""

    def handle(self, sender: Party, message: Message, number: int) -> None:
        """A message, once."""
        if number not in self.seen:
            self.take(Heard(sender, message), number)
        self.publish()

    def take(self, event: Event, number: int | None = None) -> None:
        """One step: state, effects and inbox mark are one commit."""
        world = self.world
        world.step("broker", "begin")
        decision = step(self.state, event, world.now(), self.timing)
        world.step("broker", "commit")
        self._commit(decision)
        if number is not None:
            self.seen.add(number)
        world.step("broker", "committed")

    def _commit(self, decision: Decision) -> None:
        world = self.world
        self.state = decision.state
        for effect in decision.effects:
            match effect:
                case Send(to=to, message=message):
                    self.outbox.append((NAMES[to], message))
                case CommitEpoch(owner=owner, epoch=epoch):
                    world.committed(owner, epoch)
                case OpenLanes():
                    world.after(LATENCY_S, lambda: world.in_broker(LanesOpened()))
                case Alarm(code="words_contradict") if not self.called:
                    self.called = True
                    world.after(OPERATOR_S, self._operator_comes)
        self.arm()

    def _operator_comes(self) -> None:
        """`vmport-broker --settle`, where the port has not ended meanwhile, after a look at both hosts."""
        if self.state.contradiction and not self.state.ended:
            world = self.world
            world.outcome.settled = True
            there = world.hosts["beta"].vm is not None
            evidence = "virsh list --all, at both hosts"
            world.in_broker(Settled(Owner.RECIPIENT if there else Owner.DONOR, "operator", evidence))

    def arm(self) -> None:
        """Timers are in the ledger."""
        for due, event in ((self.state.deadline, DeadlinePassed(self.world.now())), (self.state.wake_at, WakeUp())):
            key = (due, type(event))
            if due is not None and key not in self._armed:
                self._armed.add(key)
                delay_s = (due - self.world.now()).total_seconds()
                self.world.after(max(0.0, delay_s), partial(self._fire, event, self._timers))

    def forget_timers(self) -> None:
        """What is armed now will not fire."""
        self._timers += 1
        self._armed.clear()

    @property
    def has_timer(self) -> bool:
        """Whether the ledger has the timer that the state asks for."""
        return self.state.ended or (self.state.deadline, DeadlinePassed) in self._armed

    def _fire(self, event: Event, timers: int) -> None:
        if timers != self._timers:
            return
        if isinstance(event, DeadlinePassed):
            moving = self.world.migration.runs and self.world.nodes["alpha"].alive
            event = DeadlinePassed(self.world.now() if moving else None)
        self.world.in_broker(event)

    def publish(self) -> None:
        """The relay: what is committed goes out, in order."""
        while self.outbox:
            self.world.step("broker", "publish")
            to, message = self.outbox[0]
            self.world.post("broker", to, message)
            self.outbox.popleft()
            self.world.step("broker", "sent")


class CoreWorld:
    """One schedule."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.outcome = Outcome(plan)
        self.time_s = 0.0
        self.stage = Stage.PREPARE
        self.owner, self.epoch = "alpha", 1
        self.told: Message | None = None
        self.may_be_off = False
        self.lanes_up = True
        self._lane_cuts = 0
        self._waiting_lane: list[Callable[[], None]] = []
        self._chance = random.Random(f"core {plan.seed}")  # noqa: S311  # a schedule, no secret
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._numbers = 0
        self._going = 0
        self._written = 1
        self._ran = {"alpha": True, "beta": False}
        self.hosts = {name: CoreHost(name, self.vcpus) for name in ("alpha", "beta")}
        for host in self.hosts.values():
            host.later = self.after
        alpha = self.hosts["alpha"]
        alpha.vm, alpha.image = Vm(1, autostart=plan.autostart), 1
        self.migration = Migration(self)
        self.network = network_of(plan.seed)
        self.nodes: dict[str, Any] = {"alpha": DonorNode(self, "alpha"), "beta": RecipientNode(self, "beta")}
        alpha.may_start = lambda: fence_allows(self)
        self.broker = CoreBroker(self)
        agreed = self.broker.state.agreement
        assert agreed is not None, "the window of a port opens after its agreement"
        self.agreement = agreed
        self.agents_alive = {"donor": True, "recipient": True}
        self._queues: dict[str, deque[tuple[str, Message, int]]] = {
            name: deque() for name in ("broker", "donor", "recipient", "alpha", "beta", "tenant")
        }
        self._due_s: dict[tuple[str, str], float] = {}
        self._cut: dict[str, int] = dict.fromkeys(self._queues, 0)
        self._held: dict[str, list[tuple[str, Message, int]]] = {name: [] for name in self._queues}
        """What a party that is cut off has sent, in order."""
        self._seen: dict[str, set[int]] = {"donor": set(), "recipient": set()}
        self._steps: dict[str, int] = {}
        self._pending = [fault for fault in plan.faults if fault.kind != "skew"]
        self._handling: str | None = None

    # ---- time

    def now(self) -> Any:
        """The time of day."""
        return NOW + timedelta(seconds=self.time_s)

    def after(self, delay_s: float, work: Callable[[], None]) -> None:
        """Do something later."""
        self._at(self.time_s + delay_s, work)

    def _at(self, due_s: float, work: Callable[[], None]) -> None:
        """Do something then, after all that was to be done at that time before."""
        self._count += 1
        heapq.heappush(self._events, (due_s, self._count, work))

    # ---- steps and invariants

    def step(self, process: str, what: str) -> None:
        """A process is about to do something, or has done it. Raises `Dead` where it has just died."""
        outcome = self.outcome
        outcome.steps += 1
        outcome.digest = hash((outcome.digest, process, what)) & 0xFFFFFFFFFFFF
        self._steps[process] = self._steps.get(process, 0) + 1
        self._steps["*"] = self._steps.get("*", 0) + 1
        if self._pending:
            self._strike()
        if not self.lives(process):
            raise Dead(process)

    def lives(self, process: str) -> bool:
        """Whether a process is alive; hosts and the tenant always are."""
        if process == "broker":
            return self.broker.alive
        if process in self.nodes:
            alive: bool = self.nodes[process].alive
            return alive
        return self.agents_alive.get(process, True)

    def violate(self, rule: str, detail: str) -> None:
        """A rule is broken; each is told once."""
        if all(each.rule != rule for each in self.outcome.violations):
            self.outcome.violations.append(Violation(rule, detail, self.time_s))

    def say(self, source: str, text: str, to: str = "") -> None:
        """Something for the chart."""
        self.outcome.lines.append(Line(self.time_s, source, to, text))

    def vcpus(self, name: str) -> None:
        """A host's vCPUs started or stopped: at most one copy runs, none of an older epoch, none with an older disk."""
        vm = self.hosts[name].vm
        runs = vm is not None and vm.executes
        if runs != self._ran[name]:
            self._ran[name] = runs
            self.say(name, "runs" if runs else "stands")
            if runs and name == "beta" and vm is not None and vm.content >= self._written:
                self.guest_writes()  # it has waited for that
        if runs and vm is not None:
            if vm.content < self._written:
                self.violate("disk went back", f"{name} runs version {vm.content}, {self._written} was synced")
            if all(self._ran.values()):
                self.violate("two copies", "alpha and beta run the VM")
            elif name != self.owner and not self.migration.may_run(name):
                self.violate("older epoch", f"{name} runs the VM, which is {self.owner}'s since epoch {self.epoch}")

    def networks_changed(self) -> None:
        """A kernel's network changed: nobody announces what was never his."""
        if announced_early(self):
            self.violate("announced early", f"beta announces the VM, which is {self.owner}'s by epoch {self.epoch}")

    def committed(self, owner: str, epoch: int) -> None:
        """The ledger has a new owner."""
        self.owner, self.epoch = owner, epoch
        self.say("broker", f"epoch {epoch}: {owner}")
        self.advance(Stage.COMMITTED)
        for name in self.hosts:
            self.vcpus(name)

    def advance(self, stage: Stage) -> None:
        """The port has come so far."""
        if STAGES.index(stage) > STAGES.index(self.stage):
            self.stage = stage
            self._steps.clear()

    def guest_works(self) -> None:
        """The guest writes to its disk every second."""
        self.guest_writes()
        self.after(1.0, self.guest_works)

    def happens(self, share: float) -> bool:
        """Whether it happens this time."""
        return self._chance.random() < share

    def guest_writes(self) -> None:
        """The guest writes to its disk, wherever it runs."""
        for host in self.hosts.values():
            vm = host.vm
            if vm is not None and vm.executes:
                vm.content += 1
                if host.image is None:
                    self.violate("disk removed", f"the guest at {host.name} runs on an image that is not there")
                else:
                    host.image = vm.content
                self._written = max(self._written, vm.content)

    # ---- messages

    def post(self, source: str, to: str, message: Message, *, durable: bool = True) -> bool:
        """Send a message. A durable one arrives, however often it must be sent; False where another one was lost."""
        plan, chance = self.plan, self._chance
        self._numbers += 1
        number = self._numbers
        if not durable and (self._cut[source] or (plan.lose and chance.random() < plan.lose)):
            return False
        delay_s = LATENCY_S + (chance.random() * plan.delay_s if plan.delay_s else 0.0)
        due_s = max(self._due_s.get((source, to), 0.0), self.time_s + delay_s)
        self._due_s[source, to] = due_s
        self.say(source, type(message).__name__, to)
        copies = 2 if plan.double and chance.random() < plan.double else 1
        for copy in range(copies):
            # Sent again after an unanswered confirmation, a message comes later than newer ones.
            late_s = self.time_s + LATENCY_S + chance.random() * LATE_S if copy else due_s
            self._at(max(due_s, late_s), lambda: self._arrive(source, to, message, number))
        return True

    def _arrive(self, source: str, to: str, message: Message, number: int) -> None:
        if self._cut[source]:
            self._held[source].append((to, message, number))
            return
        self._watch(message)
        self._queues[to].append((source, message, number))
        self._drain(to)

    def _watch(self, message: Message) -> None:
        match message:
            case OpenInbound():
                self.advance(Stage.PREPARE)
            case RequestSwitchover():
                self.advance(Stage.ASKED)
            case InboundFinished():
                self.advance(Stage.ARRIVED)
            case DisconnectVm() | ProvisionVm():
                self.advance(Stage.FINISHING)

    def _drain(self, to: str) -> None:
        queue = self._queues[to]
        while queue and self.lives(to) and not self._cut[to] and self._handling is None:
            self._handling = to
            try:
                _, message, number = queue[0]
                self._deliver(to, *queue[0])
                queue.popleft()
                self.step(to, "acked")
                self.acknowledged(to, message, number)
            except Again:
                self.after(1.0, lambda: self._drain(to))
                return
            except Dead:
                pass
            finally:
                self._handling = None
        for name, waiting in self._queues.items():
            if waiting and name != to and self.lives(name) and not self._cut[name] and self._handling is None:
                self.after(0.0, partial(self._drain, name))

    def acknowledged(self, to: str, message: Message, number: int) -> None:
        """What a service with a store has acknowledged, it has stored."""
        seen = self.broker.seen if to == "broker" else self._seen.get(to)
        if seen is not None and number not in seen:
            self.violate("acknowledged", f"{to} acknowledged {type(message).__name__} and has not stored it")

    def _deliver(self, to: str, source: str, message: Message, number: int) -> None:
        self.step(to, type(message).__name__)
        if to == "broker":
            self.broker.handle(PARTIES[source], message, number)
        elif to == "tenant":
            if isinstance(message, ENDS):
                self.told = message
                self.outcome.ended = type(message).__name__
        elif to in self.nodes:
            self.nodes[to].handle(message)
        else:
            self._relay(to, source, message, number)

    def _relay(self, agent: str, source: str, message: Message, number: int) -> None:
        """A provider's agent passes the broker's commands to its node and the node's answers to the broker, once."""
        if number in self._seen[agent]:
            return
        to = {"donor": "alpha", "recipient": "beta"}[agent] if source == "broker" else "broker"
        self.step(agent, "commit")
        self._seen[agent].add(number)
        if to == "broker" or isinstance(message, _COMMANDS):
            self.post(agent, to, message)

    def redeliver(self) -> None:
        """What is being handled cannot be stored now."""
        raise Again

    def in_broker(self, event: Event) -> None:
        """A timer, or the relay's news, if the broker is alive; else when it starts."""
        if not self.broker.alive:
            self.after(1.0, lambda: self.in_broker(event))
            return
        before = self.broker.state
        try:
            self.broker.take(event)
            self.broker.publish()
        except Dead:
            if self.broker.state is before:
                # Not committed: a timer is still in the ledger, and a new process looks after the lanes again.
                self.after(1.0, lambda: self.in_broker(event))

    def in_node(self, name: str, work: Callable[[], None]) -> None:
        """Something happens in a node agent, if it is alive."""
        if self.nodes[name].alive:
            try:
                work()
            except Dead:
                return

    def over_lane(self, work: Callable[[], None]) -> None:
        """Something crosses the lane, at once or when it is up."""
        if self.lanes_up:
            self.after(LATENCY_S, work)
        else:
            self._waiting_lane.append(work)

    # ---- faults

    def _strike(self) -> None:
        due = [fault for fault in self._pending if self._is_due(fault)]
        # First: what befalls is itself full of steps.
        self._pending = [fault for fault in self._pending if fault not in due]
        for fault in due:
            self._befall(fault)

    def _is_due(self, fault: Fault) -> bool:
        here, wanted = STAGES.index(self.stage), STAGES.index(fault.stage)
        if fault.kind == "crash":
            # A node agent can also die while its host does something.
            counted = self._steps.get(fault.party, 0) + self._steps.get(f"{fault.party}-host", 0)
        else:
            counted = self._steps.get("*", 0)
        return here > wanted or (here == wanted and counted > fault.after)

    def _befall(self, fault: Fault) -> None:  # noqa: PLR0912  # one line for each kind
        self.outcome.cells.add((str(self.stage), fault.kind, fault.party))
        self.say(
            fault.party if fault.party in self._queues else "broker", f"{fault.kind} {fault.party} {fault.for_s} s"
        )
        party = fault.party
        self._going += 1
        match fault.kind:
            case "crash":
                self._kill(party)
            case "partition":
                self._cut[party] += 1
            case "bus":
                for name in self._cut:
                    self._cut[name] += 1
            case "lanes":
                self._lane_cuts += 1
                self.lanes_up = False
            case "disk_full":
                self.nodes[party].disk_full = True
            case "libvirtd":
                self.hosts[party].kill_libvirtd()
                self.migration.libvirtd_died(party)
            case "reboot":
                self._reboot(party)
            case "qemu" | "destroy":
                self._end_guest(party, by_itself=fault.kind == "qemu")
            case "power_off":
                for name, host in self.hosts.items():
                    if host.vm is not None and host.vm.executes:
                        self._end_guest(name, by_itself=True)
            case "suspend":
                self._suspend(party)
            case "start":
                self.hosts[party].power_on()
            case "cancel":
                self.post("tenant", "broker", CancelPort(port_id=PORT))
        self.after(fault.for_s, lambda: self._undo(fault))

    def _undo(self, fault: Fault) -> None:
        party = fault.party
        self._going -= 1
        match fault.kind:
            case "crash":
                self._start(party)
            case "partition":
                self._mend(party)
            case "bus":
                for name in self._cut:
                    self._mend(name)
            case "lanes":
                self._lane_cuts -= 1
                self.lanes_up = self._lane_cuts == 0
                if self.lanes_up:
                    waiting, self._waiting_lane = self._waiting_lane, []
                    for work in waiting:
                        self.after(LATENCY_S, work)
            case "disk_full":
                self.nodes[party].disk_full = False
            case "libvirtd":
                self.hosts[party].start_libvirtd()
            case "reboot":
                self.hosts[party].boot()
                self.after(1.0, lambda: self._start(party))

    def _mend(self, name: str) -> None:
        self._cut[name] -= 1
        if not self._cut[name]:
            held, self._held[name] = self._held[name], []
            for to, message, number in held:
                self._arrive(name, to, message, number)
        self._drain(name)

    def _kill(self, name: str) -> None:
        if not self.lives(name):
            return
        if name == "broker":
            self.broker.alive = False
        elif name in self.nodes:
            node: CoreNode = self.nodes[name]
            node.alive = False
            node.life += 1
            self.migration.node_died(name)
        else:
            self.agents_alive[name] = False

    def _start(self, name: str) -> None:
        if self.lives(name):
            return
        if name == "broker":
            self.broker.alive = True
            try:
                self.broker.publish()
            except Dead:
                return
        elif name in self.nodes:
            node = self.nodes[name]
            node.alive = True
            self.in_node(name, node.start)
            if node.alive and not node.active and node.last_word is not None and node.phase is not Phase.QUARANTINED:
                self.in_node(name, lambda: node.tell_agent(node.last_word))
        else:
            self.agents_alive[name] = True
        self.after(0.0, lambda: self._drain(name))

    def _reboot(self, name: str) -> None:
        vm = self.hosts[name].vm
        arriving = name == "beta" and self.nodes[name].phase is Phase.FINISH_PASSED
        if arriving or (vm is not None and not vm.off):
            self.may_be_off = True  # also where nobody will ever know whether it had been started
        self.hosts[name].power_cut()
        self._kill(name)
        self.migration.libvirtd_died(name)

    def _end_guest(self, name: str, *, by_itself: bool) -> None:
        vm = self.hosts[name].vm
        if vm is not None and not vm.off:
            self.may_be_off = True
            if not by_itself and name == "beta" and self.nodes["beta"].phase is not Phase.DONE:
                # An operator destroys the copy before its arrival is stored: it may be thrown away with what it has
                # written since its start, and that is no loss of a port's.
                left = self.hosts["alpha"].vm
                self._written = min(self._written, left.content) if left is not None else self._written
            self.hosts[name].stop(by_itself=by_itself)
            self.migration.guest_ended(name)

    def _suspend(self, name: str) -> None:
        vm = self.hosts[name].vm
        if vm is not None and vm.executes:
            self.may_be_off = True
            self.hosts[name].pause()

    # ---- a schedule

    def live(self) -> Outcome:
        """Run to the end."""
        self.after(1.0, self.guest_works)
        self.after(0.0, lambda: self.in_broker(LanesOpened()))
        self.broker.arm()
        checked_s = 0.0
        while self._events and not self.outcome.violations:
            self.time_s, _, work = heapq.heappop(self._events)
            try:
                work()
            except Dead:
                continue
            if self.time_s - checked_s >= 5.0:
                checked_s = self.time_s
                if not self.broker.has_timer:
                    self.violate("no timer", f"the port waits in {self.broker.state.phase} without a deadline")
                if self._going == 0 and self._is_over():
                    break
            if self.time_s > LIMIT_S:
                break
        self._at_rest()
        return self.outcome

    def _is_over(self) -> bool:
        return (
            self.broker.state.ended
            and self.told is not None
            and not any(self._queues.values())
            and not any(self._held.values())
            and not any(node.active or node.network.busy for node in self.nodes.values())
            and all(self.lives(name) for name in self._queues)
        )

    def _at_rest(self) -> None:
        if self.outcome.violations:
            return
        state = self.broker.state
        if not self._is_over():
            nodes = {name: f"{node.machine.phase}/{node.phase}" for name, node in self.nodes.items()}
            self.violate(
                "not over", f"the port is {state.phase}; {nodes}; the tenant heard {self.outcome.ended or 'nothing'}"
            )
            return
        if state.owner != self.owner or (state.phase is PortPhase.COMPLETED) != (self.owner == "beta"):
            self.violate("tenant's word", f"the port is {state.phase}, and the VM is {self.owner}'s")
        self._place()
        for rule, detail in violations_at_rest(self):
            self.violate(rule, detail)

    def _place(self) -> None:
        mine, other = self.hosts[self.owner], self.hosts["beta" if self.owner == "alpha" else "alpha"]
        if mine.vm is None or other.vm is not None:
            self.violate("place", f"the VM is {self.owner}'s; it has {mine.vm}, and {other.name} has {other.vm}")
            return
        may_be_off = self.may_be_off or self.migration.post_copy.lost
        if not mine.vm.executes and (not may_be_off or mine.vm.frozen):
            self.violate("guest stands", f"at {self.owner}: {mine.vm}")
        if not mine.vm.persistent:
            self.violate("place", f"{self.owner} has the VM only until it stops")
        if mine.image is None or mine.image < self._written:
            self.violate("disk went back", f"version {self._written} was synced, {self.owner} has {mine.image}")
        if self.owner == "beta" and other.quarantined is None:
            self.violate("removed", "the donor's disk is not in its quarantine")
        if other.image is not None:
            self.violate("left over", f"{other.name} has an image of version {other.image}")


def fence_allows(world: CoreWorld) -> bool:
    """The libvirt hook at alpha: a VM that was given away does not start."""
    return world.nodes["alpha"].phase not in _GIVEN_AWAY


def simulate(plan: Plan, _base: Path) -> Outcome:
    """Run one schedule."""
    return CoreWorld(plan).live()
