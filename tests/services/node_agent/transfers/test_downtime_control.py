"""What the ladder is shown of the lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.node_agent.hypervisor.interface import JobStats
from services.node_agent.switchover.convergence import Ladder, ServiceRate, SetMaxDowntime
from services.node_agent.transfers.downtime_control import RATE_EVERY_S, DowntimeControl
from shared.topology import Lane

if TYPE_CHECKING:
    import pytest

    from tests.support.transfer_pair import Pair


async def test_a_reading_becomes_steps_of_the_ladder(pair: Pair) -> None:
    """Lanes that hold nothing let the limit be what the ladder begins with; it stays below the promise."""
    control = DowntimeControl(Ladder(1000, "never"), pair.lanes_a, clock=lambda: 0.0)
    stats = JobStats(memory_total_bytes=100, memory_remaining_bytes=60, memory_iteration=1)
    assert control.sample(JobStats(disk_total_bytes=5)) == []
    (step,) = control.sample(stats)
    assert isinstance(step, SetMaxDowntime)
    assert 0 < step.milliseconds < 1000


async def test_rates_are_measured_over_a_second(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """More often would measure the event loops; what the codec may hold is set every time."""
    now_s, rates, holds = 0.0, [], []
    control = DowntimeControl(Ladder(1000, "never"), pair.lanes_a, clock=lambda: now_s)
    sample = ServiceRate.sample

    def sampled(rate: ServiceRate, *, delivered_bytes: int, full: bool, at_s: float) -> int:
        rates.append(at_s)
        return sample(rate, delivered_bytes=delivered_bytes, full=full, at_s=at_s)

    monkeypatch.setattr(ServiceRate, "sample", sampled)
    monkeypatch.setattr(pair.lanes_a, "hold_at_most", lambda lane, limit: holds.append((lane, limit)))
    for now_s in (0.0, RATE_EVERY_S / 2, RATE_EVERY_S):  # noqa: B007  # the clock reads it
        control.sample(JobStats(memory_total_bytes=1, memory_iteration=1))
    assert rates == [0.0, 0.0, RATE_EVERY_S, RATE_EVERY_S]
    assert [lane for lane, _ in holds] == [Lane.MEMORY] * 3
