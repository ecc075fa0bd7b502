"""The core tier's networks: the product's keeper and moments of a port over a kernel and a disk in memory.

Their coroutines never wait for anything here, so they run as plain calls; what the product starts beside a port is an
event of the world, and a process may die before it. The guest is one of several modes, by the schedule's seed.

What must hold: nobody announces the VM before the ledger says that it is his; and at the end exactly one side carries
its address, the owner, and both kernels have what the records say, no more and no less.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from services.node_agent.network import keeper
from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.keeper import NetworkKeeper
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.parties import NetworkFailed
from services.node_agent.network.port_moments import PortMoments
from services.node_agent.network.steps import ROUTES_TABLE, NftTable, Route, Setting, Step
from services.node_agent.network.succession import is_going
from services.node_agent.state.journal import Phase
from shared.messages.network import NetworkMode, NetworkPlan
from shared.messages.porting import ServiceChangeAgreement, Side
from tests.services.node_agent.network.plans import GUEST_MAC, plan
from tests.simulation.core_ids import PORT

if TYPE_CHECKING:
    from tests.simulation.core_nodes import CoreNode
    from tests.simulation.core_world import CoreWorld

T = TypeVar("T")

LOOK_EVERY_S = 5.0
_MODES = (
    (NetworkMode.EXTEND, False),
    (NetworkMode.EXTEND, True),
    (NetworkMode.TRANSLATE, False),
    (NetworkMode.TRANSLATE, True),
    (NetworkMode.ANCHOR, False),
)
JOINED_SHARE = 0.3
"""Of the schedules: the providers' networks are one, and nothing is done."""


def network_of(seed: int) -> NetworkPlan | None:
    """How the VM of a seed's schedule keeps its addresses."""
    chance = random.Random(f"network {seed}")  # noqa: S311  # a schedule, no secret
    if chance.random() < JOINED_SHARE:
        return None
    return _plan(*chance.choice(_MODES))


@cache
def _plan(mode: NetworkMode, announce: bool) -> NetworkPlan:  # noqa: FBT001  # a cache's key
    return plan(mode, announce=announce)


def run(work: Coroutine[Any, Any, T]) -> T:
    """What it returns, without an event loop: nothing of it waits."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise AssertionError("a step of the network waited for something")


class _Disk(NetworkJournal):
    """Records as a new process finds them."""

    def __init__(self, node: CoreNode) -> None:
        super().__init__(Path())
        self._node = node
        self.records: dict[Side, NetworkRecord] = {}

    def store(self, record: NetworkRecord) -> None:
        """With a moment before it, and one after."""
        self._node.world.step(self._node.name, "network store")
        if self._node.disk_full:
            raise OSError(28, "No space left on device")
        self.records[record.side] = record
        self._node.world.step(self._node.name, "network stored")

    def get(self, port_id: UUID, side: Side) -> NetworkRecord | None:  # noqa: ARG002  # there is one port
        """One side's."""
        return self.records.get(side)

    def remove(self, port_id: UUID, side: Side) -> None:  # noqa: ARG002  # there is one port
        """A full disk removes."""
        self._node.world.step(self._node.name, "network forget")
        self.records.pop(side, None)

    def all(self) -> tuple[tuple[NetworkRecord, ...], tuple[str, ...]]:
        """None is damaged."""
        return self.readable(), ()

    def readable(self) -> tuple[NetworkRecord, ...]:
        """All."""
        return tuple(self.records.values())


class _Kernel(StepMaker):
    """What is made, by name; a process that dies has made some of it."""

    def __init__(self, node: CoreNode) -> None:
        super().__init__()
        self._node = node
        self.made: dict[str, Step] = {}

    async def make(self, steps: Iterable[Step]) -> None:
        """In order."""
        for number, step in enumerate(steps):
            if number % 8 == 0:
                self._node.world.step(self._node.name, "network make")
            if not isinstance(step, Setting):
                self.made[_name(step)] = step
            self._node.world.networks_changed()

    async def undo(self, steps: Iterable[Step]) -> tuple[str, ...]:
        """The last first."""
        for number, step in enumerate(reversed(tuple(steps))):
            if number % 8 == 0:
                self._node.world.step(self._node.name, "network undo")
            self.made.pop(_name(step), None)
        return ()

    async def packets_routed(self, tables: Iterable[str]) -> int:  # noqa: ARG002  # of any
        """The provider's daemon works."""
        return 1

    async def packets_translated(self, tables: Iterable[NftTable]) -> int:  # noqa: ARG002  # of any
        """The donor's help is not used, and its end is not this port's matter."""
        return 0


def _name(step: Step) -> str:
    return f"{step} {step.metric}" if isinstance(step, Route) else str(step)


class _Wires:
    """The extension's devices, which end with the process."""

    def __init__(self) -> None:
        self.open_now = False

    async def open(self, agreement: ServiceChangeAgreement, side: Side, *, activated: bool) -> None:  # noqa: ARG002
        """There is one port."""
        self.open_now = True

    def activate(self, port_id: UUID) -> None:
        """Its gates are the extension's own matter."""

    def deactivate(self, port_id: UUID) -> None:
        """So here."""

    async def close(self, port_id: UUID) -> None:  # noqa: ARG002
        """There is one port."""
        self.open_now = False

    def idle_s(self, port_id: UUID) -> float | None:  # noqa: ARG002
        """The donor's help goes on for longer than the port."""
        return 0.0


class _Later:
    """As `shared.tasks.Tasks`: what is begun beside the port runs a moment later, if the process lives."""

    def __init__(self, network: CoreNetwork) -> None:
        self._network = network

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> None:  # noqa: ARG002  # Tasks
        """Begin it."""
        self._network.waiting += 1
        self._network.spawned.append(work)
        self._network.node.later(0.0, lambda: self._do(work))

    def _do(self, work: Coroutine[Any, Any, Any]) -> None:
        self._network.waiting -= 1
        self._network.spawned.remove(work)
        run(work)


class _Silent:
    """Sends no frames."""

    def announce(self, *_: object) -> None:
        """To nobody."""


class _NoConnections:
    """Tracks none."""

    def keep(self, port_id: UUID) -> None:
        """Nothing to do."""

    async def undo(self, port_id: UUID) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing to do."""
        return ()


class CoreNetwork:
    """One node's network. `disk` and `kernel` outlive its processes, the kernel no reboot."""

    def __init__(self, node: CoreNode, agreed: NetworkPlan | None) -> None:
        self.node = node
        self.agreed = agreed
        self.agreement: ServiceChangeAgreement | None = None
        self.disk = _Disk(node)
        self.kernel = _Kernel(node)
        self.waiting = 0
        self.spawned: list[Coroutine[Any, Any, Any]] = []
        self.boots = node.host.boots
        self._begin()

    def _begin(self) -> None:
        """A process."""
        for work in self.spawned:
            work.close()
        self.spawned.clear()
        self.waiting = 0
        self.wires = _Wires()
        tasks: Any = _Later(self)
        self.keeper = NetworkKeeper(
            self.disk,
            self.kernel,
            extensions=self.wires,
            report=lambda *_: None,
            retry_every_s=keeper.LOOK_EVERY_S,
            write=_at_once,
        )
        self.keeper._tasks = tasks
        silent: Any = _Silent()
        taken: Any = _NoConnections()
        self.moments = PortMoments(self.keeper, taken, report=lambda *_: None, announcer=silent, look=_find_nothing)
        self.moments._tasks = tasks
        if self.agreed is not None:
            self.node.later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        self.node.later(LOOK_EVERY_S, self._look)
        if self.disk.records:
            run(self.keeper.look())

    # ---- what the node tells it

    def start(self) -> None:
        """A new process, perhaps of a host that was restarted."""
        if self.boots != self.node.host.boots:
            self.boots = self.node.host.boots
            self.kernel.made.clear()
        self._begin()
        run(self.keeper.restore())
        self.moments.restored()

    def recover(self, phase: Phase | None) -> None:
        """The transfer that a former process has left in this phase."""
        if self.agreement is None or phase is None:
            return
        if phase in {Phase.DONE, Phase.QUARANTINED, Phase.FAILED}:
            self.moments.ended(self.node.side, self.agreement, moved=phase is not Phase.FAILED)
        else:
            self.moments.resumed(self.node.side, self.agreement)

    def prepare(self, agreement: ServiceChangeAgreement) -> bool:
        """Before the memory moves; whether all is ready."""
        if self.agreed is None:
            return True
        self.agreement = agreement.model_copy(update={"network": self.agreed})
        taps: Mapping[str, str] = {GUEST_MAC: "vnet3"} if self.node.side is Side.OUTBOUND else {}
        try:
            run(self.moments.prepare(self.node.side, self.agreement, taps))
        except NetworkFailed:
            return False
        return True

    def stands_still(self) -> None:
        """The guest is paused at the donor."""
        if self.agreement is not None:
            self.moments.guest_stands_still(PORT)

    def runs_on(self) -> None:
        """It runs at the donor again."""
        if self.agreement is not None:
            self.moments.guest_runs_on(PORT)

    def is_away(self) -> None:
        """It is the recipient's."""
        if self.agreement is not None:
            self.moments.guest_is_away(self.agreement)

    def has_arrived(self) -> None:
        """It runs at the recipient."""
        if self.agreement is not None:
            self.moments.guest_has_arrived(self.agreement)

    def undo(self) -> None:
        """It stays at the donor."""
        if self.agreement is not None:
            run(self.moments.undo(PORT, self.node.side))

    # ---- what an observer sees

    @property
    def announces(self) -> bool:
        """Whether a routing daemon would tell the world that the VM is here."""
        return any(isinstance(step, Route) and step.table == ROUTES_TABLE for step in self.kernel.made.values())

    @property
    def carries(self) -> bool:
        """Whether what comes for the VM is given to a guest here."""
        record = self.disk.records.get(self.node.side)
        if self.node.side is Side.INBOUND:
            return record is not None and record.there and not is_going(record)
        return record is None or not (record.there or record.paused)

    @property
    def busy(self) -> bool:
        """Whether something is still to be done."""
        undone = any(record.undone for record in self.disk.records.values())
        return bool(self.waiting or undone or not self.keeper.is_settled)

    def differs(self) -> str:
        """What the kernel has too much or too little of, by the records."""
        wanted: set[str] = set()
        for record in self.disk.records.values():
            wanted |= {_name(step) for step in record.wanted if not isinstance(step, Setting)}
        missing, left = wanted - self.kernel.made.keys(), self.kernel.made.keys() - wanted
        found = [f"missing {each}" for each in sorted(missing)] + [f"left {each}" for each in sorted(left)]
        return ", ".join(found)


async def _at_once(work: Callable[[], object]) -> object:
    return work()


async def _find_nothing(agreed: NetworkPlan, side: Side) -> tuple[str, ...]:  # noqa: ARG001  # Look
    return ()


def announced_early(world: CoreWorld) -> bool:
    """Whether the recipient announces a VM that was never committed to it."""
    network: CoreNetwork = world.nodes["beta"].network
    return network.announces and world.epoch == 1


def violations_at_rest(world: CoreWorld) -> Iterable[tuple[str, str]]:
    """Rule and detail of each."""
    networks: dict[str, CoreNetwork] = {name: node.network for name, node in world.nodes.items()}
    if networks["alpha"].agreed is None:
        return
    carrying = sorted(name for name, network in networks.items() if network.carries)
    if carrying != [world.owner]:
        yield "address", f"the VM is {world.owner}'s; its address is carried by {' and '.join(carrying) or 'nobody'}"
    for name, network in networks.items():
        if differs := network.differs():
            yield "network left over", f"{name}: {differs}"
        if world.owner == "alpha" and (network.disk.records or network.kernel.made or network.wires.open_now):
            yield "network left over", f"{name} has {list(network.kernel.made)}, records {len(network.disk.records)}"
    if world.owner == "beta" and networks["beta"].agreed is not None:
        announced = networks["beta"].agreed.terms.then_announce
        if networks["beta"].announces != announced:
            yield "address", f"beta announces: {networks['beta'].announces}, agreed {announced}"
