"""The level of compression follows the bottleneck."""

from __future__ import annotations

from services.node_agent.page_codec.pace import LADDER, LOOK_S, REFUSE_S, Pace


def test_a_slow_link_is_worth_more_time() -> None:
    """Blocked and hardly busy: one rung per look, up to the top."""
    pace = Pace(level=1)
    levels = [pace.look(busy_s=0.05, blocked_s=0.9, starved_s=0.05) for _ in range(4)]
    assert levels == [3, 6, 6, 6]


def test_what_was_given_up_for_speed_comes_back_at_once() -> None:
    """A link that turns out to be slow after all."""
    pace = Pace(level=3)
    assert [pace.look(busy_s=0.9, blocked_s=0.0, starved_s=0.1) for _ in range(3)] == [1, -5, 0]
    assert [pace.look(busy_s=0.05, blocked_s=0.9, starved_s=0.05) for _ in range(2)] == [-5, 1]


def test_a_fast_link_wants_no_compression() -> None:
    """Busy and never blocked: down to none, so that the codec is never slower than raw."""
    pace = Pace(level=1)
    assert [pace.look(busy_s=0.9, blocked_s=0.0, starved_s=0.1) for _ in range(3)] == [-5, 0, 0]


def test_an_encoder_that_is_busy_already_climbs_no_further() -> None:
    """The next rung would make it the bottleneck."""
    assert Pace(level=3).look(busy_s=0.3, blocked_s=0.7, starved_s=0.0) == 3


def test_a_level_that_keeps_the_processor_from_others_is_left_for_a_while() -> None:
    """Not idle, and the lane is never full: the agent's other work is late. The next try comes later each time."""
    pace, lost_s = Pace(level=6), []
    for _ in range(2):
        assert pace.look(busy_s=0.4, blocked_s=0.0, starved_s=0.6) == 3
        looks = 0
        while pace.look(busy_s=0.15, blocked_s=0.8, starved_s=0.05) == 3:
            looks += 1
        lost_s.append(looks)
    assert lost_s == [REFUSE_S - 1, 2 * REFUSE_S - 1]


def test_compression_ends_only_where_it_is_most_of_the_work() -> None:
    """Elsewhere the bytes that it saves are others' work, too."""
    pace = Pace(level=3)
    assert {pace.look(busy_s=0.4, blocked_s=0.0, starved_s=0.6) for _ in range(4)} == {1}


def test_a_hypervisor_that_has_nothing_changes_nothing() -> None:
    """Starved says nothing about link or CPU."""
    assert Pace(level=1).look(busy_s=0.2, blocked_s=0.0, starved_s=3.0) == 1


def test_moments_are_not_judged() -> None:
    """Only what adds up to LOOK_S is."""
    pace = Pace(level=1)
    assert {pace.look(busy_s=0.0, blocked_s=LOOK_S / 10, starved_s=0.0) for _ in range(9)} == {1}
    assert pace.look(busy_s=0.0, blocked_s=LOOK_S / 10 + 1e-6, starved_s=0.0) == LADDER[3]
