"""The broker is told what this provider can take."""

from __future__ import annotations

from services.recipient_agent.capacity import GIB
from services.recipient_agent.capacity_report import catalogue_of
from shared.messages.nodes import CapacityReported
from shared.parties import BROKER
from tests.support.recipient_world import OTHER, World


async def test_capacity_is_reported_when_nodes_come_and_at_intervals(running: World) -> None:
    """Healthy nodes only, after reservations."""
    await running.beat()
    await running.beat()
    await running.beat(OTHER, healthy=False)
    await running.service.report(only_changes=False)
    await running.settle()

    reports = running.heard(BROKER, CapacityReported)
    assert [(report.nodes_healthy, report.nodes) for report in reports] == [(1, 1), (1, 2), (1, 2)]
    assert reports[0].memory_free_bytes == 7 * GIB - (512 << 20)


async def test_when_the_nodes_were_heard_is_reported(running: World) -> None:
    """Of all nodes, in seconds; also of those that are silent."""
    await running.beat()
    await running.clock.advance(400)
    await running.beat(OTHER)
    await running.settle()

    reports = running.heard(BROKER, CapacityReported)
    assert sorted(reports[-1].nodes_silent_s.values()) == [0.0, 400.0]


async def test_the_price_list_is_reported(running: World) -> None:
    """With what one tenant may have; the broker's plans are made of it."""
    await running.beat()
    await running.settle()
    (report, *_) = running.heard(BROKER, CapacityReported)
    terms = running.service._context.terms
    assert report.catalogue == catalogue_of(terms)
    assert [each.name for each in report.catalogue.types] == [each.name for each in terms.instance_types]
    assert report.catalogue.per_tenant.vms == terms.quota_per_tenant.vms
