"""An offer, or every reason why there is none."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from services.recipient_agent.capacity import GIB
from services.recipient_agent.testing import (
    VERSIONS,
    make_summary,
    make_vm,
)
from shared.messages import seal
from shared.messages.nodes import ClockDiffers
from shared.messages.porting import (
    QuoteDeclined,
    QuoteOffered,
    QuoteRequested,
)
from shared.messages.service_change import PortLimits
from shared.parties import BROKER
from tests.support.recipient_world import BETA, PORT, World


async def test_a_quote_names_price_promise_and_expiry(running: World) -> None:
    """As the settings say."""
    await running.beat()
    await running.quote()

    (offered,) = running.heard(BROKER, QuoteOffered)
    assert (offered.quote.provider, offered.quote.instance_type) == ("beta", "small")
    assert offered.quote.valid_until == running.clock() + timedelta(seconds=600)
    assert running.metrics.quotes_total.labels("offered")._value.get() == 1


@pytest.mark.parametrize(
    ("vm", "code"),
    [
        ({"cpu_model": "Skylake"}, "cpu_model_unusable"),
        ({"memory_bytes": 20 * GIB}, "memory_short"),
        ({"vcpus": 1000}, "no_instance_type"),
        ({"blockers": ("a vTPM",)}, "vm_blocked"),
        ({"uuid": UUID(int=99)}, "uuid_collision"),
    ],
)
async def test_what_cannot_run_here_is_declined(running: World, vm: dict[str, Any], code: str) -> None:
    """With a refusal per finding, and counted."""
    await running.beat(vms=(make_summary(),))
    await running.quote(**vm)

    (declined,) = running.heard(BROKER, QuoteDeclined)
    assert code in {refusal.code for refusal in declined.refusals}
    assert running.metrics.refusals_total.labels(code)._value.get() == 1
    assert running.heard(BROKER, QuoteOffered) == []


async def test_without_nodes_nothing_is_offered(running: World) -> None:
    """No node was ever heard, or none lately."""
    await running.quote()
    await running.beat()
    await running.pass_time(31)
    await running.quote(UUID(int=8))

    assert [d.refusals[0].code for d in running.heard(BROKER, QuoteDeclined)] == ["no_node", "node_unreachable"]


async def test_a_question_that_came_too_late_is_not_answered(running: World) -> None:
    """The broker has gone on."""
    await running.beat()
    asked = QuoteRequested(
        port_id=PORT,
        tenant="acme",
        vm=make_vm(),
        versions=VERSIONS,
        limits=PortLimits(),
        answer_by=running.clock() - timedelta(seconds=1),
    )
    await running.say(BROKER, asked)

    assert running.heard(BROKER, QuoteOffered) == []


@pytest.mark.parametrize("ahead_s", [600, -600])
async def test_a_wrong_clock_declines_nothing(running: World, ahead_s: int) -> None:
    """The broker's clock is ten minutes from ours, and it has said so: it gets its offer."""
    brokers_now = running.clock() - timedelta(seconds=ahead_s)
    await running.beat()
    told = ClockDiffers(reported_at=running.clock(), ahead_s=ahead_s)
    answer_by = brokers_now + timedelta(seconds=15)
    asked = QuoteRequested(
        port_id=PORT, tenant="acme", vm=make_vm(), versions=VERSIONS, limits=PortLimits(), answer_by=answer_by
    )
    for message in (told, asked):
        deadline = answer_by if message is asked else None
        sealed = seal(message, source=BROKER, message_id=uuid4(), now=brokers_now, deadline=deadline)
        await running.bus.bus(BROKER).publish(BETA, sealed)
    await running.settle()
    assert len(running.heard(BROKER, QuoteOffered)) == 1
