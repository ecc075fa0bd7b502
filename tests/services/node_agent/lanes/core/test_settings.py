from __future__ import annotations

from typing import Any

import pytest

from services.node_agent.lanes.core.settings import LaneSettings
from shared.page_stream.bodies import LaneRole


def test_defaults() -> None:
    """The defaults are those of the relay's measurements: 8 MiB of window, 256 KiB chunks, 2 s, 120 s."""
    settings = LaneSettings(lane="x", role=LaneRole.INITIATOR)
    assert (settings.window_bytes, settings.resend_after_s, settings.silence_s) == (8 * 2**20, 2.0, 120.0)
    assert settings.max_payload_bytes == 256 * 1024 + 4096


@pytest.mark.parametrize(
    "values",
    [
        {"lane": ""},
        {"lane": "x" * 256},
        {"max_payload_bytes": 0},
        {"max_payload_bytes": 2**21},
        {"window_bytes": 300_000},
        {"window_bytes": 2**32},
        {"ack_delay_s": 0.0},
        {"silence_s": 5.0},
        {"max_streams": 0},
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any]) -> None:
    """Wrong settings fail when they are read, not when a port runs."""
    with pytest.raises(ValueError, match=next(iter(values)).split("_")[0]):
        LaneSettings(**{"lane": "x", "role": LaneRole.INITIATOR, **values})
