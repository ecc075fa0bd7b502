"""What `tests/bench/outage` makes of two measured ports."""

from __future__ import annotations

from typing import Any

from deploy.labkit.echo_probe import Seen
from deploy.labkit.network import LinkBytes
from deploy.labkit.port_run import PortRun
from tests.bench.outage_bench.__main__ import cost


def port(total_s: float, wire_bytes: int, outcome: str = "completed") -> PortRun:
    """A port that ended so."""
    result: dict[str, Any] = {"sla": {"measured_total_s": total_s}, "wire_bytes": wire_bytes}
    return PortRun("p", outcome, result if outcome == "completed" else {}, {}, Seen(0, 0, 0, 0, 0), LinkBytes(0, 0))


def test_the_cost_is_what_goes_beyond_the_outage() -> None:
    """Seconds beyond the outage, bytes as a ratio."""
    found = cost(port(30.0, 1000), port(160.0, 1040), outage_s=120.0, mismatches=0)
    assert (found.late_s, found.bytes_ratio, found.completed) == (10.0, 1.04, True)


def test_a_port_that_failed_has_no_cost() -> None:
    """It is named as failed."""
    assert not cost(port(30.0, 1000), port(0, 0, "failed"), outage_s=120.0, mismatches=0).completed
