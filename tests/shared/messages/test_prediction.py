"""What a port is expected to take."""

import pytest
from pydantic import ValidationError

from shared.messages.prediction import MAX_UNKNOWN, Estimate, Range

SOME = Range(p50=1, p90=2)


def test_no_figure_is_negative() -> None:
    """Nor is one endless."""
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            Range(p50=wrong, p90=2)


def test_what_is_unknown_is_bounded() -> None:
    """A message is no place for endless lists."""
    with pytest.raises(ValidationError):
        Estimate(wire_bytes=SOME, total_s=SOME, downtime_ms=SOME, outage_ms=SOME, unknown=("x",) * (MAX_UNKNOWN + 1))
