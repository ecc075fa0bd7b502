"""Plans at a running broker: made, applied, followed to their end, cancelled; and a broker that restarts meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.broker import ledger
from services.broker.placement.task import Solved
from services.broker.plans import records
from shared.messages import AnyEnvelope, Message, PortMessage
from shared.messages.approval import ApprovalRequested, DonorApproved, DonorRejected
from shared.messages.base import MAX_TEXT
from shared.messages.plans import (
    PLAN_ENDS,
    ApplyPlan,
    CancelPlan,
    CreatePlan,
    ListPlans,
    Move,
    PlanShown,
    PlansListed,
    PlanState,
    ShowPlan,
)
from shared.messages.porting import QuoteOffered, QuoteRequested, ReservationRequested
from shared.messages.queries import QueryFailed
from shared.messages.service_change import CancelPort, PortPhase
from shared.parties import Party
from shared.testing import breathe
from tests.support.broker_samples import ACME, ALPHA, BETA, BETA_NODE, GAMMA, NOW, identity, inventory, quote, refusal
from tests.support.broker_world import GAMMA_NODE, GLOBEX, Answers, World, good_parts
from tests.support.placement_samples import demand, price_list

PLAN = UUID(int=77)
VMS = tuple(UUID(int=0xA00 + number) for number in range(8))


def about_their_port(world: World) -> None:
    """Every party plays its part for whatever port it is asked about; gamma as beta does."""
    vm_of: dict[UUID, UUID] = {}
    node_of: dict[UUID, Party] = {}

    def at_gamma(party: Party) -> Party:
        return {BETA: GAMMA, BETA_NODE: GAMMA_NODE}.get(party, party)

    def part(party: Party, kind: type[Message], like: Party) -> Callable[[AnyEnvelope], Answers]:
        def play(envelope: AnyEnvelope) -> Answers:
            asked = envelope.data
            assert isinstance(asked, PortMessage)
            if isinstance(asked, ApprovalRequested):
                vm_of[asked.port_id] = asked.vm_uuid
            if isinstance(asked, ReservationRequested):
                node_of[asked.port_id] = GAMMA_NODE if party == GAMMA else BETA_NODE
            answers = good_parts(asked.port_id)[like, kind](envelope)
            to_gamma = node_of.get(asked.port_id) == GAMMA_NODE and kind is not QuoteRequested
            return [
                (at_gamma(speaker) if to_gamma else speaker, about_its_vm(message, vm_of.get(asked.port_id)))
                for speaker, message in answers
            ]

        return play

    for party, kind in list(world.parts):
        world.parts[party, kind] = part(party, kind, party)
        if party in {BETA, BETA_NODE} and (at_gamma(party), kind) not in world.parts:
            world.parts[at_gamma(party), kind] = part(at_gamma(party), kind, party)


def about_its_vm(message: Message, vm: UUID | None) -> Message:
    """A sample's message, about this VM."""
    if isinstance(message, DonorApproved) and vm is not None:
        return message.model_copy(update={"identity": identity(vm)})
    has_vm = vm is not None and "vm_uuid" in type(message).model_fields
    return message.model_copy(update={"vm_uuid": vm}) if has_vm else message


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Eight VMs of acme at alpha; beta and gamma take any."""
    async with World(f"sqlite:///{tmp_path}/ledger.db") as made:
        about_their_port(made)
        await made.clock.advance(1)
        await made.say(ALPHA, inventory(made.clock(), *VMS))
        await made.broker.wait_idle()
        yield made


def created(count: int = 8, **more: Any) -> CreatePlan:
    """The first half goes to beta, the others to gamma."""
    moves = tuple(
        Move(vm_uuid=vm, recipient="beta" if number < count / 2 else "gamma") for number, vm in enumerate(VMS[:count])
    )
    return CreatePlan(**{"plan_id": PLAN, "name": "spring", "moves": moves, **more})


async def ask(world: World, message: Message, *, party: Party = ACME) -> Message:
    """The broker's answer."""
    question = await world.say(party, message)
    async with asyncio.timeout(20):
        while True:
            for envelope in world.broker.received(party):
                if envelope.causationid == question.id:
                    return envelope.data
            world.heard.clear()
            await breathe()


async def shown(world: World) -> PlanShown:
    """The plan as it is."""
    async with world.store.reading() as connection:
        found = await records.look(connection, PLAN, "acme")
    assert found is not None
    return records.shown(found)


async def until(world: World, *states: PlanState) -> PlanShown:
    """Wait until the plan is in one of these states."""
    async with asyncio.timeout(100):
        while (now := await shown(world)).summary.state not in states:  # noqa: ASYNC110  # the ledger tells nobody
            await asyncio.sleep(0.01)
    assert await ask(world, ShowPlan(plan_id=PLAN)) == now
    return now


def moves(now: PlanShown) -> list[str]:
    return [move.state.value for move in now.moves]


def refuse(world: World, vm: UUID) -> None:
    """Alpha does not let this VM go."""
    usual = world.parts[ALPHA, ApprovalRequested]

    def part(envelope: AnyEnvelope) -> Answers:
        asked = envelope.data
        assert isinstance(asked, ApprovalRequested)
        if asked.vm_uuid == vm:
            return [(ALPHA, DonorRejected(port_id=asked.port_id, refusals=(refusal("dues_open"),)))]
        return usual(envelope)

    world.parts[ALPHA, ApprovalRequested] = part


async def silent_until_cancelled(world: World) -> None:
    """Recipients say nothing: ports stay in their quoting."""
    for party in (BETA, GAMMA):
        world.mute(party, QuoteRequested)


class TestCreate:
    """A plan of the tenant's own moves."""

    async def test_is_shown_and_listed(self, world: World) -> None:
        """Nothing moves; asked again, the answer is the same."""
        for _ in range(2):
            answer = await ask(world, created())
            assert isinstance(answer, PlanShown)
            assert (answer.summary.state, len(answer.moves), answer.at_once) == (PlanState.READY, 8, None)
        listed = await ask(world, ListPlans())
        assert isinstance(listed, PlansListed)
        assert [(plan.plan_id, plan.name, plan.moves) for plan in listed.plans] == [(PLAN, "spring", 8)]
        assert "ApprovalRequested" not in world.told(ALPHA)

    async def test_what_is_wrong_is_named(self, world: World) -> None:
        """Every wrong move, by its number."""
        stranger = uuid4()
        wrong = (
            Move(vm_uuid=stranger, recipient="beta"),
            Move(vm_uuid=VMS[0], recipient="nowhere"),
            Move(vm_uuid=VMS[1], recipient="beta"),
        )
        failed = await ask(world, created(moves=wrong))
        assert isinstance(failed, QueryFailed)
        assert failed.code == "invalid"
        assert failed.detail == (
            f"move 1: there is no VM {stranger} of yours; move 2: unknown provider 'nowhere'; known: beta, gamma"
        )

    async def test_nobody_else_sees_it(self, world: World) -> None:
        """Another tenant's VMs and plans do not exist."""
        await ask(world, created())
        for message in (ShowPlan(plan_id=PLAN), ApplyPlan(plan_id=PLAN), CancelPlan(plan_id=PLAN)):
            failed = await ask(world, message, party=GLOBEX)
            assert failed == QueryFailed(code="not_found", detail=f"there is no plan {PLAN} of yours")
        taken = await ask(world, created(), party=GLOBEX)
        assert isinstance(taken, QueryFailed)
        assert taken.code == "plan_id_taken"


class TestApply:
    """The group of ports."""

    async def test_eight_vms_to_two_providers(self, world: World) -> None:
        """Every VM gets a port and an agreement of its own, and arrives where the plan says."""
        await ask(world, created())
        begun = await ask(world, ApplyPlan(plan_id=PLAN, at_once=3))
        assert isinstance(begun, PlanShown)
        assert (begun.at_once, begun.on_failure) == (3, "stop")
        ended = await until(world, *PLAN_ENDS)
        assert (ended.summary.state, ended.summary.completed) == (PlanState.COMPLETED, 8)
        assert len({move.port_id for move in ended.moves}) == 8
        for move in ended.moves:
            assert move.port_id is not None
            state = (await world.port(move.port_id)).state
            assert (state.phase, state.recipient, state.agreement is not None) == (
                PortPhase.COMPLETED,
                move.recipient,
                True,
            )

    async def test_never_more_than_asked_for(self, world: World) -> None:
        """Two at once: the third begins after one has ended."""
        await silent_until_cancelled(world)
        await ask(world, created())
        await ask(world, ApplyPlan(plan_id=PLAN, at_once=2, on_failure="go_on"))
        async with asyncio.timeout(20):
            while moves(await shown(world)).count("under_way") < 2:
                await breathe()
        await world.broker.wait_idle()
        now = await shown(world)
        assert moves(now) == ["under_way"] * 2 + ["waiting"] * 6
        first = now.moves[0].port_id
        assert first is not None
        await world.say(ACME, CancelPort(port_id=first))
        async with asyncio.timeout(20):
            while moves(await shown(world))[:3] != ["cancelled", "under_way", "under_way"]:
                await breathe()

    @pytest.mark.parametrize("on_failure", ["stop", "go_on"])
    async def test_a_failure_in_the_middle(self, world: World, on_failure: Any) -> None:
        """Handled as asked: the rest is left where it is, or moved all the same."""
        refuse(world, VMS[3])
        await ask(world, created())
        await ask(world, ApplyPlan(plan_id=PLAN, on_failure=on_failure))
        ended = await until(world, *PLAN_ENDS)
        if on_failure == "stop":
            assert ended.summary.state is PlanState.STOPPED
            assert moves(ended) == ["completed"] * 3 + ["refused"] + ["left"] * 4
            assert ended.failure is not None
            assert ended.failure.startswith("the port of web to beta was not completed: refused: dues_open")
        else:
            assert ended.summary.state is PlanState.PARTLY
            assert moves(ended) == ["completed"] * 3 + ["refused"] + ["completed"] * 4
        assert (ended.summary.completed, ended.summary.not_completed) == (moves(ended).count("completed"), 1)

    async def test_it_goes_on_after_the_reason_is_gone(self, world: World) -> None:
        """Applied again, what is left is ported."""
        usual = world.parts[ALPHA, ApprovalRequested]
        refuse(world, VMS[1])
        await ask(world, created(4))
        await ask(world, ApplyPlan(plan_id=PLAN))
        await until(world, PlanState.STOPPED)
        world.parts[ALPHA, ApprovalRequested] = usual
        await ask(world, ApplyPlan(plan_id=PLAN, at_once=4))
        assert moves(await until(world, *PLAN_ENDS)) == ["completed"] * 4

    async def test_a_restarted_broker_goes_on(self, world: World) -> None:
        """All of the group is in the ledger."""
        offers = [(party, world.mute(party, QuoteRequested)) for party in (BETA, GAMMA)]
        await ask(world, created(4))
        await ask(world, ApplyPlan(plan_id=PLAN, at_once=1, on_failure="go_on"))
        asked = await world.until_told(BETA, QuoteRequested)
        await world.restart()
        for party, part in offers:
            world.parts[party, QuoteRequested] = part
        port_id = asked.data.port_id  # type: ignore[attr-defined]  # a QuoteRequested has one
        offer = quote("beta", valid_until=NOW + timedelta(minutes=10))
        await world.say(BETA, QuoteOffered(port_id=port_id, quote=offer))
        ended = await until(world, *PLAN_ENDS)
        assert (ended.summary.state, moves(ended)) == (PlanState.COMPLETED, ["completed"] * 4)

    async def test_a_move_that_was_made_meanwhile_needs_no_port(self, world: World) -> None:
        """The tenant has ported one VM by itself."""
        await ask(world, created(2))
        await world.ask_for_port(vm_uuid=VMS[0])
        await world.until_phase(PortPhase.COMPLETED)
        await ask(world, ApplyPlan(plan_id=PLAN))
        ended = await until(world, *PLAN_ENDS)
        assert moves(ended) == ["completed"] * 2
        assert (ended.moves[0].port_id, ended.moves[0].detail) == (None, "it runs at beta already")

    async def test_applied_twice(self, world: World) -> None:
        """The same again is answered; once it has ended, or otherwise, it is refused."""
        await silent_until_cancelled(world)
        await ask(world, created(2))
        for _ in range(2):
            assert isinstance(await ask(world, ApplyPlan(plan_id=PLAN)), PlanShown)
        failed = await ask(world, ApplyPlan(plan_id=PLAN, at_once=2))
        assert isinstance(failed, QueryFailed)
        assert failed.code == "not_ready"

    async def test_the_limit_of_ports_is_waited_for(self, world: World) -> None:
        """A tenant may have so many ports under way; the group's next one waits for room."""
        world.service._plans._limits = type(world.service._plans._limits)(max_active_ports_per_tenant=1)
        await silent_until_cancelled(world)
        await ask(world, created(2))
        await ask(world, ApplyPlan(plan_id=PLAN, at_once=2, on_failure="go_on"))
        await world.until_told(BETA, QuoteRequested)
        await world.broker.wait_idle()
        now = await shown(world)
        assert moves(now) == ["under_way", "waiting"]
        first = now.moves[0].port_id
        assert first is not None
        await world.say(ACME, CancelPort(port_id=first))
        async with asyncio.timeout(20):
            while moves(await shown(world)) != ["cancelled", "under_way"]:
                await world.clock.advance(10)
                await breathe()


class TestCancel:
    """All of it, as one."""

    async def test_ports_under_way_are_cancelled(self, world: World) -> None:
        """What has completed stays where it is; what has not begun does not begin."""
        await silent_until_cancelled(world)
        await ask(world, created())
        await ask(world, ApplyPlan(plan_id=PLAN, at_once=2))
        await world.until_told(BETA, QuoteRequested, times=2)
        await ask(world, CancelPlan(plan_id=PLAN, reason="not today"))
        ended = await until(world, *PLAN_ENDS)
        assert (ended.summary.state, ended.failure) == (PlanState.CANCELLED, "not today")
        assert moves(ended) == ["cancelled"] * 2 + ["left"] * 6
        async with world.store.reading() as connection:
            assert await ledger.count_active_of(connection, "acme") == 0
        assert isinstance(await ask(world, CancelPlan(plan_id=PLAN)), PlanShown)

    async def test_what_has_ended_is_not_cancelled(self, world: World) -> None:
        """It says so."""
        await ask(world, created(1))
        await ask(world, ApplyPlan(plan_id=PLAN))
        await until(world, PlanState.COMPLETED)
        failed = await ask(world, CancelPlan(plan_id=PLAN))
        assert failed == QueryFailed(code="already_ended", detail="the plan is completed already")


async def test_a_long_reason_is_stored(world: World) -> None:
    """Whatever a provider says, the plan can be read back."""
    long = refusal("dues_open").model_copy(update={"evidence": "x" * MAX_TEXT})
    world.parts[ALPHA, ApprovalRequested] = lambda envelope: [
        (ALPHA, DonorRejected(port_id=envelope.data.port_id, refusals=(long,)))  # type: ignore[attr-defined]  # as asked
    ]
    await ask(world, created(1))
    await ask(world, ApplyPlan(plan_id=PLAN))
    ended = await until(world, *PLAN_ENDS)
    assert len(ended.moves[0].detail) == MAX_TEXT


class Stuck:
    """A solver that never ends."""

    async def solve(self, *_: object) -> Solved:
        await asyncio.Event().wait()
        raise AssertionError("it does not end")


class TestDemand:
    """A plan that the broker finds itself."""

    @pytest.fixture(autouse=True)
    async def _price_lists(self, world: World) -> None:
        """Alpha is expensive, beta is not."""
        async with world.store.transaction() as tx:
            for provider, price in (("alpha", "100.00"), ("beta", "60.00"), ("gamma", "70.00")):
                await records.take_catalogue(tx, provider, price_list(price), tx.now)

    async def test_is_found_by_the_worker_and_carried_out(self, world: World) -> None:
        """From the question to the VMs' arrival; also when the broker restarts while it is being solved."""
        world.service._plans._solver = Stuck()
        asked = CreatePlan(plan_id=PLAN, demand=demand(*VMS[:2], scenarios=5))
        solving = await ask(world, asked)
        assert isinstance(solving, PlanShown)
        assert (solving.summary.state, solving.moves) == (PlanState.SOLVING, ())
        failed = await ask(world, ApplyPlan(plan_id=PLAN))
        assert isinstance(failed, QueryFailed)
        await world.restart()
        ready = await until(world, PlanState.READY, PlanState.UNSOLVABLE)
        assert ready.failure is None
        assert [(move.vm_uuid, move.donor, move.recipient) for move in ready.moves] == [
            (vm, "alpha", "beta") for vm in VMS[:2]
        ]
        assert ready.result is not None
        assert ready.result.reservations[0].provider == "beta"
        await ask(world, ApplyPlan(plan_id=PLAN, at_once=2))
        assert moves(await until(world, *PLAN_ENDS)) == ["completed"] * 2

    async def test_that_has_no_plan(self, world: World) -> None:
        """It ends, with key and reason."""
        await ask(world, CreatePlan(plan_id=PLAN, demand=demand(providers=("omega",))))
        ended = await until(world, *PLAN_ENDS)
        assert ended.summary.state is PlanState.UNSOLVABLE
        assert ended.failure == "providers: 'omega' has told no price list; known: alpha, beta, gamma"

    async def test_that_names_another_tenants_vm(self, world: World) -> None:
        """As if it did not exist."""
        stranger = uuid4()
        failed = await ask(world, CreatePlan(plan_id=PLAN, demand=demand(stranger)))
        assert failed == QueryFailed(code="invalid", detail=f"move 1: there is no VM {stranger} of yours")
