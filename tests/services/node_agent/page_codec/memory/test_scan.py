"""Elements of a scan: built one by one or by runs, joined where they are opaque, cut anywhere."""

from __future__ import annotations

import numpy as np

from services.node_agent.page_codec.memory.scan import Kind, Mark, Scan, ScanBuilder

STRIDE = 9


def built() -> Scan:
    """Opaque, a named page, two zero pages as a run, opaque, a mark, opaque."""
    builder = ScanBuilder()
    builder.opaque(0)
    builder.opaque(5)
    builder.record(Kind.PAGE, 10, 20, 7, named=True)
    builder.run(Kind.ZERO, 100, STRIDE, np.array([8, 9], dtype=np.int64))
    builder.opaque(118)
    builder.mark(Mark.RECORDS_END)
    builder.opaque(126)
    builder.opaque(130)
    return builder.scan(bytes(140), 140)


def test_elements_come_in_order() -> None:
    """Opaque neighbours are one element, but not across a mark; a run's bodies follow its headers of 8 bytes."""
    scan = built()
    assert scan.kinds.tolist() == [Kind.OPAQUE, Kind.PAGE, Kind.ZERO, Kind.ZERO, Kind.OPAQUE, Kind.OPAQUE]
    assert scan.starts.tolist() == [0, 10, 100, 109, 118, 126]
    assert scan.bodies.tolist() == [0, 20, 108, 117, 118, 126]
    assert scan.pages.tolist() == [-1, 7, 8, 9, -1, -1]
    assert scan.named.tolist() == [False, True, False, False, False, False]
    assert scan.marks == ((5, Mark.RECORDS_END),)


def test_a_part_ends_where_the_next_element_begins() -> None:
    """Also in the middle of a run; opaque neighbours on both sides of a mark are one in it."""
    scan = built()
    first = scan.part(0, 3)
    assert (first.end, first.pages.tolist(), first.marks) == (109, [-1, 7, 8], ())
    last = scan.part(3, 6)
    assert (last.end, last.starts.tolist()) == (140, [109, 118])


def test_nothing_found_is_an_empty_scan() -> None:
    """All columns are there, of length 0."""
    scan = ScanBuilder().scan(b"", 0)
    assert [len(column) for column in (scan.kinds, scan.starts, scan.bodies, scan.pages, scan.named)] == [0] * 5
