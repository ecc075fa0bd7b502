"""What `tests/bench/outage` makes of two measured ports."""

from __future__ import annotations

from typing import Any

from deploy.labkit.echo_probe import Seen
from deploy.labkit.network import LinkBytes
from deploy.labkit.port_run import PortRun
from tests.bench.outage_bench.__main__ import Bytes, Measured, cost, counted, written_bytes

METRICS = """
# HELP vmport_lane_retransmitted_bytes_total Bytes that a lane retransmitted.
vmport_lane_retransmitted_bytes_total{lane="memory"} 1.5e+03
vmport_lane_retransmitted_bytes_total{lane="disk"} 500.0
vmport_lane_retransmitted_bytes_created{lane="disk"} 7.0
vmport_stream_wire_bytes_total{direction="outbound",lane="disk",route="direct"} 4000.0
vmport_stream_wire_bytes_total{direction="outbound",lane="disk",route="relay"} 1000.0
vmport_stream_wire_bytes_total{direction="inbound",lane="disk",route="relay"} 20.0
vmport_stream_wire_bytes_total{direction="outbound",lane="memory",route="direct"} 9000.0
"""


def port(
    total_s: float, wire_bytes: int, outcome: str = "completed", *, disk_lane: int = 0, resent: int = 0
) -> Measured:
    """A port that ended so."""
    result: dict[str, Any] = {"sla": {"measured_total_s": total_s}, "wire_bytes": wire_bytes}
    ended = PortRun("p", outcome, result if outcome == "completed" else {}, {}, Seen(0, 0, 0, 0, 0), LinkBytes(0, 0))
    return Measured(ended, Bytes(resent, disk_lane))


def test_the_cost_is_what_goes_beyond_the_outage() -> None:
    """Seconds beyond the outage, bytes as a ratio."""
    found = cost(port(30.0, 1000), port(160.0, 1040, resent=7), outage_s=120.0, mismatches=0)
    assert (found.late_s, found.bytes_ratio, found.resent_bytes, found.completed) == (10.0, 1.04, 7, True)


def test_what_the_guest_wrote_meanwhile_is_not_the_outage_s_own_cost() -> None:
    """But only as far as it wrote so much, and as it came on the disk lane."""
    plain, longer = port(30.0, 1000, disk_lane=400), port(160.0, 1300, disk_lane=660)
    ratios = {}
    for written in (0, 200, 900):
        found = cost(plain, longer, outage_s=120.0, mismatches=0, written_bytes=written)
        ratios[written] = found.own_ratio
        assert (found.bytes_ratio, found.disk_more_bytes, found.written_bytes) == (1.3, 260, written)
    assert ratios == {0: 1.3, 200: 1.1, 900: 1.04}
    assert cost(longer, plain, outage_s=120.0, mismatches=0, written_bytes=900).own_ratio == round(1000 / 1300, 4)


def test_a_port_that_failed_has_no_cost() -> None:
    """It is named as failed."""
    assert not cost(port(30.0, 1000), port(0, 0, "failed"), outage_s=120.0, mismatches=0).completed


def test_counters_are_read_from_metrics() -> None:
    """Of all lanes what was sent again; of the disk lane what went out, by either route."""
    found = counted(METRICS)
    assert found == Bytes(resent=2000, disk_lane=5000)
    assert found.since(Bytes(1, 2)) == Bytes(1999, 4998)


def test_what_a_guest_wrote_is_read_from_its_block_statistics() -> None:
    """As libvirt prints them, with a device's name or without."""
    assert written_bytes("vda rd_req 5\nvda wr_bytes 4096\n wr_bytes 10\nflush_operations 3\n\n") == 4106
