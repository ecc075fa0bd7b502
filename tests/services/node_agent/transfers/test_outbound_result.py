"""The measured figures of a transfer, as the broker hears them."""

from __future__ import annotations

from uuid import UUID

from services.node_agent.transfers.outbound_result import OutboundResult


def test_every_figure_is_told() -> None:
    figures = {
        "downtime_ms": 80,
        "outage_ms": None,
        "hypervisor_downtime_ms": 60,
        "total_ms": 9000,
        "memory_bytes": 1 << 30,
        "disk_bytes": 1 << 31,
        "wire_bytes": 1 << 20,
        "seeded_bytes": 7,
        "post_copy": True,
    }
    message = OutboundResult(**figures).message(UUID(int=9))  # type: ignore[arg-type]  # a dict of mixed values
    assert message.model_dump(include=set(figures)) == figures
    assert message.port_id == UUID(int=9)
