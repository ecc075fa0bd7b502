from __future__ import annotations

import pytest

from services.node_agent.lanes.core.inbox import Inbox
from services.node_agent.lanes.core.outbox import FRAME_COST_BYTES
from shared.page_stream.frame import Frame, FrameType


def frame(sequence: int, *, kind: FrameType = FrameType.DATA, resend_pass: int = 0) -> Frame:
    return Frame(
        type=kind,
        epoch=1,
        sequence=sequence,
        received=0,
        consumed=0,
        stream_id=1,
        resend_pass=resend_pass,
        payload=b"x" if kind is FrameType.DATA else b"",
    )


def test_in_order_once() -> None:
    """The next number is taken, a duplicate is not."""
    inbox = Inbox(window_bytes=100_000)
    assert [inbox.accept(frame(number)) for number in (1, 2, 2, 1, 3)] == [True, True, False, False, True]
    assert inbox.received == 3
    assert not inbox.gap


def test_a_hole_is_a_gap_until_the_next_pass() -> None:
    """What comes after a hole is dropped; a new pass starts with a clean slate."""
    inbox = Inbox(window_bytes=100_000)
    inbox.accept(frame(1))
    assert not inbox.accept(frame(3))
    assert inbox.gap
    assert inbox.accept(frame(2, resend_pass=1))
    assert not inbox.gap
    assert not inbox.accept(frame(4)), "a straggler of the old pass"
    assert not inbox.gap, "says nothing about the new one"
    assert inbox.accept(frame(3, resend_pass=1))


def test_any_frame_shows_that_the_last_ones_were_lost() -> None:
    """A frame without a number of its own names the last number before it."""
    inbox = Inbox(window_bytes=100_000)
    inbox.accept(frame(1))
    assert not inbox.accept(frame(1, kind=FrameType.ACK))
    assert not inbox.gap
    assert not inbox.accept(frame(4, kind=FrameType.ACK))
    assert inbox.gap


def test_a_late_frame_of_the_same_pass_closes_the_gap() -> None:
    """A frame that a dying connection delivers late is taken, and nothing is missing then."""
    inbox = Inbox(window_bytes=100_000)
    inbox.accept(frame(2))
    assert inbox.gap
    assert inbox.accept(frame(1))
    assert inbox.accept(frame(2))
    assert not inbox.gap


def test_consumed_is_the_end_of_the_finished_run() -> None:
    """Streams are read in any order; the cumulative figure waits for the slowest."""
    inbox = Inbox(window_bytes=100_000)
    inbox.accept(frame(1, kind=FrameType.OPEN))
    assert inbox.consumed == 1
    for number in (2, 3, 4):
        inbox.accept(frame(number))
    inbox.accept(frame(5, kind=FrameType.EOF))
    inbox.consume(3)
    assert inbox.consumed == 1
    inbox.consume(2)
    assert inbox.consumed == 3
    inbox.consume(4)
    assert (inbox.consumed, inbox.unconsumed_bytes) == (5, 0)
    assert inbox.consumed_since_report_bytes == 3 * (1 + FRAME_COST_BYTES)
    with pytest.raises(KeyError):
        inbox.consume(4)


def test_the_window_is_enforced() -> None:
    """A sender that ignores the window is refused before memory grows."""
    inbox = Inbox(window_bytes=2 * (1 + FRAME_COST_BYTES))
    assert inbox.accept(frame(1))
    assert inbox.accept(frame(2))
    with pytest.raises(ValueError, match="window"):
        inbox.accept(frame(3))
