from __future__ import annotations

import pytest

from services.node_agent.lanes.core.outbox import FRAME_COST_BYTES, Outbox
from shared.page_stream.frame import FrameType


def filled(count: int) -> Outbox:
    outbox = Outbox()
    outbox.window_bytes = 100_000
    for number in range(count):
        outbox.append(FrameType.DATA, 1, bytes([number]))
    return outbox


def take(outbox: Outbox) -> list[tuple[int, bool]]:
    taken = []
    while outbox.pending:
        unit, again = outbox.next_unit()
        taken.append((unit.sequence, again))
    return taken


def test_numbers_start_at_one_and_leave_in_order() -> None:
    """Units leave once, in the order of their numbers."""
    outbox = filled(3)
    assert take(outbox) == [(1, False), (2, False), (3, False)]
    assert outbox.sent_through == 3
    assert outbox.unanswered


def test_received_keeps_the_window_and_consumed_frees_it() -> None:
    """Only consumption makes room."""
    outbox = filled(2)
    take(outbox)
    assert outbox.report(received=2, consumed=0, pass_seen=0, gap=False)
    assert outbox.unconsumed_bytes == 2 * (1 + FRAME_COST_BYTES)
    assert outbox.report(received=2, consumed=1, pass_seen=0, gap=False)
    assert outbox.unconsumed_bytes == 1 + FRAME_COST_BYTES
    assert not outbox.report(received=1, consumed=0, pass_seen=0, gap=False), "an old report is no progress"
    assert outbox.report(received=2, consumed=2, pass_seen=0, gap=False)
    assert (outbox.unconsumed_bytes, outbox.unconsumed_units, outbox.unanswered) == (0, 0, False)


def test_a_gap_goes_back_once_per_pass() -> None:
    """A report of loss repeats everything after it; the same report again repeats nothing."""
    outbox = filled(4)
    take(outbox)
    outbox.report(received=1, consumed=1, pass_seen=0, gap=True)
    assert (outbox.resend_pass, outbox.sent_through) == (1, 1)
    outbox.report(received=1, consumed=1, pass_seen=0, gap=True)
    assert take(outbox) == [(2, True), (3, True), (4, True)]
    outbox.report(received=1, consumed=1, pass_seen=0, gap=True)
    assert not outbox.pending
    outbox.report(received=2, consumed=1, pass_seen=1, gap=True)
    assert take(outbox) == [(3, True), (4, True)]


def test_what_arrived_meanwhile_is_not_sent_again() -> None:
    """A report that overtakes a repetition shortens it."""
    outbox = filled(4)
    take(outbox)
    outbox.report(received=1, consumed=0, pass_seen=0, gap=True)
    outbox.report(received=3, consumed=0, pass_seen=0, gap=False)
    assert take(outbox) == [(4, True)]


@pytest.mark.parametrize(
    ("received", "consumed", "pass_seen", "finding"),
    [(3, 0, 0, "have frame 3"), (1, 2, 0, "consumed frame 2"), (1, 1, 1, "seen pass 1")],
)
def test_impossible_reports_are_refused(received: int, consumed: int, pass_seen: int, finding: str) -> None:
    """Nobody can have what was never sent."""
    outbox = filled(3)
    outbox.next_unit()
    outbox.next_unit()
    with pytest.raises(ValueError, match=finding):
        outbox.report(received=received, consumed=consumed, pass_seen=pass_seen, gap=False)


def test_window() -> None:
    """There is room up to the window, small frames cost extra, and before it is known there is none."""
    outbox = Outbox()
    assert not outbox.has_room(1)
    outbox.window_bytes = 2 * FRAME_COST_BYTES
    assert outbox.has_room(FRAME_COST_BYTES)
    assert not outbox.has_room(FRAME_COST_BYTES + 1)
    outbox.append(FrameType.OPEN, 1, b"outside the window")
    outbox.append(FrameType.DATA, 1, b"x")
    assert not outbox.has_room(0)
