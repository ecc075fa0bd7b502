"""Extensions after their ports: kept, reported, ended in every way, and asked for their end until they are closed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.broker import extensions
from shared.bus import Reject
from shared.messages.addresses import (
    CloseExtension,
    EndExtension,
    ExtensionClosed,
    ExtensionShown,
    ExtensionState,
    NetworkReported,
    NetworkShown,
    NetworkState,
    ShowNetwork,
)
from shared.messages.porting import ProvisionVm
from shared.messages.queries import QueryFailed
from shared.messages.service_change import PortPhase
from shared.parties import BROKER, node
from tests.support.broker_samples import (
    ACME,
    ALPHA_NODE,
    BETA,
    BETA_NODE,
    PORT,
    VM,
    plan,
)
from tests.support.broker_world import GLOBEX, World
from tests.support.networked_world import Networked

OTHER = node("alpha", "alpha-2")
S = ExtensionState


def report(state: NetworkState, **more: Any) -> NetworkReported:
    """What a node says of the port."""
    return NetworkReported(**{"port_id": PORT, "epoch": 2, "state": state, **more})


CLOSED = ExtensionClosed(port_id=PORT, epoch=2)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Networked]:
    """A port by extension for an hour, completed."""
    async with Networked(f"sqlite:///{tmp_path}/ledger.db", plan("extend", ends_after_s=3600)) as world:
        await world.completed()
        yield world


async def test_it_outlives_its_port(world: Networked) -> None:
    """Its lanes stay, those of the port are gone."""
    shown = await world.extension()
    assert shown == ExtensionShown(state=S.OPEN, since=world.clock(), ends_at=world.clock() + timedelta(hours=1))
    assert (list(world.lanes.extensions), world.lanes.open, world.lanes.closed) == ([PORT], {}, [PORT])


async def test_how_many_are_kept_and_for_how_long(world: Networked) -> None:
    """Until both sides have closed."""

    async def ages() -> dict[S, tuple[int, float]]:
        async with world.store.reading() as connection:
            return await extensions.ages_s(connection, world.clock())

    await world.pass_time(600)
    assert await ages() == {S.OPEN: (1, 600.0)}
    await world.pass_time(3000)
    assert await ages() == {S.ENDING: (1, 3600.0)}
    await world.tell(ALPHA_NODE, CLOSED)
    await world.tell(BETA_NODE, CLOSED)
    assert await ages() == {}


async def test_its_time_is_up(world: Networked) -> None:
    """Both nodes are told; when both have closed, the lanes go."""
    await world.pass_time(3599)
    assert await world.state() == (S.OPEN, "")
    await world.pass_time(1)
    assert await world.state() == (S.ENDING, "its time is up")
    for party in (ALPHA_NODE, BETA_NODE):
        (close,) = [e.data for e in world.broker.received(party) if isinstance(e.data, CloseExtension)]
        assert (close.epoch, close.reason) == (2, "its time is up")
    await world.tell(ALPHA_NODE, CLOSED)
    assert (await world.state())[0] is S.ENDING
    assert list(world.lanes.extensions) == [PORT]
    await world.tell(BETA_NODE, CLOSED)
    assert await world.state() == (S.ENDED, "its time is up")
    assert world.lanes.extensions == {}


async def test_a_silent_node_is_asked_again_and_keeps_no_lanes(world: Networked) -> None:
    """Less and less often, and only the one that has not answered."""
    await world.pass_time(3600)
    await world.tell(ALPHA_NODE, CLOSED)
    await world.pass_time(60)
    assert world.lanes.extensions == {}
    await world.pass_time(60)
    await world.pass_time(60)
    told = [world.told(party).count("CloseExtension") for party in (ALPHA_NODE, BETA_NODE)]
    assert told == [1, 3]
    await world.tell(BETA_NODE, CLOSED)
    await world.pass_time(7200)
    assert world.told(BETA_NODE).count("CloseExtension") == 3
    assert (await world.state())[0] is S.ENDED


async def test_a_node_that_closes_its_side_ends_it(world: Networked) -> None:
    """Nobody uses it any more, for the addresses are announced: the other side is told."""
    await world.tell(ALPHA_NODE, report(NetworkState.CLOSED, detail="no traffic for 300 s"))
    assert await world.state() == (S.ENDING, "closed by node.alpha.alpha-1")
    assert (world.told(ALPHA_NODE).count("CloseExtension"), world.told(BETA_NODE).count("CloseExtension")) == (0, 1)
    await world.tell(BETA_NODE, report(NetworkState.CLOSED))
    assert (await world.state())[0] is S.ENDED
    assert world.lanes.extensions == {}


async def test_an_older_port_says_nothing_about_it(world: Networked) -> None:
    """Only the port's own epoch counts."""
    await world.tell(ALPHA_NODE, report(NetworkState.CLOSED, epoch=1))
    await world.tell(ALPHA_NODE, ExtensionClosed(port_id=PORT, epoch=3))
    assert await world.state() == (S.OPEN, "")


async def test_nodes_reports_are_recorded(world: Networked) -> None:
    """With the measurement; what was left behind is named."""
    await world.tell(BETA_NODE, report(NetworkState.CARRYING, first_answer_ms=42))
    await world.tell(BETA_NODE, report(NetworkState.FAILED, detail="no bridge"))
    assert await world.events("NetworkReported") == [
        ("node.beta.beta-1", "carrying; first answer after 42 ms"),
        ("node.beta.beta-1", "failed: no bridge"),
    ]
    await world.tell(BETA_NODE, ExtensionClosed(port_id=PORT, epoch=2, left_overs=("vmx0123456789a0",)))
    assert await world.events("ExtensionClosed") == [
        ("node.beta.beta-1", "closed; could not be removed: vmx0123456789a0")
    ]


async def test_strangers_say_nothing(world: Networked) -> None:
    """Neither another node of the provider nor a gateway of nobody's; such messages are rejected."""
    for message in (report(NetworkState.CLOSED), CLOSED):
        envelope = world.seal(OTHER, message)
        with pytest.raises(Reject, match="is no node of port"):
            await world.service.handle(envelope)
    with pytest.raises(Reject, match="there is no port"):
        await world.service.handle(world.seal(ALPHA_NODE, report(NetworkState.CLOSED, port_id=UUID(int=99))))
    assert await world.state() == (S.OPEN, "")


async def test_the_tenant_ends_it(world: Networked) -> None:
    """Once; asked again, it is told how far that is."""
    await world.tell(ACME, EndExtension(port_id=PORT))
    await world.tell(ACME, EndExtension(port_id=PORT))
    answers = [e.data for e in world.broker.received(ACME) if isinstance(e.data, NetworkShown)]
    assert [answer.extension.state for answer in answers if answer.extension] == [S.ENDING, S.ENDING]
    assert await world.state() == (S.ENDING, "tenant.acme no longer needs it")
    assert world.told(BETA_NODE).count("CloseExtension") == 1


async def test_nobody_else_ends_or_sees_it(world: Networked) -> None:
    """Another tenant is told that there is no such port."""
    for question in (EndExtension(port_id=PORT), ShowNetwork(port_id=PORT), ShowNetwork(vm_uuid=VM), ShowNetwork()):
        await world.tell(GLOBEX, question)
    codes = [e.data.code for e in world.broker.received(GLOBEX) if isinstance(e.data, QueryFailed)]
    assert codes == ["not_found", "not_found", "not_found", "invalid"]
    assert await world.state() == (S.OPEN, "")


async def test_it_ends_when_the_vm_is_ported_on(world: Networked) -> None:
    """The next port of the VM has completed; its own extension is not meant."""
    async with world.store.transaction() as tx:
        await extensions.ported_on(tx, VM, PORT)
    assert await world.state() == (S.OPEN, "")
    async with world.store.transaction() as tx:
        await extensions.ported_on(tx, VM, UUID(int=8))
    assert await world.state() == (S.ENDING, f"the VM was ported on by port {UUID(int=8)}")


async def test_a_restarted_broker_goes_on(world: Networked) -> None:
    """All of it is in the ledger."""
    await world.restart()
    await world.pass_time(3600)
    assert await world.state() == (S.ENDING, "its time is up")


async def test_a_port_without_a_plan_has_nothing_to_end(tmp_path: Path) -> None:
    """Its networks were taken as one."""
    async with World(f"sqlite:///{tmp_path}/ledger.db") as world:
        await world.ask_for_port()
        await world.until_phase(PortPhase.COMPLETED)
        await world.say(ACME, EndExtension(port_id=PORT))
        await world.say(ACME, ShowNetwork(port_id=PORT))
        await world.say(ACME, ShowNetwork(vm_uuid=VM))
        await world.until_nothing_is_left()
        failed = [e.data.code for e in world.broker.received(ACME) if isinstance(e.data, QueryFailed)]
        (shown,) = (e.data for e in world.broker.received(ACME) if isinstance(e.data, NetworkShown))
    assert failed == ["no_extension", "not_found"]
    assert (shown.plan, shown.extension) == (None, None)


async def test_what_was_closed_before_the_end_of_the_port_counts(tmp_path: Path) -> None:
    """The addresses were announced, and one side closed, before the port had completed."""
    planned = plan("translate", then_announce=True)
    async with Networked(f"sqlite:///{tmp_path}/ledger.db", planned) as world:
        finish = world.mute(BETA, ProvisionVm)
        await world.ask_for_port()
        await world.until_phase(PortPhase.FINISHING)
        await world.tell(BETA_NODE, report(NetworkState.CLOSED))
        for speaker, message in finish(world.seal(BROKER, report(NetworkState.CLOSED))):
            await world.say(speaker, message)
        await world.until_phase(PortPhase.COMPLETED)
        await world.settled()
        assert await world.state() == (S.ENDING, "closed by node.beta.beta-1")
        assert world.told(BETA_NODE).count("CloseExtension") == 0
        await world.tell(ALPHA_NODE, CLOSED)
        assert (await world.state())[0] is S.ENDED
        assert world.lanes.extensions == {}
