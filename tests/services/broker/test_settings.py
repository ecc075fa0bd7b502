"""The broker's settings reach the saga and the rules in their units."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from services.broker.settings import LimitSettings, TimingSettings


def test_limits_are_durations_for_the_rules() -> None:
    """Days and seconds become durations."""
    limits = LimitSettings(
        max_active_ports_per_tenant=3, farthest_window_days=0.5, shortest_deadline_s=40, window_tolerance_s=5
    ).limits()
    assert limits.max_active_ports_per_tenant == 3
    assert limits.farthest_window == timedelta(hours=12)
    assert (limits.shortest_deadline, limits.window_tolerance) == (timedelta(seconds=40), timedelta(seconds=5))


def test_every_phase_has_its_time() -> None:
    """Each setting of the section is one of the saga's."""
    timing = TimingSettings(approval_s=7, seed_ahead_s=0).timing()
    assert (timing.approval, timing.seed_ahead) == (timedelta(seconds=7), timedelta())


@pytest.mark.parametrize("wrong", [{"approval_s": 0}, {"transfer_s": -1}, {"first_retry_s": 31 * 24 * 3600}])
def test_a_time_without_sense_is_refused(wrong: dict[str, float]) -> None:
    """A phase takes some time, and less than a month."""
    with pytest.raises(ValidationError):
        TimingSettings(**wrong)
