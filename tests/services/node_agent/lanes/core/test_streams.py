from __future__ import annotations

import pytest

from services.node_agent.lanes.core.streams import StreamTable
from shared.page_stream.bodies import LaneRole


def a_table(max_streams: int = 4) -> StreamTable:
    return StreamTable(role=LaneRole.INITIATOR, max_streams=max_streams)


def test_ids_alternate_by_role() -> None:
    """The initiator's ids are odd, the acceptor's even, and none is used twice."""
    table = a_table()
    assert [table.open_local(), table.open_local()] == [1, 3]
    table.drop(3)
    assert table.open_local() == 5
    assert StreamTable(role=LaneRole.ACCEPTOR, max_streams=1).open_local() == 2


def test_half_closing() -> None:
    """A stream lives until both halves have ended."""
    table = a_table()
    table.open_local()
    table.end_sending(1)
    with pytest.raises(ValueError, match="not open for sending"):
        table.check_sends(1)
    assert table.takes(1)
    table.end_receiving(1)
    assert len(table) == 0
    assert not table.takes(1), "late frames of a closed stream are swallowed"


def test_data_after_eof_is_refused() -> None:
    """Nothing may follow the other end's EOF on that stream."""
    table = a_table()
    table.open_local()
    table.end_receiving(1)
    with pytest.raises(ValueError, match="after its EOF"):
        table.takes(1)


@pytest.mark.parametrize(("stream_id", "finding"), [(0, "id of this end"), (3, "id of this end"), (2, "after 4")])
def test_bad_openings_are_refused(stream_id: int, finding: str) -> None:
    """The other end opens its own ids, upwards."""
    table = a_table()
    table.open_peer(4)
    with pytest.raises(ValueError, match=finding):
        table.open_peer(stream_id)


@pytest.mark.parametrize("stream_id", [0, 1, 2])
def test_unknown_streams_are_refused(stream_id: int) -> None:
    """A frame for a stream that never was is a violation, not a late one."""
    with pytest.raises(ValueError, match="never opened"):
        a_table().takes(stream_id)


def test_both_ends_have_a_limit() -> None:
    """Neither end can make the other one hold more streams than agreed."""
    table = a_table(max_streams=1)
    table.open_local()
    table.open_peer(2)
    with pytest.raises(ValueError, match="limit"):
        table.open_local()
    with pytest.raises(ValueError, match="more than 1"):
        table.open_peer(4)
