"""The `services` tier: broker, agents and node agents with their real shells, in one program on virtual time.

One port of one VM from alpha to beta, under a plan of faults. Everything that a process does goes through a port of
the simulation and is a step; faults strike at steps, and the invariants are checked after each.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import structlog

from services.broker import ledger
from services.node_agent.hypervisor.fake_host import FakeVm
from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.testing import FakeHypervisor
from shared.bus import BusDown, Undeliverable
from shared.messages import AnyEnvelope, Message, seal
from shared.messages.porting import (
    DisconnectVm,
    InboundFinished,
    OpenInbound,
    OutboundStarted,
    ProvisionVm,
    RequestSwitchover,
)
from shared.messages.service_change import (
    CancelPort,
    PortAccepted,
    PortCancelled,
    PortCompleted,
    PortFailed,
    PortLimits,
    PortRefused,
    PortRequested,
)
from shared.messages.vm import VmState
from shared.parties import BROKER, Party
from shared.testing_lanes import MemoryLaneAdmin
from tests.simulation import parties
from tests.simulation.check import Checker
from tests.simulation.faults import STAGES, Fault, Plan, Stage
from tests.simulation.network import SimBroker, SimRoutes, Weather
from tests.simulation.parties import ACME, ALPHA, ALPHA_NODE, BETA, BETA_NODE, EVERYBODY, in_world
from tests.simulation.process import CURRENT, Process
from tests.simulation.report import Line, Outcome
from tests.simulation.virtual_time import SimDatetime, Stuck, run

VM: Final = UUID("11111111-2222-3333-4444-555555555501")
PORT: Final = UUID("12345678-0000-4000-8000-000000000001")
DOMAIN: Final = f"""<domain type='qemu'>
  <name>web</name><uuid>{VM}</uuid><memory unit='KiB'>262144</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
  <cpu mode='custom'><model>qemu64</model></cpu>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/>
      <target dev='vda' bus='virtio'/></disk>
    <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='vmbr0'/>
      <model type='virtio'/></interface>
  </devices>
</domain>"""
MEMORY_BYTES: Final = 256 * 1024
PACE_S: Final = 1.5
ENDS_WITHIN_S: Final = 1.0
"""How long a restarted libvirtd shows a copy that it ends as "shutting down"."""
TIDY_S: Final = 30.0
"""How long after its end a transfer may still wait for the last bytes of its connections, and have its sockets."""
SHORT_S: Final = 2400.0
"""How long a port that does not end is waited for; each question is repeated every minute at the latest."""
LONG_S: Final = 7200.0
"""The same, in a long run."""
_settle_s = [SHORT_S]
PARTY_OF: Final = {"broker": BROKER, "donor": ALPHA, "recipient": BETA, "alpha": ALPHA_NODE, "beta": BETA_NODE}
NAME_OF: Final = {party: name for name, party in PARTY_OF.items()} | {ACME: "tenant"}
ENDS: Final = (PortCompleted, PortFailed, PortCancelled, PortRefused)
_UNSEEN: Final = frozenset({"NodeHeartbeat", "PortProgressed", "InventoryReported", "CapacityReported"})

_FILE_KEY = re.compile(r"[0-9a-f]{32}\b")
"""In names of files: made of where the world's folder happens to be, which no two runs share."""


class World:
    """One schedule of the services tier."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self.plan = plan
        self.port_id = PORT
        self.folder = folder
        self.outcome = Outcome(plan)
        self.stage = Stage.REQUEST
        self.ended: Message | None = None
        self.accepted = False
        self.owner = "alpha"
        self.epoch = 1
        self.commit: tuple[str, int] | None = None
        """An epoch that the broker writes in a transaction that is not committed yet."""
        self.may_be_off = False
        """A fault has ended the guest, or paused it: nobody promises that it runs."""
        chance = random.Random(f"weather {plan.seed}")  # noqa: S311  # a schedule, no secret
        weather = Weather(chance, delay_s=plan.delay_s, lose=plan.lose, doubt=plan.doubt, double=plan.double)
        self.net = SimBroker(*EVERYBODY, weather=weather, tap=self._tap, acked=self._acked)
        self.routes = SimRoutes()
        self.lanes = MemoryLaneAdmin()
        self.check = Checker(self)
        self.hosts = {ALPHA_NODE: self._host("alpha"), BETA_NODE: self._host("beta")}
        parties.know_boots(self.hosts)
        self.processes: dict[str, Process] = {}
        self._starts: dict[str, Callable[[Process], Coroutine[Any, Any, None]]] = {
            "broker": lambda process: parties.run_broker(self, process),
            "donor": lambda process: parties.run_donor(self, process),
            "recipient": lambda process: parties.run_recipient(self, process),
            "alpha": lambda process: parties.run_node(self, process, ALPHA_NODE),
            "beta": lambda process: parties.run_node(self, process, BETA_NODE),
        }
        self._steps_in_stage: dict[str, int] = {}
        self._pending = [fault for fault in plan.faults if fault.kind != "skew"]
        self._going = 0
        self._over_s: float | None = None
        self.outcome.cells |= {fault.cell for fault in plan.faults if fault.kind == "skew"}
        self._skew = {fault.party: fault.for_s for fault in plan.faults if fault.kind == "skew"}
        self.sent: dict[str, AnyEnvelope] = {}
        """By id, what is to have an effect at a party with a store."""

    def skew_s(self, party: Party) -> float:
        """By how much this party's clock is wrong."""
        return self._skew.get(NAME_OF.get(party, ""), 0.0)

    def host(self, name: str) -> FakeHypervisor:
        """A host by its provider."""
        return self.hosts[PARTY_OF[name]]

    def _host(self, name: str) -> FakeHypervisor:
        host = FakeHypervisor()
        host.pace_s = PACE_S
        host.ends_within_s = ENDS_WITHIN_S
        for part in ("images", "base-images"):
            (self.folder / name / part).mkdir(parents=True)
        host.may_start = lambda uuid: self.fence(name, uuid)
        host.released = lambda uuid, reason: parties.note_end(self.folder / name / "state", uuid, reason)
        host.observer = lambda uuid: self.check.vcpus(name, host.vms.get(uuid))
        return host

    def fence(self, name: str, uuid: UUID) -> str | None:
        """What the host's libvirt hook says to a start of the VM: the reason against it, or None."""
        return parties.hook(self.folder / name / "state", uuid)

    def now_s(self) -> float:
        """Seconds since the start."""
        return self._loop.time() - 1000.0

    def say(self, source: str, text: str, to: str = "") -> None:
        """Something for the chart."""
        self.outcome.lines.append(Line(self.now_s(), source, to, text))

    # ---- steps ----

    def _observe(self, process: Process, kind: str, detail: str) -> None:
        self.outcome.steps += 1
        step = _FILE_KEY.sub("", detail)
        self.outcome.digest = hash((self.outcome.digest, process.name, kind, step)) & 0xFFFFFFFFFFFF
        self._steps_in_stage[process.name] = self._steps_in_stage.get(process.name, 0) + 1
        self._steps_in_stage["*"] = self._steps_in_stage.get("*", 0) + 1
        if kind == "committed" and self.commit is not None and process.name == "broker":
            owner, epoch = self.commit
            self.commit = None
            self.committed(owner, epoch)
        self.check.copies()
        if self._pending:
            self._strike()

    def _tap(self, source: Party, to: Party, envelope: AnyEnvelope) -> None:
        message = envelope.data
        kind = type(message).__name__
        if kind not in _UNSEEN:
            self.sent[str(envelope.id)] = envelope
            self.say(NAME_OF.get(source, str(source)), kind, NAME_OF.get(to, str(to)))
        match message:
            case OpenInbound():
                self.advance(Stage.PREPARE)
            case OutboundStarted():
                self.advance(Stage.MEMORY)
            case RequestSwitchover():
                self.advance(Stage.ASKED)
            case InboundFinished():
                self.advance(Stage.ARRIVED)
            case DisconnectVm() | ProvisionVm():
                self.advance(Stage.FINISHING)

    def _acked(self, party: Party, message_id: str) -> None:
        self.check.acknowledged(party, message_id)

    def advance(self, stage: Stage) -> None:
        """The port has come so far."""
        if STAGES.index(stage) > STAGES.index(self.stage):
            self.stage = stage
            self._steps_in_stage.clear()

    def committed(self, owner: str, epoch: int) -> None:
        """The ledger has a new owner."""
        self.owner, self.epoch = owner, epoch
        self.say("broker", f"epoch {epoch}: {owner}")
        self.advance(Stage.COMMITTED)
        self.check.copies()

    # ---- faults ----

    def _strike(self) -> None:
        for fault in list(self._pending):
            if self._due(fault):
                self._pending.remove(fault)
                # What befalls a process is none of its own steps.
                whose = CURRENT.set(None)
                try:
                    self._befall(fault)
                finally:
                    CURRENT.reset(whose)

    def _due(self, fault: Fault) -> bool:
        here, wanted = STAGES.index(self.stage), STAGES.index(fault.stage)
        if here != wanted:
            return here > wanted
        # A process can also die while it has nothing to do: at once means at anybody's step.
        counted = fault.party if fault.kind == "crash" and fault.after else "*"
        return self._steps_in_stage.get(counted, 0) > fault.after

    def _befall(self, fault: Fault) -> None:
        self.outcome.cells.add((str(self.stage), fault.kind, fault.party))
        self.say(
            fault.party if fault.party in self._starts else "broker", f"{fault.kind} {fault.party} {fault.for_s} s"
        )
        self._going += 1
        begin = {
            "crash": lambda: self._crash(fault.party),
            "partition": lambda: self.net.cut(PARTY_OF[fault.party]),
            "bus": lambda: self.net.cut(*EVERYBODY),
            "lanes": self.routes.cut,
            "disk_full": lambda: self._fill(fault.party, full=True),
            "libvirtd": lambda: self.host(fault.party).kill_libvirtd(),
            "qemu": lambda: self._end_guest(fault.party),
            "reboot": lambda: self._reboot(fault.party),
            "power_off": self._power_off,
            "suspend": lambda: self._operator(fault.party, "suspend"),
            "start": lambda: self._operator(fault.party, "start"),
            "destroy": lambda: self._end_guest(fault.party),
            "cancel": _nothing,
        }[fault.kind]
        begin()
        in_world(self._undo(fault))

    async def _undo(self, fault: Fault) -> None:
        try:
            await self._undo_in_time(fault)
        except Exception as error:  # noqa: BLE001  # a defect of the simulation must not pass as a finding
            self.check.violate("simulation broke", f"{type(error).__name__}: {error}")

    async def _undo_in_time(self, fault: Fault) -> None:
        if fault.kind == "cancel":
            await self._tell_broker(CancelPort(port_id=PORT))
            self._going -= 1
            return
        await asyncio.sleep(fault.for_s)
        match fault.kind:
            case "crash":
                self.start(fault.party)
            case "partition":
                self.net.mend(PARTY_OF[fault.party])
            case "bus":
                self.net.mend(*EVERYBODY)
            case "lanes":
                self.routes.mend()
            case "disk_full":
                self._fill(fault.party, full=False)
            case "libvirtd":
                self.host(fault.party).start_libvirtd()
            case "reboot":
                self.host(fault.party).boot()
                await asyncio.sleep(1.0)
                self.start(fault.party)
        self._going -= 1

    def _crash(self, name: str) -> None:
        if name == "broker":
            self.commit = None
        self.processes[name].crash()

    def start(self, name: str) -> None:
        """A process starts from its disk."""
        known = self.processes.get(name)
        if known is not None and known.alive:
            return
        process = Process(name, observe=self._observe, skew_s=self._skew.get(name, 0.0))
        process.disk_full = known is not None and known.disk_full
        self.processes[name] = process
        process.spawn(self._life(process))

    async def _life(self, process: Process) -> None:
        try:
            await self._starts[process.name](process)
        except Exception as error:  # noqa: BLE001  # a service manager starts whatever ended
            if process.alive:
                self.say(process.name, f"ended: {type(error).__name__}: {error}"[:200])
                process.crash()
                in_world(self._start_again(process.name))

    async def _start_again(self, name: str) -> None:
        await asyncio.sleep(2.0)
        self.start(name)

    def _fill(self, name: str, *, full: bool) -> None:
        self.processes[name].disk_full = full

    def _guest(self, name: str) -> FakeVm | None:
        vm = self.host(name).vms.get(VM)
        return vm if vm is not None and vm.state is not VmState.SHUT_OFF else None

    def _end_guest(self, name: str) -> None:
        if self._guest(name) is not None:
            self.may_be_off = True
            self.host(name).stop(VM)

    def _power_off(self) -> None:
        for name in ("alpha", "beta"):
            vm = self._guest(name)
            if vm is not None and vm.runs:
                self.may_be_off = True
                self.host(name).stop(VM)

    def _reboot(self, name: str) -> None:
        self._crash(name)
        if self._guest(name) is not None or (name == "beta" and self.check.is_arriving()):
            self.may_be_off = True  # also where nobody will ever know whether it had been started
        self.host(name).power_cut()
        shutil.rmtree(self.folder / name / "run", ignore_errors=True)

    def _operator(self, name: str, act: str) -> None:
        with contextlib.suppress(HypervisorError):
            if act == "start":
                self.host(name).power_on(VM)
            elif self._guest(name) is not None:
                self.may_be_off = True
                self.host(name).suspend(VM)

    # ---- the tenant ----

    async def _tell_broker(self, message: Message) -> None:
        envelope = seal(message, source=ACME, message_id=UUID(int=random.getrandbits(128)), now=SimDatetime.now())
        while True:
            try:
                await self._tenant_bus.publish(BROKER, envelope)
            except (BusDown, Undeliverable):
                await asyncio.sleep(1.0)
            else:
                return

    async def _hear(self, envelope: AnyEnvelope) -> None:
        message = envelope.data
        if isinstance(message, PortAccepted):
            self.accepted = True
        elif isinstance(message, ENDS):
            self.ended = message
            self.outcome.ended = type(message).__name__

    async def _ask(self) -> None:
        request = PortRequested(
            port_id=PORT, vm_uuid=VM, donor="alpha", recipient="beta", limits=PortLimits(max_downtime_ms=10_000)
        )
        while not self.accepted and self.ended is None:
            await self._tell_broker(request)
            await asyncio.sleep(10.0)

    async def _guest_works(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.check.writes()

    # ---- a schedule ----

    async def live(self) -> Outcome:
        """Run the schedule to its end."""
        image = self.folder / "alpha" / "images" / "web.raw"
        image.write_bytes(bytes(4096))
        (self.folder / "policy.toml").write_text(parties.POLICY)
        alpha, beta = self.host("alpha"), self.host("beta")
        alpha.moved = (str(self.folder / "alpha" / "run"), str(self.folder / "beta" / "run"))
        beta.moved = (alpha.moved[1], alpha.moved[0])
        alpha.add(DOMAIN % image, memory=b"page" * (MEMORY_BYTES // 4), disk=b"block", autostart=self.plan.autostart)
        alpha.guest_writes(VM)
        tenant = Process("tenant", observe=lambda *_: None)
        self._tenant_bus = self.net.bus_of(ACME, tenant)
        async with contextlib.AsyncExitStack() as stack:
            for party, host in self.hosts.items():
                await stack.enter_async_context(host.serve(self.folder / party.owner / "libvirt-sock"))
            helpers = [in_world(self._tenant_bus.consume(self._hear)), in_world(self._guest_works())]
            try:
                pending, self._pending = self._pending, []
                for name in self._starts:
                    self.start(name)
                await self._know_each_other()
                self._pending = pending
                self._steps_in_stage.clear()
                helpers.append(in_world(self._ask()))
                await self._settle()
                self.check.at_rest()
            finally:
                for process in self.processes.values():
                    process.crash()
                for helper in helpers:
                    helper.cancel()
        return self.outcome

    async def _know_each_other(self) -> None:
        for _ in range(120):
            await asyncio.sleep(0.5)
            if self.check.registry_is_full():
                return

    def _is_late(self, now_s: float) -> bool:
        self._over_s = self._over_s if self._over_s is not None else now_s
        return now_s - self._over_s > TIDY_S

    async def _settle(self) -> None:
        loop = asyncio.get_running_loop()
        until_s, wait_s, rests = loop.time() + _settle_s[0], 1.0, 0
        while loop.time() < until_s and not self.outcome.violations:
            await asyncio.sleep(wait_s)
            self.check.waiting()
            rests = rests + 1 if self._going == 0 and self.check.is_over() else 0
            if rests >= 3 and (not self.check.has_sockets() or self._is_late(loop.time())):
                return
            wait_s = min(20.0, wait_s * 1.05)


def _nothing() -> None:
    """A tenant's act does not begin with a fault of the world."""


def be_patient() -> None:
    """From now on a port that does not end is waited for as long as in a long run."""
    _settle_s[0] = LONG_S


def simulate(plan: Plan, base: Path) -> Outcome:
    """Run one schedule."""
    folder = base / "w"  # always the same: databases are known by their paths
    folder.mkdir()
    structlog.contextvars.clear_contextvars()
    world: list[World] = []

    async def main() -> Outcome:
        world.append(World(plan, folder))
        _CURRENT_WORLD[0] = world[0]
        return await world[0].live()

    try:
        outcome: Outcome = run(main, plan.seed)
    except Stuck as stuck:
        outcome = world[0].outcome
        world[0].check.violate("stuck", str(stuck))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


_CURRENT_WORLD: list[World | None] = [None]


def current_world() -> World:
    """The world that lives now."""
    world = _CURRENT_WORLD[0]
    assert world is not None, "a schedule runs"
    return world


_commit_epoch = ledger.commit_epoch


async def _commit_and_tell(tx: Any, effect: Any, port_id: UUID) -> None:
    await _commit_epoch(tx, effect, port_id)
    world = _CURRENT_WORLD[0]
    if world is not None:
        world.commit = (effect.owner, effect.epoch)


ledger.commit_epoch = _commit_and_tell  # type: ignore[assignment]  # the same arguments
parties.poll_seldom()
parties.show_no_figures()
parties.reuse_engines()
parties.remember_descriptions()
parties.keep_memory()
