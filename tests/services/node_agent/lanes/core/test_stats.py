"""What a lane's snapshot says of itself."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from services.node_agent.lanes.core.stats import LaneStats

EMPTY = LaneStats(**{field.name: 0 for field in fields(LaneStats)})


@pytest.mark.parametrize(("used", "allowed", "full"), [(0, 0, False), (74, 100, False), (75, 100, True), (1, 0, False)])
def test_three_quarters_are_full(used: int, allowed: int, full: bool) -> None:  # noqa: FBT001  # a table
    """Link and reader count as full by their own limit; where the limit is unknown, neither does."""
    link = replace(EMPTY, unconsumed_out_bytes=used, allowed_out_bytes=allowed)
    assert (link.link_is_full, link.reader_is_full) == (full, False)
    reader = replace(EMPTY, unconsumed_out_raw_bytes=used, allowed_out_raw_bytes=allowed)
    assert (reader.link_is_full, reader.reader_is_full) == (False, full)
