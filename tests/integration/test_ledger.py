"""The ledger on both engines: migrations, its constraints, the registry, and two brokers on one database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from services.broker import ledger, queries, registry
from services.broker.ledger import LedgerConflict
from services.broker.metrics import BrokerMetrics
from services.broker.migrate import head_revision, migrate
from services.broker.port_steps import Stepper
from services.broker.rules import Facts, Limits
from services.broker.saga import CommitEpoch, Heard, SagaState, Timing, begin, step
from services.broker.tables import conflicts, epochs, metadata, ports, vms
from shared.messages import seal
from shared.messages.queries import ListPorts, ListProviders, ListVms, PortShown, ShowPort, VmsListed
from shared.messages.service_change import CancelPort, PortPhase, PortRequested
from shared.messages.vm import VmState
from shared.metrics import Metrics
from shared.parties import BROKER
from shared.store import Store, StoreUnusable
from shared.testing import ManualClock
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    PORT,
    VM,
    Conversation,
    capacity,
    inventory,
    progress,
    refusal,
    request,
)


@pytest.fixture
def clock() -> ManualClock:
    """Stands still."""
    return ManualClock()


@pytest.fixture
async def store(store_url: str, clock: ManualClock) -> AsyncIterator[Store]:
    """A migrated ledger that knows one VM of acme at alpha, and beta's capacity."""
    async with Store(store_url, BROKER, clock=clock) as opened:
        await migrate(opened)
        async with opened.transaction() as tx:
            await registry.take_inventory(tx, "alpha", inventory(clock(), VM))
            await registry.take_capacity(tx, "beta", capacity(clock()))
        yield opened


def new_state(port_id: UUID = PORT, *, dry_run: bool = False) -> SagaState:
    """A port that has just begun."""
    return begin(
        request(port_id=port_id, dry_run=dry_run),
        tenant_name="acme",
        vm_name="web",
        epoch=1,
        candidates=("beta",),
        now=Conversation.begin(request()).now,
        timing=Timing(),
    ).state


async def add(store: Store, state: SagaState) -> None:
    """A port in the ledger."""
    async with store.transaction() as tx:
        await ledger.add(tx, state)


async def load(store: Store, port_id: UUID = PORT) -> ledger.StoredPort:
    """A port out of the ledger."""
    async with store.reading() as connection:
        found = await ledger.look(connection, port_id)
    assert found is not None
    return found


async def claimants(store: Store) -> list[str]:
    """Who reports the VM without owning it."""
    async with store.reading() as connection:
        return [row.provider for row in await connection.execute(select(conflicts.c.provider))]


async def owners(store: Store) -> list[tuple[int, str]]:
    """The VM's ownership log."""
    async with store.reading() as connection:
        rows = await connection.execute(
            select(epochs.c.epoch, epochs.c.owner).where(epochs.c.vm_uuid == VM).order_by(epochs.c.epoch)
        )
        return [(row.epoch, row.owner) for row in rows]


class TestMigrations:
    """The schema."""

    async def test_makes_what_the_program_expects(self, store: Store) -> None:
        """After the migrations the database differs in nothing from the tables of the program."""

        def differences(connection: Connection) -> list[object]:
            return list(compare_metadata(MigrationContext.configure(connection), metadata))

        async with store.transaction() as tx:
            assert await tx.connection.run_sync(differences) == []

    async def test_twice_is_harmless(self, store: Store) -> None:
        """At every start the migrations run; there is nothing to do the second time."""
        assert await migrate(store) == head_revision()

    async def test_two_brokers_start_at_once(self, store_url: str) -> None:
        """Two processes that migrate the same empty database take turns."""
        async with Store(store_url, BROKER) as first, Store(store_url, BROKER) as second:
            assert set(await asyncio.gather(migrate(first), migrate(second))) == {head_revision()}

    async def test_later_schema_is_refused(self, store: Store) -> None:
        """A database that a later release made is not touched."""
        async with store.transaction() as tx:
            await tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(StoreUnusable, match="later"):
            await migrate(store)


class TestPorts:
    """Ports and their record."""

    async def test_saved_and_loaded(self, store: Store) -> None:
        """A port comes back as it was, with the columns that are searched for."""
        state = Conversation.begin(request()).completed().state
        await add(store, new_state())
        async with store.transaction() as tx:
            stored = await ledger.load(tx, PORT)
            assert stored is not None
            await ledger.save(tx, stored, state)
        found = await load(store)
        assert (found.state, found.version) == (state, 2)
        async with store.reading() as connection:
            row = (await connection.execute(select(ports))).one()
        assert (row.phase, row.active, row.recipient) == ("completed", False, "beta")

    async def test_one_port_per_vm(self, store: Store) -> None:
        """The database itself refuses a second port of a VM; a dry run, or one after the end, is allowed."""
        await add(store, new_state())
        with pytest.raises(IntegrityError):
            await add(store, new_state(uuid4()))
        await add(store, new_state(uuid4(), dry_run=True))
        async with store.transaction() as tx:
            stored = await ledger.load(tx, PORT)
            assert stored is not None
            cancelled = step(stored.state, Heard(ACME, CancelPort(port_id=PORT)), stored.requested_at, Timing())
            await ledger.save(tx, stored, cancelled.state)
        await add(store, new_state(uuid4()))

    async def test_stale_step_is_refused(self, store: Store) -> None:
        """A step that was decided on an older version changes nothing."""
        await add(store, new_state())
        stored = await load(store)
        async with store.transaction() as tx:
            await ledger.save(tx, stored, stored.state)
        with pytest.raises(LedgerConflict):
            async with store.transaction() as tx:
                await ledger.save(tx, stored, stored.state)

    async def test_progress_is_no_step(self, store: Store) -> None:
        """Progress changes neither the saga nor its version."""
        await add(store, new_state())
        async with store.transaction() as tx:
            await ledger.save_progress(tx, progress(40))
        found = await load(store)
        assert (found.version, found.percent, found.progress) == (1, 40, progress(40))

    async def test_record_in_order(self, store: Store) -> None:
        """Every event is a line with its time, its sender and the phase that it led to; of too many, the newest."""
        await add(store, new_state())
        async with store.transaction() as tx:
            for number in range(5):
                event = ledger.Event("donor.alpha", f"E{number}", PortPhase.QUOTING, "handled", "x" * 5000)
                await ledger.record(tx, PORT, event)
        async with store.reading() as connection:
            found = await ledger.events_of(connection, PORT, limit=3)
        assert [event.type for event in found] == ["E2", "E3", "E4"]
        assert (found[0].sender, found[0].phase, len(found[0].detail)) == ("donor.alpha", PortPhase.QUOTING, 4096)


class TestEpochs:
    """The ownership log."""

    async def test_commit(self, store: Store) -> None:
        """A commit adds an epoch and moves the VM, in one."""
        await add(store, new_state())
        async with store.transaction() as tx:
            await ledger.commit_epoch(tx, CommitEpoch(VM, 2, "beta", "beta-1"), PORT)
        assert await owners(store) == [(1, "alpha"), (2, "beta")]
        async with store.reading() as connection:
            row = (await connection.execute(select(vms))).one()
        assert (row.provider, row.node, row.epoch) == ("beta", "beta-1", 2)

    @pytest.mark.parametrize("epoch", [1, 3])
    async def test_only_the_next_epoch(self, store: Store, epoch: int) -> None:
        """An epoch that does not follow the newest is refused, and leaves nothing."""
        await add(store, new_state())
        with pytest.raises(LedgerConflict):
            async with store.transaction() as tx:
                await ledger.commit_epoch(tx, CommitEpoch(VM, epoch, "beta", "beta-1"), PORT)
        assert await owners(store) == [(1, "alpha")]

    async def test_one_owner_per_epoch(self, store: Store) -> None:
        """The database itself refuses a second owner of an epoch."""
        with pytest.raises(IntegrityError):
            async with store.transaction() as tx:
                await tx.execute(insert(epochs).values(vm_uuid=VM, epoch=1, owner="beta", committed_at=tx.now))


class TestRegistry:
    """Who serves this VM."""

    async def test_first_report_founds_the_ownership(self, store: Store) -> None:
        """A VM that nobody had reported belongs to the provider that reports it, from epoch 1 on."""
        assert await owners(store) == [(1, "alpha")]

    async def test_inventory_takes_nothing_over(self, store: Store, clock: ManualClock) -> None:
        """A provider that reports another's VM is flagged, changes nothing, and blocks ports until it stops."""
        await clock.advance(10)
        async with store.transaction() as tx:
            assert await registry.take_inventory(tx, "beta", inventory(clock(), VM, owner="globex")) == 1
        assert (await claimants(store), await owners(store)) == (["beta"], [(1, "alpha")])
        facts = await self._facts(store, clock())
        assert facts.claimed_by == "beta"
        assert facts.vm is not None
        assert (facts.vm.provider, facts.vm.tenant) == ("alpha", "acme")
        await clock.advance(10)
        async with store.transaction() as tx:
            assert await registry.take_inventory(tx, "beta", inventory(clock())) == 0
        assert await claimants(store) == []

    async def test_both_may_see_it_during_a_port(self, store: Store, clock: ManualClock) -> None:
        """While a port is under way its recipient may report the VM, too."""
        await add(store, Conversation.begin(request()).transferring().state)
        await clock.advance(10)
        async with store.transaction() as tx:
            assert await registry.take_inventory(tx, "beta", inventory(clock(), VM)) == 0

    async def test_report_from_before_the_switchover(self, store: Store, clock: ManualClock) -> None:
        """A report that was written before the VM left is no conflict; one after it is."""
        await add(store, Conversation.begin(request()).completed().state)
        written = clock() + timedelta(seconds=5)
        await clock.advance(10)
        async with store.transaction() as tx:
            await ledger.commit_epoch(tx, CommitEpoch(VM, 2, "beta", "beta-1"), PORT)
        async with store.transaction() as tx:
            assert await registry.take_inventory(tx, "alpha", inventory(written, VM)) == 0
        await clock.advance(10)
        async with store.transaction() as tx:
            assert await registry.take_inventory(tx, "alpha", inventory(clock(), VM)) == 1
        assert await owners(store) == [(1, "alpha"), (2, "beta")]

    async def test_overtaken_report_is_ignored(self, store: Store, clock: ManualClock) -> None:
        """Reports may overtake each other; the newest counts."""
        newest = clock() + timedelta(seconds=30)
        async with store.transaction() as tx:
            await registry.take_inventory(tx, "alpha", inventory(newest, VM, owner="acme"))
            await registry.take_inventory(tx, "alpha", inventory(newest - timedelta(seconds=5), VM, owner="globex"))
        facts = await self._facts(store, clock())
        assert facts.vm is not None
        assert facts.vm.tenant == "acme"

    async def test_missing_vm(self, store: Store, clock: ManualClock) -> None:
        """A VM that its provider no longer reports is shown so, and is itself again when it is reported."""
        await clock.advance(10)
        async with store.transaction() as tx:
            await registry.take_inventory(tx, "alpha", inventory(clock()))
        assert [vm.state for vm in (await self._vms(store)).vms] == [VmState.OTHER]
        await clock.advance(10)
        async with store.transaction() as tx:
            await registry.take_inventory(tx, "alpha", inventory(clock(), VM))
        assert [vm.state for vm in (await self._vms(store)).vms] == [VmState.RUNNING]

    async def test_arrived_after_the_report(self, store: Store, clock: ManualClock) -> None:
        """A VM that came by a port is not missing because an older report of its new provider does not list it."""
        await add(store, Conversation.begin(request()).completed().state)
        written = clock() + timedelta(seconds=5)
        await clock.advance(10)
        async with store.transaction() as tx:
            await ledger.commit_epoch(tx, CommitEpoch(VM, 2, "beta", "beta-1"), PORT)
            await registry.take_inventory(tx, "beta", inventory(written))
        assert [vm.state for vm in (await self._vms(store)).vms] == [VmState.RUNNING]

    async def test_large_inventory_is_quick(self, store: Store, clock: ManualClock) -> None:
        """A provider with a thousand VMs reports them without holding up the ports for long."""
        many = [VM, *(uuid4() for _ in range(1000))]
        for _ in range(2):
            await clock.advance(10)
            started_s = time.perf_counter()
            async with store.transaction() as tx:
                assert await registry.take_inventory(tx, "alpha", inventory(clock(), *many)) == 0
        assert time.perf_counter() - started_s < 1.0
        assert len((await self._vms(store)).vms) == 1001

    async def test_silent_providers(self, store: Store, clock: ManualClock) -> None:
        """Providers are known by their capacity reports; after a while without one they count as silent."""
        facts = await self._facts(store, clock())
        assert (facts.providers, facts.silent) == (frozenset({"beta"}), frozenset())
        facts = await self._facts(store, clock() + timedelta(minutes=3))
        assert facts.silent == frozenset({"beta"})

    async def test_clock_of_the_future(self, store: Store, clock: ManualClock) -> None:
        """A report from a clock that is days ahead does not silence the honest ones for days."""
        async with store.transaction() as tx:
            await registry.take_inventory(tx, "alpha", inventory(clock() + timedelta(days=3), VM))
        await clock.advance(600)
        async with store.transaction() as tx:
            await registry.take_inventory(tx, "alpha", inventory(clock(), VM, owner="globex"))
        facts = await self._facts(store, clock())
        assert facts.vm is not None
        assert facts.vm.tenant == "globex"

    @staticmethod
    async def _facts(store: Store, now: datetime) -> Facts:
        async with store.reading() as connection:
            return await registry.facts_for(connection, request(), "acme", now=now, silent_after=timedelta(minutes=2))

    @staticmethod
    async def _vms(store: Store) -> VmsListed:
        async with store.reading() as connection:
            answer = await queries.answer(connection, ListVms(), "acme")
        assert isinstance(answer, VmsListed)
        return answer


class TestQueries:
    """A tenant's questions."""

    async def test_own_only(self, store: Store) -> None:
        """Another tenant sees neither VMs nor ports, and cannot tell a foreign port from none."""
        await add(store, new_state())
        async with store.reading() as connection:
            mine = [await queries.answer(connection, asked, "acme") for asked in (ListVms(), ListPorts())]
            theirs = [await queries.answer(connection, asked, "globex") for asked in (ListVms(), ListPorts())]
            foreign = await queries.answer(connection, ShowPort(port_id=PORT), "globex")
            none = await queries.answer(connection, ShowPort(port_id=VM), "globex")
        assert [len(getattr(answer, name)) for answer, name in zip(mine, ("vms", "ports"), strict=True)] == [1, 1]
        assert [len(getattr(answer, name)) for answer, name in zip(theirs, ("vms", "ports"), strict=True)] == [0, 0]
        assert foreign is not None
        assert none is not None
        assert foreign.model_dump_json().replace(str(PORT), "") == none.model_dump_json().replace(str(VM), "")

    async def test_vm_under_way(self, store: Store) -> None:
        """A VM that is being ported names its port."""
        await add(store, new_state())
        assert [vm.port_id for vm in (await TestRegistry._vms(store)).vms] == [PORT]

    async def test_port_shown(self, store: Store) -> None:
        """A port's record has request, agreement, progress, SLA and events."""
        await add(store, new_state())
        state = Conversation.begin(request()).completed().state
        async with store.transaction() as tx:
            stored = await ledger.load(tx, PORT)
            assert stored is not None
            await ledger.save(tx, stored, state)
            await ledger.save_progress(tx, progress(99))
            await ledger.record(tx, PORT, ledger.Event("broker", "X", PortPhase.COMPLETED, "handled"))
        async with store.reading() as connection:
            shown = await queries.answer(connection, ShowPort(port_id=PORT), "acme")
            assert await queries.answer(connection, CancelPort(port_id=PORT), "acme") is None
        assert isinstance(shown, PortShown)
        assert (shown.summary.phase, shown.summary.percent) == (PortPhase.COMPLETED, 100)
        assert (shown.agreement, shown.sla) == (state.agreement, state.sla)
        assert [event.type for event in shown.events] == ["X"]

    async def test_newest_first_and_active_only(self, store: Store, clock: ManualClock) -> None:
        """Ports are listed newest first; ended ones can be left out."""
        await add(store, Conversation.begin(request()).completed().state)
        later = new_state(uuid4()).with_(requested_at=clock() + timedelta(hours=1))
        await add(store, later)
        async with store.reading() as connection:
            everything = await queries.answer(connection, ListPorts(), "acme")
            active = await queries.answer(connection, ListPorts(active_only=True), "acme")
        assert [port.port_id for port in getattr(everything, "ports")] == [later.port_id, PORT]  # noqa: B009  # untyped union
        assert [port.port_id for port in getattr(active, "ports")] == [later.port_id]  # noqa: B009  # as above

    async def test_providers(self, store: Store, clock: ManualClock) -> None:
        """All providers, with their newest report's time."""
        async with store.reading() as connection:
            answer = await queries.answer(connection, ListProviders(), "acme")
        found = [(each.name, each.nodes, each.last_seen) for each in getattr(answer, "providers")]  # noqa: B009  # as above
        assert found == [("alpha", 0, clock()), ("beta", 1, clock())]


class TestTwoBrokers:
    """Two processes on one database."""

    async def test_steps_of_one_port_follow_each_other(self, store: Store, store_url: str, clock: ManualClock) -> None:
        """Both brokers take a step of the same port at once: each sees what the other did, and both are kept."""
        stepper = Stepper(
            Timing(), Limits(), BrokerMetrics(Metrics(service="t", version="0").registry), wake_lanes=lambda: None
        )
        await add(store, new_state())
        seen: list[int] = []

        async def take(own: Store, number: int) -> None:
            message = seal(CancelPort(port_id=PORT, reason=str(number)), source=ACME, message_id=uuid4(), now=clock())
            async with own.transaction() as tx:
                assert await tx.first_time(message)
                stored = await ledger.load(tx, PORT)
                assert stored is not None
                seen.append(stored.version)
                await asyncio.sleep(0.05)
                await stepper.step(tx, stored, Heard(ACME, CancelPort(port_id=PORT)), message)

        async with Store(store_url, BROKER, clock=clock) as other:
            await asyncio.gather(take(store, 1), take(other, 2))
        assert sorted(seen) == [1, 2]
        assert (await load(store)).state.phase is PortPhase.CANCELLED

    async def test_same_message_twice(self, store: Store, store_url: str, clock: ManualClock) -> None:
        """A message that both brokers get has one effect."""
        arrived = seal(CancelPort(port_id=PORT), source=ACME, message_id=uuid4(), now=clock())

        async def take(own: Store) -> bool:
            async with own.transaction() as tx:
                first = await tx.first_time(arrived)
                await asyncio.sleep(0.05)
                return first

        async with Store(store_url, BROKER, clock=clock) as other:
            assert sorted(await asyncio.gather(take(store), take(other))) == [False, True]

    async def test_commit_once(self, store: Store, store_url: str, clock: ManualClock) -> None:
        """Of two brokers that would commit the same epoch, one does."""
        await add(store, new_state())

        async def commit(own: Store, owner: str) -> str:
            try:
                async with own.transaction() as tx:
                    await ledger.commit_epoch(tx, CommitEpoch(VM, 2, owner, f"{owner}-1"), PORT)
                    await asyncio.sleep(0.05)
            except LedgerConflict:
                return "refused"
            return "committed"

        async with Store(store_url, BROKER, clock=clock) as other:
            results = await asyncio.gather(commit(store, "beta"), commit(other, "gamma"))
        assert sorted(results) == ["committed", "refused"]
        assert len(await owners(store)) == 2


async def test_refused_request_is_recorded(store: Store) -> None:
    """A refused port is in the ledger, with its reasons, and blocks nothing."""
    talk = Conversation.begin(PortRequested.model_validate(request().model_dump()))
    state = talk.state.with_(phase=PortPhase.REFUSED, refusals=(refusal(),), deadline=None)
    await add(store, state)
    async with store.transaction() as tx:
        await tx.execute(update(ports).values(updated_at=tx.now))
    async with store.reading() as connection:
        shown = await queries.answer(connection, ShowPort(port_id=PORT), "acme")
        assert await ledger.port_under_way(connection, VM) is None
    assert isinstance(shown, PortShown)
    assert shown.failure is not None
    assert shown.failure.startswith("no_capacity")
    assert ALPHA.owner == state.request.donor
