"""A tenant's questions."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from sqlalchemy import update

from services.broker import ledger, queries
from services.broker.tables import ports
from shared.messages import Refusal
from shared.messages.approval import DonorRejected
from shared.messages.base import MAX_TEXT
from shared.messages.porting import Side
from shared.messages.queries import ListPorts, ListProviders, ListVms, PortShown, ShowPort
from shared.messages.service_change import CancelPort, PortPhase, PortRequested
from shared.store import Store
from shared.testing import ManualClock
from tests.support.broker_ledger import add, new_state, registered_vms
from tests.support.broker_samples import (
    ALPHA,
    LONG,
    PORT,
    VM,
    Conversation,
    progress,
    refusal,
    request,
    transfer_failed,
)


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
        assert [vm.port_id for vm in (await registered_vms(store)).vms] == [PORT]

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


async def test_long_failure_is_shown_clipped(store: Store) -> None:
    """A failure as long as a message allows, with its code before it, still fits into the answer."""
    talk = Conversation.begin(request()).transferring()
    talk.hear(ALPHA, transfer_failed(Side.OUTBOUND, guest_running=True, detail=LONG))
    await add(store, talk.state)
    async with store.reading() as connection:
        shown = await queries.answer(connection, ShowPort(port_id=PORT), "acme")
    assert isinstance(shown, PortShown)
    assert shown.failure is not None
    assert len(shown.failure) == MAX_TEXT
    assert PortShown.model_validate_json(shown.model_dump_json()) == shown


async def test_long_refusals_are_shown_clipped(store: Store) -> None:
    """So do many refusals in one text."""
    long = Refusal(code="no_capacity", rule="there is room", evidence=LONG)
    talk = Conversation.begin(request()).hear(ALPHA, DonorRejected(port_id=PORT, refusals=(long, long)))
    await add(store, talk.state)
    async with store.reading() as connection:
        shown = await queries.answer(connection, ShowPort(port_id=PORT), "acme")
    assert isinstance(shown, PortShown)
    assert shown.failure is not None
    assert len(shown.failure) == MAX_TEXT
    assert PortShown.model_validate_json(shown.model_dump_json()) == shown
