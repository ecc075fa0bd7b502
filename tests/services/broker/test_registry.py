"""The registry: who serves which VM."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from uuid import uuid4

from services.broker import ledger, registry
from services.broker.rules import Facts
from services.broker.saga import CommitEpoch
from shared.messages.vm import VmState
from shared.store import Store
from shared.testing import ManualClock
from tests.support.broker_ledger import add, claimants, owners, registered_vms
from tests.support.broker_samples import ALPHA_NODE, BETA_NODE, PORT, VM, Conversation, capacity, inventory, request


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
        assert [vm.state for vm in (await registered_vms(store)).vms] == [VmState.OTHER]
        await clock.advance(10)
        async with store.transaction() as tx:
            await registry.take_inventory(tx, "alpha", inventory(clock(), VM))
        assert [vm.state for vm in (await registered_vms(store)).vms] == [VmState.RUNNING]

    async def test_arrived_after_the_report(self, store: Store, clock: ManualClock) -> None:
        """A VM that came by a port is not missing because an older report of its new provider does not list it."""
        await add(store, Conversation.begin(request()).completed().state)
        written = clock() + timedelta(seconds=5)
        await clock.advance(10)
        async with store.transaction() as tx:
            await ledger.commit_epoch(tx, CommitEpoch(VM, 2, "beta", "beta-1"), PORT)
            await registry.take_inventory(tx, "beta", inventory(written))
        assert [vm.state for vm in (await registered_vms(store)).vms] == [VmState.RUNNING]

    async def test_large_inventory_is_quick(self, store: Store, clock: ManualClock) -> None:
        """A provider with a thousand VMs reports them without holding up the ports for long."""
        many = [VM, *(uuid4() for _ in range(1000))]
        for _ in range(2):
            await clock.advance(10)
            started_s = time.perf_counter()
            async with store.transaction() as tx:
                assert await registry.take_inventory(tx, "alpha", inventory(clock(), *many)) == 0
        assert time.perf_counter() - started_s < 1.0
        assert len((await registered_vms(store)).vms) == 1001

    async def test_silent_providers(self, store: Store, clock: ManualClock) -> None:
        """Providers are known by their capacity reports; after a while without one they count as silent."""
        facts = await self._facts(store, clock())
        assert (facts.providers, facts.silent) == (frozenset({"beta"}), frozenset())
        facts = await self._facts(store, clock() + timedelta(minutes=3))
        assert facts.silent == frozenset({"beta"})

    async def test_when_a_node_was_heard(self, store: Store, clock: ManualClock) -> None:
        """By the broker's clock, whatever the agents' say; an older report takes nothing back."""
        report = capacity(clock() - timedelta(hours=1))
        for silent_s in (20.0, 5.0, 60.0):
            async with store.transaction() as tx:
                await registry.take_capacity(
                    tx, "beta", report.model_copy(update={"nodes_silent_s": {"beta-1": silent_s}})
                )
        async with store.reading() as connection:
            assert await registry.node_heard_at(connection, BETA_NODE) == clock() - timedelta(seconds=5)
            assert await registry.node_heard_at(connection, ALPHA_NODE) is None

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
