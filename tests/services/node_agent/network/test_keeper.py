"""Moments of a port as a host's network sees them: what is made, undone, remembered and told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.keeper import NetworkKeeper
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.netlink import NetlinkError
from services.node_agent.network.parties import NetworkFailed
from services.node_agent.network.steps import (
    Address,
    Bridge,
    Neighbour,
    NftTable,
    ProxyNeighbour,
    Queue,
    Route,
    Step,
)
from shared.messages.addresses import NetworkState
from shared.messages.network import NetworkMode, NetworkPlan
from shared.messages.porting import ServiceChangeAgreement, Side
from shared.tasks import Tasks
from tests.services.node_agent.network.plans import BRIDGE, GUEST_MAC, PORT, agreement, plan

LATER = UUID("22345678-9abc-def0-1234-56789abcdef0")


class Kernel(StepMaker):
    """What is made; a step whose text is in `broken` cannot be made or undone."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Step] = []
        self.broken: set[str] = set()
        self.packets = 0
        self.translated = 0

    async def make(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if str(step) in self.broken:
                raise NetlinkError(f"cannot make {step}")
            if isinstance(step, NftTable):
                self.made = [each for each in self.made if str(each) != str(step)]
            if step not in self.made:
                self.made.append(step)

    async def undo(self, steps: Iterable[Step]) -> tuple[str, ...]:
        left = []
        for step in reversed(tuple(steps)):
            if str(step) in self.broken and step in self.made:
                left.append(str(step))
            elif isinstance(step, Bridge):  # whatever its MAC is meanwhile
                self.made = [each for each in self.made if str(each) != str(step)]
            elif step in self.made:
                self.made.remove(step)
        return tuple(left)

    async def taps(self, bridge: str) -> tuple[str, ...]:
        return ("vmx123456789a0", "vnet5") if bridge == BRIDGE else ()

    async def packets_routed(self, tables: Iterable[str]) -> int:
        assert list(tables)
        return self.packets

    async def packets_translated(self, tables: Iterable[NftTable]) -> int:
        assert [table for table in tables if table.family in {"ip", "ip6"}]
        return self.translated


class Wires:
    """The extensions that are open."""

    def __init__(self) -> None:
        self.open_now: set[UUID] = set()
        self.activated: set[UUID] = set()
        self.idle: float | None = 0.0
        self.error: OSError | None = None
        self.kernel: Kernel | None = None
        self.made_before: list[int] = []
        """How much was made in the kernel when each was opened."""

    async def open(
        self,
        agreement: ServiceChangeAgreement,
        side: Side,  # noqa: ARG002  # Extensions
        *,
        activated: bool,
    ) -> None:
        if self.error is not None:
            raise self.error
        self.made_before.append(len(self.kernel.made) if self.kernel is not None else 0)
        self.open_now.add(agreement.port_id)
        if activated:
            self.activated.add(agreement.port_id)

    def deactivate(self, port_id: UUID) -> None:
        self.activated.discard(port_id)

    def activate(self, port_id: UUID) -> None:
        self.activated.add(port_id)

    async def close(self, port_id: UUID) -> None:
        self.open_now.discard(port_id)

    def idle_s(self, port_id: UUID) -> float | None:
        return self.idle if port_id in self.open_now else None


class World:
    """A keeper with all around it."""

    def __init__(self, folder: Path) -> None:
        self.journal = NetworkJournal(folder)
        self.kernel = Kernel()
        self.wires = Wires()
        self.wires.kernel = self.kernel
        self.told: list[tuple[NetworkState, str]] = []
        self.said: list[str] = []
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.keeper = self.new_process()

    def new_process(self) -> NetworkKeeper:
        """Another keeper over the same files and kernel."""
        return NetworkKeeper(
            self.journal,
            self.kernel,
            extensions=self.wires,
            report=self.report,
            voices=self,
            look_every_s=0.01,
            idle_s=0.03,
            unseen_s=0.05,
            retry_every_s=0.02,
            withdraw_after_s=60,
            now=lambda: self.now,
        )

    def metrics(self) -> set[tuple[int, int]]:
        """Table and metric of each route."""
        return {(step.table, step.metric) for step in self.kernel.made if isinstance(step, Route)}

    def follow(self, record: NetworkRecord) -> None:
        assert all(step in self.kernel.made for step in record.wanted)
        self.said.append("follow")

    def cease(self, record: NetworkRecord) -> None:
        assert self.kernel.broken or all(step in self.kernel.made for step in record.wanted)
        self.said.append("cease")

    def report(self, agreement: ServiceChangeAgreement, state: NetworkState, detail: str = "") -> None:  # noqa: ARG002
        self.told.append((state, detail))

    @property
    def states(self) -> list[NetworkState]:
        return [state for state, _ in self.told]

    def kinds(self) -> set[type[Step]]:
        return {type(step) for step in self.kernel.made}

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not what():  # noqa: ASYNC110  # what is waited for is a plain value of a fake
                await asyncio.sleep(0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "network")


async def test_nothing_is_done_for_joined_networks(world: World) -> None:
    for network in (None, plan(NetworkMode.JOINED)):
        await world.keeper.prepare(Side.INBOUND, agreement(network), {})
    assert (world.kernel.made, world.told, world.journal.all()) == ([], [], ((), ()))


async def test_a_recipient_prepares_and_undoes(world: World) -> None:
    await world.keeper.prepare(Side.INBOUND, agreement(plan()), {})

    assert Bridge in world.kinds()
    assert NftTable in world.kinds()
    assert world.wires.open_now == {PORT}
    assert world.states == [NetworkState.PREPARED]
    assert await world.keeper.undo(PORT, Side.INBOUND) == ()
    assert world.said == ["follow", "cease"]
    assert (world.kernel.made, world.wires.open_now, world.journal.all()[0]) == ([], set(), ())


async def test_what_cannot_be_prepared_leaves_nothing(world: World) -> None:
    world.wires.error = OSError("no tap device")
    with pytest.raises(NetworkFailed, match="no tap device"):
        await world.keeper.prepare(Side.INBOUND, agreement(plan()), {})
    assert (world.kernel.made, world.journal.all()[0]) == ([], ())


async def test_steps_are_stored_before_they_are_made(world: World) -> None:
    world.kernel.broken = {f"bridge {BRIDGE}"}
    stored: list[int] = []
    make = world.kernel.make

    async def make_and_look(steps: Iterable[Step]) -> None:
        stored.append(len(world.journal.all()[0][0].steps))
        await make(steps)

    world.kernel.make = make_and_look  # type: ignore[method-assign]  # a look from inside
    with pytest.raises(NetworkFailed):
        await world.keeper.prepare(Side.INBOUND, agreement(plan()), {})
    assert stored[0] > 0


async def test_an_announced_vm_gets_its_gateway_here_and_is_told_when_packets_come(world: World) -> None:
    await world.keeper.prepare(Side.INBOUND, agreement(plan(announce=True)), {})
    assert not world.kinds() & {Address, Route}
    world.keeper.guest_has_arrived(agreement(None))
    await world.until(lambda: NetworkState.CARRYING in world.states)
    assert {Address, Route} <= world.kinds()

    async with Tasks("test") as tasks:
        tasks.spawn(world.keeper.run(), name="keeper")
        world.kernel.packets = 3
        await world.until(lambda: NetworkState.ANNOUNCED in world.states)
        assert world.wires.open_now == {PORT}
        world.wires.idle = 60.0
        await world.until(lambda: NetworkState.CLOSED in world.states)
    assert world.wires.open_now == set()
    assert {Address, Route} <= world.kinds()


async def test_a_recipient_that_nobody_routes_to_is_named(world: World) -> None:
    await world.keeper.prepare(Side.INBOUND, agreement(plan(announce=True)), {})
    world.keeper.guest_has_arrived(agreement(None))
    async with Tasks("test") as tasks:
        tasks.spawn(world.keeper.run(), name="keeper")
        await world.until(lambda: NetworkState.FAILED in world.states)
    assert "no packet has come" in world.told[-1][1]
    assert world.keeper.problems() == ()
    assert world.wires.open_now == {PORT}


@pytest.mark.parametrize("side", list(Side))
async def test_nobody_speaks_for_the_guest_before_its_time(world: World, side: Side) -> None:
    """The extension opens at the donor when the guest stands still, at the recipient when it has arrived at the
    latest; a new process knows it.
    """
    await world.keeper.prepare(side, agreement(plan()), {})
    assert world.wires.activated == set()
    if side is Side.OUTBOUND:
        world.keeper.guest_stands_still(PORT)
    else:
        world.keeper.guest_has_arrived(agreement(None))
    assert world.wires.activated == {PORT}
    known = ("paused", "there")[side is Side.INBOUND]
    await world.until(lambda: bool(getattr(world.journal.get(PORT, side), known)))
    world.wires.activated.clear()
    await world.new_process().restore()
    assert world.wires.activated == {PORT}


async def test_the_donor_clones_from_the_pause_and_answers_when_the_extension_is_gone(world: World) -> None:
    await world.keeper.prepare(Side.OUTBOUND, agreement(plan(announce=True)), {GUEST_MAC: "vnet3"})
    assert world.kernel.made == []
    world.keeper.guest_stands_still(PORT)
    await world.until(lambda: world.kinds() == {NftTable})
    world.keeper.guest_is_away(agreement(None))
    await world.until(lambda: world.kinds() == {Neighbour})
    await world.keeper.close_extension(PORT)
    assert world.kinds() == {ProxyNeighbour}


async def test_packets_come_here_again_when_the_guest_runs_on(world: World) -> None:
    """Translated from the pause on, as the recipient lets them wait; a failed switchover takes that back."""
    await world.keeper.prepare(Side.OUTBOUND, agreement(plan(NetworkMode.TRANSLATE)), {GUEST_MAC: "vnet3"})
    for _ in range(2):
        world.keeper.guest_stands_still(PORT)
        await world.until(lambda: world.kinds() == {NftTable})
        world.keeper.guest_runs_on(PORT)
        await world.until(lambda: world.kernel.made == [])


async def test_nothing_is_written_between_the_pause_and_the_rules(world: World) -> None:
    """A disk may take longer than the rest of a switchover: what it makes is in the journal before. A process that dies
    before it has written that they are made leaves nothing behind.
    """
    await world.keeper.prepare(Side.OUTBOUND, agreement(plan(NetworkMode.TRANSLATE)), {GUEST_MAC: "vnet3"})
    (prepared,) = world.journal.all()[0]
    assert {type(step) for step in prepared.ahead} == {NftTable}
    store, written = world.journal.store, list[str]()

    def count(record: NetworkRecord) -> None:
        written.append(f"after {len(world.kernel.made)} tables")
        store(record)

    world.journal.store = count  # type: ignore[method-assign]  # a look from inside
    world.keeper.guest_stands_still(PORT)
    await world.until(lambda: any(record.paused for record in world.journal.all()[0]))
    assert set(written) == {f"after {len(prepared.ahead)} tables"}

    store(prepared)
    await world.new_process().restore()
    assert world.kernel.made == []
    await world.kernel.make(prepared.ahead)
    assert await world.new_process().undo(PORT, Side.OUTBOUND) == ()
    assert world.kernel.made == []


async def test_little_waits_for_a_guest_that_is_expected(world: World) -> None:
    """At the guest's own device, until it has arrived; what comes too late, or for another port, changes nothing."""
    world.keeper.guest_is_expected(PORT)
    await world.keeper.prepare(Side.INBOUND, agreement(plan()), {})
    before = list(world.kernel.made)
    world.keeper.guest_is_expected(PORT)
    await world.until(lambda: Queue in world.kinds())
    assert [step.device for step in world.kernel.made if isinstance(step, Queue)] == ["vnet5"]

    world.keeper.guest_has_arrived(agreement(None))
    await world.until(lambda: NetworkState.CARRYING in world.states)
    world.keeper.guest_is_expected(PORT)
    await asyncio.sleep(0.05)
    assert world.kernel.made == before


async def test_nobody_speaks_for_a_guest_that_runs_on(world: World) -> None:
    await world.keeper.prepare(Side.OUTBOUND, agreement(plan()), {})
    world.keeper.guest_stands_still(PORT)
    world.keeper.guest_runs_on(PORT)
    assert world.wires.activated == set()


async def test_a_new_process_has_everything_again(world: World) -> None:
    await world.keeper.prepare(Side.INBOUND, agreement(plan()), {})
    made = list(world.kernel.made)
    world.kernel.made.clear()
    world.wires.open_now.clear()

    assert await world.new_process().restore() == ()

    assert (world.kernel.made, world.wires.open_now) == (made, {PORT})


async def test_a_damaged_record_is_set_aside_and_named(world: World) -> None:
    await world.keeper.prepare(Side.INBOUND, agreement(plan()), {})
    file = next(world.journal.directory.iterdir())
    file.write_text("{}", encoding="ascii")
    assert await world.new_process().restore() == (f"{file.stem}.damaged",)


def later(network: NetworkPlan | None = None) -> ServiceChangeAgreement:
    """The next port of the same VM."""
    first = agreement(network)
    return first.model_copy(update={"port_id": LATER, "epoch": first.epoch + 1})


@pytest.mark.parametrize("side", [Side.INBOUND, Side.OUTBOUND])
async def test_what_an_earlier_port_made_goes_when_the_vm_goes_back(world: World, side: Side) -> None:
    """At both sides, by a port that needs nothing itself; the same port's news leaves it."""
    await world.keeper.prepare(side, agreement(plan(NetworkMode.TRANSLATE)), {})
    (world.keeper.guest_has_arrived if side is Side.INBOUND else world.keeper.guest_is_away)(agreement(None))
    await world.until(lambda: NetworkState.CARRYING in world.states)
    assert world.kernel.made

    (world.keeper.guest_is_away if side is Side.INBOUND else world.keeper.guest_has_arrived)(later())

    await world.until(lambda: world.journal.all()[0] == ())
    assert world.kernel.made == []


async def test_a_bridge_stays_while_the_next_extension_begins_at_it(world: World) -> None:
    await world.keeper.prepare(Side.INBOUND, agreement(plan()), {})
    await world.keeper.prepare(Side.OUTBOUND, later(plan()), {})
    world.keeper.guest_is_away(later())
    await world.until(lambda: NetworkState.CARRYING in world.states)
    assert Bridge in world.kinds()

    await world.new_process().close_extension(LATER)

    assert (world.kernel.made, world.journal.all()[0]) == ([], ())


@pytest.mark.parametrize("mode", [NetworkMode.EXTEND, NetworkMode.TRANSLATE])
async def test_routes_are_marked_before_they_are_withdrawn(world: World, mode: NetworkMode) -> None:
    """The VM is ported on, and announced by the next one: this host's daemon says that it goes, until its help has
    ended and some time is over; by the clock, also where the agent was restarted meanwhile.
    """
    await world.keeper.prepare(Side.INBOUND, agreement(plan(announce=True)), {})
    world.keeper.guest_has_arrived(agreement(None))
    await world.until(lambda: world.metrics() == {(7070, 17), (254, 17)})
    await world.keeper.prepare(Side.OUTBOUND, later(plan(mode, announce=True)), {})
    assert world.metrics() == {(7070, 17), (254, 17)}

    world.keeper.guest_is_away(later())

    await world.until(lambda: world.metrics() == {(7070, 18), (254, 18)})
    async with Tasks("test") as tasks:
        keeper = world.new_process()
        await keeper.restore()
        tasks.spawn(keeper.run(), name="keeper")
        world.now += timedelta(hours=1)
        await asyncio.sleep(0.05)
        assert world.metrics() == {(7070, 18), (254, 18)}
        await keeper.close_extension(LATER)
        await asyncio.sleep(0.05)
        assert world.metrics() == {(7070, 18)}
        assert Bridge in world.kinds()
        world.now += timedelta(seconds=60)
        await world.until(lambda: Bridge not in world.kinds())
    assert world.metrics() == set()


async def test_a_vm_that_is_not_announced_elsewhere_is_announced_on(world: World) -> None:
    """Its packets come here, and go on by the extension."""
    await world.keeper.prepare(Side.INBOUND, agreement(plan(announce=True)), {})
    world.keeper.guest_has_arrived(agreement(None))
    await world.until(lambda: NetworkState.CARRYING in world.states)
    await world.keeper.prepare(Side.OUTBOUND, later(plan(NetworkMode.TRANSLATE)), {})
    world.keeper.guest_is_away(later())
    await world.until(lambda: world.states.count(NetworkState.CARRYING) == 2)
    assert world.metrics() == {(7070, 17), (254, 17)}
    await world.keeper.close_extension(LATER)
    assert world.metrics() == set()


async def test_a_vm_that_comes_again_has_no_other_routes(world: World) -> None:
    """Though those of its former stay here were going still."""
    await world.keeper.prepare(Side.INBOUND, agreement(plan(announce=True)), {})
    world.keeper.guest_has_arrived(agreement(None))
    await world.keeper.prepare(Side.OUTBOUND, later(plan(announce=True)), {})
    world.keeper.guest_is_away(later())
    await world.until(lambda: (7070, 18) in world.metrics())
    again = agreement(plan(announce=True)).model_copy(update={"port_id": UUID(int=3), "epoch": later().epoch + 1})
    await world.keeper.prepare(Side.INBOUND, again, {})
    world.keeper.guest_has_arrived(again)
    await world.until(lambda: len(world.keeper.records()) == 1)
    assert world.metrics() == {(7070, 17), (254, 17)}
    assert {(record.port_id, record.side) for record in world.keeper.records()} == {(UUID(int=3), Side.INBOUND)}


async def test_a_translation_that_nobody_uses_ends_once_the_address_is_announced(world: World) -> None:
    await world.keeper.prepare(Side.INBOUND, agreement(plan(NetworkMode.TRANSLATE, announce=True)), {})
    world.keeper.guest_has_arrived(agreement(None))
    world.kernel.packets = 1
    async with Tasks("test") as tasks:
        tasks.spawn(world.keeper.run(), name="keeper")
        for count in range(8):
            world.kernel.translated = count
            await asyncio.sleep(0.01)
        assert NetworkState.CLOSED not in world.states
        await world.until(lambda: NetworkState.CLOSED in world.states)
    assert not [step for step in world.kernel.made if isinstance(step, NftTable) and step.family == "ip"]


@pytest.mark.parametrize("side", list(Side))
async def test_what_the_kernel_or_the_disk_refuses_is_tried_again(world: World, side: Side) -> None:
    """It is told once, and once again when it is done."""
    await world.keeper.prepare(side, agreement(plan(NetworkMode.TRANSLATE, announce=True)), {})
    told = world.keeper.guest_has_arrived if side is Side.INBOUND else world.keeper.guest_is_away
    refused = "route to 10.81.1.10/32 over vmp123456789a0 in table 7070", "answers for 10.81.1.10 on vmbr0"
    world.kernel.broken = set(refused)
    told(agreement(None))
    await world.until(lambda: NetworkState.FAILED in world.states)
    assert world.keeper.problems()
    async with Tasks("test") as tasks:
        tasks.spawn(world.keeper.run(), name="keeper")
        await asyncio.sleep(0.05)
        assert world.states.count(NetworkState.FAILED) == 1
        world.kernel.broken = set()
        await world.until(lambda: NetworkState.CARRYING in world.states)
    assert {str(step) for step in world.kernel.made} & set(refused)
    assert world.keeper.problems() == ()


@pytest.mark.parametrize("side", list(Side))
async def test_what_a_full_disk_did_not_take_is_told_again_by_this_process(world: World, side: Side) -> None:
    """A move, with what it takes back of earlier ports; a donor that undoes the port meanwhile undoes nothing."""
    other = Side.INBOUND if side is Side.OUTBOUND else Side.OUTBOUND
    await world.keeper.prepare(other, agreement(plan(NetworkMode.ANCHOR)), {})
    await world.keeper.prepare(side, later(plan(NetworkMode.ANCHOR)), {})
    store = world.journal.store

    def full(_: NetworkRecord) -> None:
        raise OSError(28, "No space left on device")

    world.journal.store = full  # type: ignore[assignment,method-assign]  # the disk
    (world.keeper.guest_has_arrived if side is Side.INBOUND else world.keeper.guest_is_away)(later())
    if side is Side.OUTBOUND:
        assert await world.keeper.undo(LATER, side) == ()
    async with Tasks("test") as tasks:
        tasks.spawn(world.keeper.run(), name="keeper")
        await asyncio.sleep(0.05)
        assert not world.keeper.is_settled
        assert NetworkState.CARRYING not in world.states
        world.journal.store = store  # type: ignore[method-assign]  # there is space again
        await world.until(lambda: world.keeper.is_settled and NetworkState.CARRYING in world.states)
        await world.until(lambda: world.journal.get(PORT, other) is None)
    assert world.journal.get(LATER, side) is not None


async def test_a_pause_that_a_full_disk_did_not_take_is_taken_back(world: World) -> None:
    """The rules are made before anything is written."""
    await world.keeper.prepare(Side.OUTBOUND, agreement(plan(NetworkMode.TRANSLATE)), {GUEST_MAC: "vnet3"})
    store = world.journal.store

    def full(_: NetworkRecord) -> None:
        raise OSError(28, "No space left on device")

    world.journal.store = full  # type: ignore[assignment,method-assign]  # the disk
    world.keeper.guest_stands_still(PORT)
    await world.until(lambda: world.kinds() == {NftTable} and not world.keeper.is_settled)
    world.keeper.guest_runs_on(PORT)
    await world.until(lambda: world.kernel.made == [])
    world.journal.store = store  # type: ignore[method-assign]  # there is space again
    async with Tasks("test") as tasks:
        tasks.spawn(world.keeper.run(), name="keeper")
        await world.until(lambda: world.keeper.is_settled)
    assert (world.kernel.made, world.keeper.problems()) == ([], ())


async def test_what_could_not_be_undone_is_undone_later(world: World) -> None:
    """By this process or the next one, which makes nothing of it again."""
    await world.keeper.prepare(Side.INBOUND, agreement(plan()), {})
    world.kernel.broken = {f"bridge {BRIDGE}"}
    assert await world.keeper.undo(PORT, Side.INBOUND)
    (only,) = world.kernel.made
    world.wires.open_now.clear()
    await world.new_process().restore()
    assert (world.kernel.made, world.wires.open_now) == ([only], set())
    world.keeper.guest_has_arrived(agreement(None))
    world.kernel.broken = set()
    async with Tasks("test") as tasks:
        tasks.spawn(world.keeper.run(), name="keeper")
        await world.until(lambda: world.kernel.made == [])
    assert world.journal.readable() == ()


async def test_a_translation_ends_with_the_donors_help(world: World) -> None:
    await world.keeper.prepare(Side.OUTBOUND, agreement(plan(NetworkMode.TRANSLATE)), {})
    world.keeper.guest_is_away(agreement(None))
    await world.until(lambda: ProxyNeighbour in world.kinds())

    await world.keeper.close_extension(PORT)

    assert world.kernel.made == []
    assert world.journal.all()[0] == ()
    assert world.states[-1] is NetworkState.CLOSED


async def test_what_remains_is_told(world: World) -> None:
    await world.keeper.prepare(Side.INBOUND, agreement(plan()), {})
    world.kernel.broken = {f"bridge {BRIDGE}"}
    assert await world.keeper.undo(PORT, Side.INBOUND) == (f"bridge {BRIDGE}",)
    assert "not removed" in world.keeper.problems()[0]
    assert len(world.journal.all()[0]) == 1
    world.kernel.broken.clear()
    async with Tasks("test") as tasks:
        tasks.spawn(world.keeper.run(), name="keeper")
        await world.until(lambda: world.journal.all()[0] == ())
    assert (world.kernel.made, world.keeper.problems()) == ([], ())


async def test_a_new_process_removes_what_remained_and_makes_none_of_it_again(world: World) -> None:
    """The port has failed; what could not be removed is no reason to have the rest again."""
    await world.keeper.prepare(Side.INBOUND, agreement(plan()), {})
    world.kernel.broken = {f"bridge {BRIDGE}"}
    await world.keeper.undo(PORT, Side.INBOUND)
    world.kernel.broken.clear()

    await world.new_process().restore()

    assert (world.kernel.made, world.wires.open_now, world.journal.all()[0]) == ([], set(), ())


@pytest.mark.parametrize("side", list(Side))
async def test_a_move_is_stored_before_the_call_returns(world: World, side: Side) -> None:
    """The transfer may store its own end next, and tell it to nobody again; so with what earlier ports have made."""
    other = Side.INBOUND if side is Side.OUTBOUND else Side.OUTBOUND
    await world.keeper.prepare(other, agreement(plan(NetworkMode.TRANSLATE)), {})
    await world.keeper.prepare(side, later(plan(NetworkMode.TRANSLATE)), {})

    (world.keeper.guest_has_arrived if side is Side.INBOUND else world.keeper.guest_is_away)(later())

    now, before = world.journal.get(LATER, side), world.journal.get(PORT, other)
    assert now is not None
    assert now.there
    assert before is not None
    assert before.retired
    keeper = world.new_process()
    await keeper.restore()
    if side is Side.OUTBOUND:  # what leads to the VM is needed until its help has ended
        assert world.journal.get(PORT, other) is not None
        await keeper.close_extension(LATER)
    assert world.journal.get(PORT, other) is None


@pytest.mark.parametrize("mode", [NetworkMode.EXTEND, NetworkMode.TRANSLATE])
async def test_a_donor_whose_vm_has_left_helps_on_whatever_its_transfer_says(world: World, mode: NetworkMode) -> None:
    """After a restart of the agent its transfer is told as failed, although the ledger gave the VM away."""
    await world.keeper.prepare(Side.OUTBOUND, agreement(plan(mode)), {})
    world.keeper.guest_is_away(agreement(None))
    await world.until(lambda: NetworkState.CARRYING in world.states)
    made, is_open = {str(step) for step in world.kernel.made}, set(world.wires.open_now)

    keeper = world.new_process()
    await keeper.restore()
    keeper.guest_is_away(agreement(None))
    assert await keeper.undo(PORT, Side.OUTBOUND) == ()

    assert ({str(step) for step in world.kernel.made}, world.wires.open_now) == (made, is_open)
    assert world.journal.get(PORT, Side.OUTBOUND) is not None


@pytest.mark.parametrize("is_full", [False, True])
async def test_an_arrived_vm_that_was_given_back_leaves_nothing(world: World, *, is_full: bool) -> None:
    """It ran here while its memory came, and the rest of its memory never came. Also where the disk was full."""
    await world.keeper.prepare(Side.INBOUND, agreement(plan(NetworkMode.TRANSLATE)), {})
    store = world.journal.store

    def full(_: NetworkRecord) -> None:
        raise OSError(28, "No space left on device")

    if is_full:
        world.journal.store = full  # type: ignore[assignment,method-assign]  # the disk
    world.keeper.guest_has_arrived(agreement(None))
    world.journal.store = store  # type: ignore[method-assign]  # there is space again
    assert await world.keeper.undo(PORT, Side.INBOUND) == ()
    async with Tasks("test") as tasks:
        tasks.spawn(world.keeper.run(), name="keeper")
        await asyncio.sleep(0.05)
    assert (world.kernel.made, world.journal.readable(), world.keeper.is_settled) == ([], (), True)


async def test_an_extension_comes_back_before_frames_are_cloned_into_it(world: World) -> None:
    """The device of the donor's end died with its process: a rule that names it cannot be made before it is there. And
    it comes back where the guest's own device is gone, so that the rule cannot be made at all.
    """
    await world.keeper.prepare(Side.OUTBOUND, agreement(plan()), {GUEST_MAC: "vnet3"})
    world.keeper.guest_stands_still(PORT)
    await world.until(lambda: world.kinds() == {NftTable})
    # That it is made is written after it: a process that died before would find a guest that runs on.
    await world.until(lambda: any(record.paused for record in world.journal.readable()))
    (clone,) = world.kernel.made
    world.kernel.made.clear()
    world.kernel.broken = {str(clone)}
    world.wires.open_now.clear()
    world.wires.made_before.clear()

    keeper = world.new_process()
    await keeper.restore()

    assert (world.wires.open_now, world.wires.made_before) == ({PORT}, [0])
    assert "not restored" in keeper.problems()[0]


async def test_what_could_not_be_restored_is_tried_again(world: World) -> None:
    """A bridge of the provider's may come up after the agent."""
    await world.keeper.prepare(Side.INBOUND, agreement(plan()), {})
    world.wires.open_now.clear()
    world.wires.error = OSError("no such bridge")
    keeper = world.new_process()
    await keeper.restore()
    assert world.wires.open_now == set()
    world.wires.error = None
    async with Tasks("test") as tasks:
        tasks.spawn(keeper.run(), name="keeper")
        await world.until(lambda: world.wires.open_now == {PORT})
    assert keeper.problems() == ()


async def test_a_closed_extension_is_told_until_it_was_told(world: World) -> None:
    """Each process that dies before it has said so leaves that to the next; once said, it is enough."""
    await world.keeper.prepare(Side.INBOUND, agreement(plan()), {})
    record = world.journal.get(PORT, Side.INBOUND)
    assert record is not None
    world.journal.store(record.model_copy(update={"there": True, "extension": False, "closed": True}))
    for _ in range(2):
        await world.new_process().restore()
    assert world.states.count(NetworkState.CLOSED) == 1


async def test_what_remains_of_a_closed_extension_is_named(world: World) -> None:
    """And asked again, it is tried again."""
    await world.keeper.prepare(Side.OUTBOUND, agreement(plan(NetworkMode.TRANSLATE)), {})
    world.keeper.guest_is_away(agreement(None))
    await world.until(lambda: NetworkState.CARRYING in world.states)
    world.kernel.broken = {str(step) for step in world.kernel.made if isinstance(step, NftTable)}
    assert set(await world.keeper.close_extension(PORT)) == world.kernel.broken
    world.kernel.broken.clear()
    assert await world.keeper.close_extension(PORT) == ()
    assert (world.kernel.made, world.journal.all()[0]) == ([], ())
