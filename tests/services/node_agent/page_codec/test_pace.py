"""The level of compression follows the bottleneck."""

from __future__ import annotations

from services.node_agent.page_codec.pace import (
    BUSY_SAMPLES,
    LADDER,
    LATE_SAMPLES,
    LINK_SAMPLES,
    REFUSE_S,
    SAMPLE_S,
    Pace,
)


def levels(pace: Pace, looks: int, *, busy: float, blocked: float = 0.0) -> list[int]:
    """The level after each of so many looks, in which the times have these shares."""
    return [
        pace.sample(busy_s=SAMPLE_S * busy, blocked_s=SAMPLE_S * blocked, starved_s=SAMPLE_S * (1.001 - busy - blocked))
        for _ in range(looks)
    ]


def test_a_slow_link_is_worth_more_time() -> None:
    """Blocked and hardly busy: a rung every few looks, up to the top."""
    found = levels(Pace(level=1), 4 * LINK_SAMPLES, busy=0.05, blocked=0.9)
    assert found[LINK_SAMPLES - 2 :: LINK_SAMPLES] == [1, 3, 6, 6]
    assert found[LINK_SAMPLES - 1 :: LINK_SAMPLES] == [3, 6, 6, 6]


def test_a_fast_link_wants_no_compression() -> None:
    """Busy and never blocked: down to none, so that the codec is never slower than raw."""
    assert levels(Pace(level=3), 4 * BUSY_SAMPLES, busy=0.9)[BUSY_SAMPLES - 1 :: BUSY_SAMPLES] == [1, -5, 0, 0]


def test_what_was_given_up_for_speed_comes_back_at_once() -> None:
    """A link that turns out to be slow after all."""
    pace = Pace(level=3)
    levels(pace, 3 * BUSY_SAMPLES, busy=0.9)
    assert levels(pace, 2 * LINK_SAMPLES, busy=0.05, blocked=0.9)[LINK_SAMPLES - 1 :: LINK_SAMPLES] == [-5, 1]


def test_a_moment_changes_nothing() -> None:
    """Windows open and close; only what several looks in a row say counts."""
    pace = Pace(level=3)
    for _ in range(20):
        assert set(levels(pace, BUSY_SAMPLES - 1, busy=0.9)) == {3}
        assert set(levels(pace, LINK_SAMPLES - 1, busy=0.05, blocked=0.9)) == {3}


def test_an_encoder_that_is_busy_already_climbs_no_further() -> None:
    """The next rung would make it the bottleneck."""
    assert set(levels(Pace(level=3), 20, busy=0.35, blocked=0.65)) == {3}


def test_a_level_that_makes_others_late_is_left_for_a_while() -> None:
    """Not idle, and the lane is never full. The next try comes later each time."""
    pace, refused_s = Pace(level=6), []
    for _ in range(2):
        assert levels(pace, LATE_SAMPLES, busy=0.4)[-2:] == [6, 3]
        looks = levels(pace, round(4 * REFUSE_S / SAMPLE_S), busy=0.15, blocked=0.8)
        refused_s.append(looks.index(6) * SAMPLE_S)
    assert [round(each / REFUSE_S) for each in refused_s] == [1, 2]


def test_compression_ends_only_where_it_is_most_of_the_work() -> None:
    """Elsewhere the bytes that it saves are others' work, too."""
    assert levels(Pace(level=3), 5 * LATE_SAMPLES, busy=0.4)[-1] == 1


def test_a_hypervisor_that_has_nothing_changes_nothing() -> None:
    """Starved says nothing about link or CPU."""
    assert set(levels(Pace(level=1), 50, busy=0.1)) == {1}


def test_moments_are_not_judged() -> None:
    """Only what adds up to SAMPLE_S is a look."""
    pace = Pace(level=1)
    parts = [pace.sample(busy_s=0.0, blocked_s=SAMPLE_S / 9, starved_s=0.0) for _ in range(11 * LINK_SAMPLES)]
    assert parts[9 * LINK_SAMPLES - 2] == 1
    assert parts[-1] == LADDER[3]
