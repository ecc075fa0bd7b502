"""The SDK's calls about plans, against a scripted broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.client.errors import NoAnswer, QuestionFailed
from shared.client.sdk import TenantClient
from shared.messages import AnyEnvelope, Message
from shared.messages.plans import ApplyPlan, CancelPlan, CreatePlan, ListPlans, Move, MoveState, PlansListed, PlanState
from shared.messages.queries import QueryFailed
from shared.messages.service_change import PortLimits
from tests.support.plan_samples import PLAN, shown_plan
from tests.support.scripted_broker import WEB, ScriptedBroker

CREATE = CreatePlan(plan_id=PLAN, moves=(Move(vm_uuid=WEB.uuid, recipient="beta"),))


def answers(broker: ScriptedBroker, *messages: Message | None) -> None:
    """Each in its turn, the last one again and again; None: no answer."""
    turns: Iterator[Message | None] = iter(messages)
    last: list[Message | None] = [None]

    def answer(to: ScriptedBroker, envelope: AnyEnvelope) -> None:
        last[0] = next(turns, last[0])
        if last[0] is not None:
            to.say(last[0], cause=envelope)

    broker.on_command = answer


async def test_a_plan_is_waited_for(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the broker solves it, it is asked again."""
    monkeypatch.setattr("shared.client.plan_calls.POLL_S", 0.001)
    answers(broker, shown_plan(PlanState.SOLVING), shown_plan(PlanState.SOLVING), shown_plan())
    async with TenantClient(broker) as client:
        assert (await client.create_plan(CREATE)).summary.state is PlanState.READY
        answers(broker, shown_plan(PlanState.SOLVING))
        with pytest.raises(NoAnswer, match="the broker goes on"):
            await client.create_plan(CREATE, timeout_s=0.01)


async def test_commands(broker: ScriptedBroker) -> None:
    """What is sent, and the broker's no."""
    answers(broker, shown_plan())
    async with TenantClient(broker) as client:
        await client.apply_plan(PLAN, at_once=3, on_failure="go_on")
        await client.cancel_plan(PLAN, reason="no")
        await client.cancel_plan(PLAN)
        answers(broker, PlansListed(plans=(shown_plan().summary,)))
        assert [plan.plan_id for plan in await client.plans(limit=3)] == [PLAN]
        answers(broker, QueryFailed(code="not_ready", detail="the plan is solving"))
        with pytest.raises(QuestionFailed, match="the plan is solving"):
            await client.apply_plan(PLAN)
    sent = [envelope.data for envelope in broker.heard]
    assert sent[:4] == [
        ApplyPlan(plan_id=PLAN, at_once=3, on_failure="go_on", limits=PortLimits()),
        CancelPlan(plan_id=PLAN, reason="no"),
        CancelPlan(plan_id=PLAN),
        ListPlans(limit=3),
    ]


async def test_watching(broker: ScriptedBroker) -> None:
    """Each change once, until the end; a plan that is only ready has nothing to watch."""
    done, under_way = MoveState.COMPLETED, MoveState.UNDER_WAY
    first = shown_plan(PlanState.APPLYING, under_way, MoveState.WAITING)
    answers(broker, first, first, None, shown_plan(PlanState.COMPLETED, done, done))
    async with TenantClient(broker, timeout_s=0.05) as client:
        seen = [shown.summary.state async for shown in client.watch_plan(PLAN, poll_s=0.001)]
        assert seen == [PlanState.APPLYING, PlanState.COMPLETED]
        answers(broker, shown_plan())
        assert len([shown async for shown in client.watch_plan(PLAN)]) == 1
        answers(broker, None)
        with pytest.raises(NoAnswer):
            _ = [shown async for shown in client.watch_plan(PLAN)]
