"""A tenant's question about its VM reaches the VM's provider, and the answer the tenant; nobody else's."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from services.broker.inquiries import MAX_OPEN, OVERDUE_AFTER
from services.donor_agent.inspection import details_of
from shared.messages import AnyEnvelope, Message, seal
from shared.messages.approval import InspectVm, VmInspected
from shared.messages.queries import QueryFailed, ShowVm, VmShown
from shared.parties import BROKER, Party, donor
from tests.support.broker_samples import ACME, ALPHA, ALPHA_NODE, VM, description, inventory, refusal
from tests.support.broker_world import GLOBEX, World

DETAILS = details_of(description())


def answers(world: World, **changes: object) -> None:
    """Alpha answers by itself."""

    def part(envelope: AnyEnvelope) -> list[tuple[Party, Message]]:
        asked = envelope.data
        assert isinstance(asked, InspectVm)
        answer = VmInspected(inquiry_id=asked.inquiry_id, tenant=asked.tenant, vm=DETAILS)
        return [(ALPHA, answer.model_copy(update=changes))]

    world.parts[ALPHA, InspectVm] = part


async def shown(world: World, *, times: int = 1) -> VmShown:
    answer = (await world.until_told(ACME, VmShown, times=times)).data
    assert isinstance(answer, VmShown)
    return answer


async def asked(world: World) -> InspectVm:
    """What alpha was asked."""
    question = (await world.until_told(ALPHA, InspectVm)).data
    assert isinstance(question, InspectVm)
    return question


async def test_the_provider_answers(world: World) -> None:
    """The registry's facts, and what the node has read; the answer belongs to the question."""
    answers(world)
    question = await world.say(ACME, ShowVm(vm_uuid=VM))
    answer = await shown(world)
    assert (answer.vm.uuid, answer.vm.provider, answer.details, answer.refusals) == (VM, "alpha", DETAILS, ())
    assert (await world.until_told(ACME, VmShown)).correlationid == question.id
    assert (await asked(world)).tenant == "acme"
    assert (await asked(world)).inquiry_id != question.id
    await world.clock.advance(OVERDUE_AFTER.total_seconds())
    await world.service.timers.run_due()
    assert world.told(ACME) == ["VmShown"]


async def test_reasons_of_the_broker_and_of_the_provider(world: World) -> None:
    """All that speaks against a port now is in one answer."""
    answers(world, refusals=(refusal("dues_open"),))
    await world.clock.advance(600)
    await world.say(ACME, ShowVm(vm_uuid=VM))
    assert [reason.code for reason in (await shown(world)).refusals] == ["no_recipient", "dues_open"]


@pytest.mark.parametrize(("tenant", "vm"), [(GLOBEX, VM), (ACME, UUID(int=9))])
async def test_a_foreign_vm_and_none_are_answered_alike(world: World, tenant: Party, vm: UUID) -> None:
    """No provider is asked."""
    await world.say(tenant, ShowVm(vm_uuid=vm))
    failed = (await world.until_told(tenant, QueryFailed)).data
    assert failed == QueryFailed(code="not_found", detail=f"there is no VM {vm} of yours")
    assert world.told(ALPHA) == []


async def test_a_silent_provider(world: World) -> None:
    """The tenant is told in time, also by a broker that was restarted; a late answer changes nothing."""
    await world.say(ACME, ShowVm(vm_uuid=VM))
    question = await asked(world)
    await world.restart()
    await world.clock.advance(OVERDUE_AFTER.total_seconds())
    await world.service.timers.run_due()
    answer = await shown(world)
    assert answer.details is None
    assert [reason.code for reason in answer.refusals] == ["donor_silent"]
    await world.say(ALPHA, VmInspected(inquiry_id=question.inquiry_id, tenant="acme", vm=DETAILS))
    await world.broker.wait_idle()
    assert world.told(ACME) == ["VmShown"]


async def test_only_the_asked_provider_is_believed(world: World) -> None:
    """Another provider cannot answer in its place, nor say anything about another VM or to another tenant."""
    await world.say(ACME, ShowVm(vm_uuid=VM))
    inquiry_id = (await asked(world)).inquiry_id
    forged = VmInspected(inquiry_id=inquiry_id, tenant="acme", vm=DETAILS)
    beta = seal(forged, source=donor("beta"), message_id=uuid4(), now=world.clock())
    world.broker.put_raw(BROKER, beta.to_json(), user_id="donor.beta")
    other = DETAILS.model_copy(update={"uuid": UUID(int=9)})
    await world.say(ALPHA, forged.model_copy(update={"vm": other}))
    await world.say(ALPHA, forged.model_copy(update={"tenant": "globex"}))
    await world.broker.wait_idle()
    assert [letter.code for letter in world.broker.dead[BROKER]] == ["not_asked", "wrong_vm"]
    assert world.told(ACME) == world.told(GLOBEX) == []
    await world.say(ALPHA, forged)
    assert (await shown(world)).details == DETAILS


async def test_few_questions_are_open_at_once(world: World) -> None:
    """Of one tenant; when they have ended, it may ask again."""
    for _ in range(MAX_OPEN + 1):
        await world.say(ACME, ShowVm(vm_uuid=VM))
    failed = (await world.until_told(ACME, QueryFailed)).data
    assert isinstance(failed, QueryFailed)
    assert failed.code == "too_many_questions"
    await world.clock.advance(OVERDUE_AFTER.total_seconds())
    await world.service.timers.run_due()
    await shown(world, times=MAX_OPEN)
    answers(world)
    await world.say(ACME, ShowVm(vm_uuid=VM))
    assert (await shown(world, times=MAX_OPEN + 1)).details == DETAILS


async def test_a_vm_that_is_no_longer_the_tenants(world: World) -> None:
    """What its provider says after that is not passed on."""
    await world.say(ACME, ShowVm(vm_uuid=VM))
    question = await asked(world)
    await world.clock.advance(1)
    await world.say(ALPHA, inventory(world.clock(), VM, owner="globex"))
    await world.say(ALPHA, VmInspected(inquiry_id=question.inquiry_id, tenant="acme", vm=DETAILS))
    await world.until_told(ACME, QueryFailed)
    assert world.told(ACME) == ["QueryFailed"]


async def test_a_tenant_whose_clock_is_wrong_is_answered(world: World) -> None:
    """As with every other question: its session's queue is gone if it no longer waits."""
    answers(world)
    past = world.clock() - timedelta(hours=1)
    envelope = seal(ShowVm(vm_uuid=VM), source=ACME, message_id=uuid4(), now=past)
    world.broker.put_raw(BROKER, envelope.to_json(), user_id=str(ACME))
    assert (await shown(world)).details == DETAILS


async def test_a_node_cannot_answer(world: World) -> None:
    """The agent of the provider speaks for it."""
    await world.say(ACME, ShowVm(vm_uuid=VM))
    forged = VmInspected(inquiry_id=(await asked(world)).inquiry_id, tenant="acme", vm=DETAILS)
    envelope = seal(forged, source=ALPHA_NODE, message_id=uuid4(), now=world.clock())
    world.broker.put_raw(BROKER, envelope.to_json(), user_id=str(ALPHA_NODE))
    await world.broker.wait_idle()
    assert len(world.broker.dead[BROKER]) == 1
    assert world.told(ACME) == []
