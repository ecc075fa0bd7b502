"""Other parties' clocks, learned from what they send: ten minutes off are found, waiting messages are not mistaken."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from shared.clocks import FORGOTTEN_AFTER, KEPT, MAX_PARTIES, ClockOffsets, is_late

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TEN = timedelta(minutes=10)
SECOND = timedelta(seconds=1)


def test_an_old_message_is_late_and_two_in_order_are_a_step_of_the_clock() -> None:
    """One that comes a second time is late however often; a clock that was set back is believed with the second."""
    assert not is_late(NOW, last=NOW, set_aside=None)
    assert is_late(NOW - TEN, last=NOW, set_aside=None)
    assert is_late(NOW - TEN, last=NOW, set_aside=NOW - TEN)
    assert is_late(NOW - TEN - SECOND, last=NOW, set_aside=NOW - TEN)
    assert not is_late(NOW - TEN + SECOND, last=NOW, set_aside=NOW - TEN)


@pytest.mark.parametrize("ahead", [TEN, -TEN])
def test_a_wrong_clock_is_found(ahead: timedelta) -> None:
    """After two messages at the latest."""
    clocks = ClockOffsets()
    for seconds in (0, 5):
        at = NOW + seconds * SECOND
        clocks.heard("node", sent_at=at + ahead, now=at)
    assert clocks.ahead("node", NOW + 5 * SECOND) == ahead
    assert clocks.their_now("node", NOW + 5 * SECOND) == NOW + 5 * SECOND + ahead


def test_a_message_from_the_future_needs_no_second_one() -> None:
    """It cannot have been sent after it came."""
    clocks = ClockOffsets()
    clocks.heard("node", sent_at=NOW + TEN, now=NOW)
    assert clocks.ahead("node", NOW) == TEN


def test_one_old_message_says_nothing() -> None:
    """It may have waited; so may several that come together."""
    clocks = ClockOffsets()
    for age in (600, 590, 580):
        clocks.heard("node", sent_at=NOW - age * SECOND, now=NOW)
    assert clocks.ahead("node", NOW) == timedelta(0)


def test_the_way_of_a_message_is_no_offset() -> None:
    """Some seconds are named by nobody."""
    clocks = ClockOffsets()
    for seconds in (0, 5):
        at = NOW + seconds * SECOND
        clocks.heard("node", sent_at=at - 4 * SECOND, now=at)
    assert clocks.ahead("node", NOW + 5 * SECOND) == timedelta(0)
    assert clocks.ahead("stranger", NOW) == timedelta(0)


def test_a_clock_that_was_put_right_is_believed() -> None:
    """After a few messages; and what was long ago is forgotten."""
    clocks = ClockOffsets()
    clocks.heard("node", sent_at=NOW + TEN, now=NOW)
    for seconds in range(KEPT):
        at = NOW + seconds * SECOND
        clocks.heard("node", sent_at=at, now=at)
    assert clocks.ahead("node", NOW + 3 * SECOND) == timedelta(0)
    clocks.heard("other", sent_at=NOW + TEN, now=NOW)
    assert clocks.ahead("other", NOW + FORGOTTEN_AFTER + SECOND) == timedelta(0)


@pytest.mark.parametrize("ahead", [TEN, -TEN])
def test_an_answer_shows_the_clock_at_once(ahead: timedelta) -> None:
    """It was sent while we waited; one that took long says nothing."""
    clocks = ClockOffsets()
    clocks.answered("broker", asked_at=NOW, sent_at=NOW + SECOND + ahead, now=NOW + 2 * SECOND)
    assert clocks.ahead("broker", NOW + 2 * SECOND) == ahead
    slow = ClockOffsets()
    slow.answered("broker", asked_at=NOW, sent_at=NOW + SECOND + ahead, now=NOW + 60 * SECOND)
    assert slow.ahead("broker", NOW + 60 * SECOND) == timedelta(0)


def test_what_is_remembered_is_bounded() -> None:
    """Whoever was not heard for longest goes."""
    clocks = ClockOffsets()
    for number in range(MAX_PARTIES + 1):
        clocks.heard(f"node{number}", sent_at=NOW + TEN, now=NOW)
    assert clocks.ahead("node0", NOW) == timedelta(0)
    assert clocks.ahead("node1", NOW) == TEN
