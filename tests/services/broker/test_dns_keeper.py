"""DNS follows the ledger: whatever fails, comes late or is done twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select, update

from services.broker.dns import DnsChanged, DnsRefused, DnsUnavailable
from services.broker.dns_keeper import DnsKeeper
from services.broker.dns_records import DnsMark, DnsRecords
from services.broker.metrics import BrokerMetrics
from services.broker.service import BrokerService
from services.broker.tables import dns_names, epochs, vms
from shared.backoff import Backoff
from shared.messages.service_change import PortPhase
from shared.parties import BROKER
from shared.store import Store
from shared.testing import ManualClock, breathe
from tests.support.broker_samples import PORT, VM, plan
from tests.support.broker_world import World, settings
from tests.support.ported_vms import ADDRESSES, add_vm, port_vm

BACK, OTHER, OTHER_PORT = UUID(int=77), UUID("bbbb1111-0000-4000-8000-000000000002"), UUID(int=78)


class Zone:
    """A zone in memory, with prerequisites as a real server has them."""

    def __init__(self, zone: str = "vm.example", ttl_s: int = 10) -> None:
        self.zone, self.ttl_s = zone, ttl_s
        self.texts: dict[str, tuple[str, ...]] = {}
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.foreign: set[str] = set()
        """Labels with records of the operator's own."""
        self.errors: list[Exception] = []
        """Raised by the next writes."""
        self.answers_lost = 0
        """So many writes are done, and then seem to have failed."""
        self.before_write: Callable[[], Awaitable[None]] | None = None
        self.writes = 0

    async def write(self, label: str, expected: tuple[str, ...], records: DnsRecords | None) -> None:
        if self.before_write is not None:
            meanwhile, self.before_write = self.before_write, None
            await meanwhile()
        if self.errors:
            raise self.errors.pop(0)
        taken = label in self.foreign or label in self.addresses or label in self.texts
        if self.texts.get(label, ()) != expected or (not expected and taken):
            raise DnsChanged(label)
        self.writes += 1
        self.texts.pop(label, None)
        self.addresses.pop(label, None)
        if records is not None:
            self.texts[label] = (str(records.mark),)
            self.addresses[label] = records.addresses
        if self.answers_lost:
            self.answers_lost -= 1
            raise DnsUnavailable("the answer was lost")

    async def marks(self, label: str) -> tuple[str, ...]:
        return self.texts.get(label, ())


@pytest.fixture
def zone() -> Zone:
    return Zone()


@pytest.fixture
def metrics() -> BrokerMetrics:
    return BrokerMetrics(CollectorRegistry())


@pytest.fixture
def keeper(store: Store, zone: Zone, metrics: BrokerMetrics) -> DnsKeeper:
    return DnsKeeper(store, zone, metrics, poll_s=0.01, backoff=Backoff(min_s=0.001, max_s=0.002))


def mark(epoch: int, provider: str, vm_uuid: UUID = VM) -> tuple[str, ...]:
    return (str(DnsMark(vm_uuid, epoch, provider)),)


async def to_beta(store: Store) -> None:
    await port_vm(store, VM, epoch=2, to="beta", port_id=PORT, planned=plan("extend"))


async def back(store: Store) -> None:
    await port_vm(store, VM, epoch=3, to="alpha", port_id=BACK, planned=plan("extend"))


async def test_a_ported_vm_is_written(store: Store, zone: Zone, keeper: DnsKeeper) -> None:
    """Once for each epoch, and not before its first port."""
    assert await keeper.work()
    assert zone.writes == 0
    await to_beta(store)
    for _ in range(2):
        assert await keeper.work()
        assert (zone.texts, zone.addresses) == ({"web": mark(2, "beta")}, {"web": ADDRESSES})
    assert zone.writes == 1
    await back(store)
    assert await keeper.work()
    assert (zone.texts, zone.writes) == ({"web": mark(3, "alpha")}, 2)


async def test_a_server_that_is_away(store: Store, zone: Zone, keeper: DnsKeeper, metrics: BrokerMetrics) -> None:
    """An alarm and a metric; then all of it is written."""
    await to_beta(store)
    zone.errors = [DnsUnavailable("down"), DnsRefused("REFUSED")]
    assert not await keeper.work()
    assert metrics.dns_behind._value.get() == 1
    assert not await keeper.work()
    assert await keeper.work()
    found = {
        name: metrics.dns_updates_total.labels(name)._value.get() for name in ("written", "unavailable", "refused")
    }
    assert found == {"written": 1, "unavailable": 1, "refused": 1}
    assert metrics.dns_behind._value.get() == 0


async def test_how_long_it_is_behind(
    store: Store, zone: Zone, keeper: DnsKeeper, metrics: BrokerMetrics, clock: ManualClock
) -> None:
    """From the commit of the epoch on."""
    await to_beta(store)
    await clock.advance(90)
    zone.errors = [DnsUnavailable("down")]
    await keeper.work()
    assert metrics.dns_behind_seconds._value.get() == 90
    await keeper.work()
    assert metrics.dns_behind_seconds._value.get() == 0


async def test_it_goes_on_by_itself(store: Store, zone: Zone, keeper: DnsKeeper) -> None:
    """As a task, after failures and when it is woken."""
    zone.errors = [DnsUnavailable("down")] * 3
    running = asyncio.get_running_loop().create_task(keeper.run())
    await to_beta(store)
    keeper.wake()
    async with asyncio.timeout(10):
        while not zone.texts:
            await breathe()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert zone.texts == {"web": mark(2, "beta")}


async def test_a_lost_answer_does_no_harm(store: Store, zone: Zone, keeper: DnsKeeper) -> None:
    """What was written is found at the mark, also when the VM has moved on meanwhile."""
    await to_beta(store)
    zone.answers_lost = 1
    assert not await keeper.work()
    await back(store)
    zone.answers_lost = 1
    assert not await keeper.work()
    assert await keeper.work()
    assert zone.texts == {"web": mark(3, "alpha")}


async def test_an_older_epoch_never_replaces_a_newer_one(
    store: Store, zone: Zone, keeper: DnsKeeper, metrics: BrokerMetrics
) -> None:
    """A slow broker read epoch 2; a quick one has written epoch 3 before the slow one's update came."""
    await to_beta(store)
    quick = DnsKeeper(store, zone, metrics)

    async def meanwhile() -> None:
        await back(store)
        await quick.work()

    zone.before_write = meanwhile
    assert await keeper.work()
    assert (zone.texts, zone.addresses) == ({"web": mark(3, "alpha")}, {"web": ADDRESSES})
    async with store.reading() as connection:
        assert await connection.scalar(select(dns_names.c.epoch)) == 3


async def test_an_older_ledger_is_an_alarm(store: Store, zone: Zone, keeper: DnsKeeper) -> None:
    """A ledger from a backup does not turn DNS back."""
    await to_beta(store)
    zone.texts["web"] = mark(7, "gamma")
    assert not await keeper.work()
    assert zone.texts == {"web": mark(7, "gamma")}


async def test_two_brokers_at_once(store: Store, zone: Zone, keeper: DnsKeeper, metrics: BrokerMetrics) -> None:
    """Both end without an error, and the records are there once."""
    await to_beta(store)
    assert all(await asyncio.gather(keeper.work(), DnsKeeper(store, zone, metrics).work()))
    assert zone.texts == {"web": mark(2, "beta")}


async def test_a_label_of_the_operators_is_left_alone(store: Store, zone: Zone, keeper: DnsKeeper) -> None:
    """A tenant's VM may be named like the name server."""
    zone.foreign = {"web"}
    await to_beta(store)
    assert await keeper.work()
    assert zone.texts == {str(VM): mark(2, "beta")}


async def test_a_label_with_a_strangers_mark_is_left_alone(store: Store, zone: Zone, keeper: DnsKeeper) -> None:
    """Another VM of this name is there, by another broker."""
    zone.texts["web"] = mark(1, "delta", OTHER)
    await to_beta(store)
    assert await keeper.work()
    assert zone.texts == {"web": mark(1, "delta", OTHER), str(VM): mark(2, "beta")}


async def test_even_the_id_may_be_taken(store: Store, zone: Zone, keeper: DnsKeeper) -> None:
    """Then nothing is written, and it is an alarm."""
    zone.foreign = {"web", str(VM)}
    await to_beta(store)
    assert not await keeper.work()
    assert zone.texts == {}


async def test_two_vms_of_one_name(store: Store, zone: Zone, keeper: DnsKeeper) -> None:
    """The first has the name, the second its id."""
    await to_beta(store)
    await keeper.work()
    await add_vm(store, OTHER, "WEB")
    await port_vm(store, OTHER, epoch=2, to="beta", port_id=OTHER_PORT)
    assert await keeper.work()
    assert zone.texts == {"web": mark(2, "beta"), str(OTHER): mark(2, "beta", OTHER)}


async def test_a_zone_that_was_made_anew(store: Store, zone: Zone, keeper: DnsKeeper) -> None:
    """The next epoch finds nothing there, and is written."""
    await to_beta(store)
    await keeper.work()
    zone.texts, zone.addresses = {}, {}
    await back(store)
    assert await keeper.work()
    assert zone.texts == {"web": mark(3, "alpha")}


async def test_another_zone_or_ttl_is_written_again(store: Store, zone: Zone, metrics: BrokerMetrics) -> None:
    """Settings have changed."""
    await to_beta(store)
    other = Zone("vms.example")
    for each, writes in ((zone, 1), (other, 1), (other, 1)):
        assert await DnsKeeper(store, each, metrics).work()
        assert (each.texts, each.writes) == ({"web": mark(2, "beta")}, writes)
    other.ttl_s = 60
    assert await DnsKeeper(store, other, metrics).work()
    assert other.writes == 2


async def test_a_vm_that_is_gone_is_forgotten(store: Store, zone: Zone, keeper: DnsKeeper, clock: ManualClock) -> None:
    """After a day in which its provider has not reported it; a provider that is silent says nothing."""
    await to_beta(store)
    await keeper.work()
    await clock.advance(10 * 86_400)
    await keeper.work()
    assert zone.texts == {"web": mark(2, "beta")}
    async with store.transaction() as tx:
        await tx.execute(update(vms).values(missing_since=clock()))
    await clock.advance(86_400)
    await keeper.work()
    assert zone.texts == {"web": mark(2, "beta")}
    await clock.advance(1)
    for _ in range(2):
        assert await keeper.work()
        assert (zone.texts, zone.addresses, zone.writes) == ({}, {}, 2)
    async with store.transaction() as tx:
        await tx.execute(update(vms).values(missing_since=None))
    assert await keeper.work()
    assert zone.texts == {"web": mark(2, "beta")}


async def test_the_oldest_first(store: Store, zone: Zone, keeper: DnsKeeper) -> None:
    """One that cannot be written does not hold the others up."""
    await to_beta(store)
    await add_vm(store, OTHER, "shop")
    await port_vm(store, OTHER, epoch=2, to="beta", port_id=OTHER_PORT)
    async with store.transaction() as tx:
        older = update(epochs).where(epochs.c.vm_uuid == VM, epochs.c.epoch == 2)
        await tx.execute(older.values(committed_at=tx.now - timedelta(hours=1)))
    zone.errors = [DnsRefused("REFUSED")]
    assert not await keeper.work()
    assert zone.texts == {"shop": mark(2, "beta", OTHER)}


async def test_the_broker_wakes_it_with_each_commit(tmp_path: Path) -> None:
    """It looks by itself only every hour, and DNS follows the port at once."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    async with World(url, run=False) as world:
        metrics, zone = BrokerMetrics(CollectorRegistry()), Zone()
        names = DnsKeeper(world.store, zone, metrics, poll_s=3600)
        service = BrokerService(settings(url), world.store, world.broker.bus(BROKER), world.lanes, metrics, names=names)
        running = asyncio.get_running_loop().create_task(service.run())
        await world.ask_for_port()
        await world.until_phase(PortPhase.COMPLETED)
        async with asyncio.timeout(10):
            while not zone.texts:
                await breathe()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert zone.texts == {"web": mark(2, "beta")}
