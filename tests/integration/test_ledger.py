"""Two brokers on one ledger, on both database engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from services.broker import ledger
from services.broker.ledger import LedgerConflict
from services.broker.metrics import BrokerMetrics
from services.broker.port_steps import Stepper
from services.broker.rules import Limits
from services.broker.saga import CommitEpoch, Heard, Timing
from shared.messages import seal
from shared.messages.service_change import CancelPort, PortPhase
from shared.metrics import Metrics
from shared.parties import BROKER
from shared.store import Store
from shared.testing import ManualClock
from tests.support.broker_ledger import add, load, new_state, open_ledger, owners
from tests.support.broker_samples import ACME, PORT, VM


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
async def store(store_url: str, clock: ManualClock) -> AsyncIterator[Store]:
    """A migrated ledger that knows one VM of acme at alpha, and beta's capacity."""
    async with open_ledger(store_url, clock) as opened:
        yield opened


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
        """A message that both brokers receive has one effect."""
        arrived = seal(CancelPort(port_id=PORT), source=ACME, message_id=uuid4(), now=clock())

        async def take(own: Store) -> bool:
            async with own.transaction() as tx:
                first = await tx.first_time(arrived)
                await asyncio.sleep(0.05)
                return first

        async with Store(store_url, BROKER, clock=clock) as other:
            assert sorted(await asyncio.gather(take(store), take(other))) == [False, True]

    async def test_commit_once(self, store: Store, store_url: str, clock: ManualClock) -> None:
        """If two brokers try to commit the same epoch, exactly one succeeds."""
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
