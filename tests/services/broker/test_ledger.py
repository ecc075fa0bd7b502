"""The ledger on both database engines: ports, their record, the epochs."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from services.broker import ledger
from services.broker.ledger import LedgerConflict
from services.broker.saga import CommitEpoch, Heard, Timing, step
from services.broker.tables import epochs, ports, vms
from shared.messages.service_change import CancelPort, PortPhase
from shared.store import Store
from tests.support.broker_ledger import add, load, new_state, owners
from tests.support.broker_samples import ACME, NOW, PORT, VM, Conversation, progress, request


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

    async def test_oldest_of_a_phase(self, store: Store) -> None:
        """By the state's own time, which progress and repeated questions do not move."""
        states = [Conversation.begin(request()).finishing().state, Conversation.begin(request()).switching().state]
        since = [NOW - timedelta(minutes=5), NOW - timedelta(hours=1)]
        for state, at, vm_uuid in zip(states, since, (VM, uuid4()), strict=True):
            asked = state.request.model_copy(update={"port_id": uuid4(), "vm_uuid": vm_uuid})
            await add(store, state.with_(request=asked, phase_since=at))
        async with store.reading() as connection:
            oldest = await ledger.oldest_since(connection, (PortPhase.FINISHING, PortPhase.RESOLVING))
        assert oldest == {PortPhase.FINISHING: since[0]}


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
