"""The level of compression follows the bottleneck."""

from __future__ import annotations

from services.node_agent.page_codec.pace import LADDER, LOOK_S, Pace


def test_a_slow_link_is_worth_more_time() -> None:
    """Blocked and hardly busy: one rung per look, up to the top."""
    pace = Pace(level=1)
    levels = [pace.look(busy_s=0.05, blocked_s=0.9, starved_s=0.05) for _ in range(4)]
    assert levels == [3, 6, 6, 6]


def test_a_fast_link_wants_no_compression() -> None:
    """Busy and never blocked: down to none, so that the codec is never slower than raw."""
    pace = Pace(level=1)
    assert [pace.look(busy_s=0.9, blocked_s=0.0, starved_s=0.1) for _ in range(3)] == [-5, 0, 0]


def test_an_encoder_that_is_busy_already_climbs_no_further() -> None:
    """The next rung would make it the bottleneck."""
    assert Pace(level=3).look(busy_s=0.3, blocked_s=0.7, starved_s=0.0) == 3


def test_a_hypervisor_that_has_nothing_changes_nothing() -> None:
    """Starved says nothing about link or CPU."""
    assert Pace(level=1).look(busy_s=0.2, blocked_s=0.0, starved_s=3.0) == 1


def test_moments_are_not_judged() -> None:
    """Only what adds up to LOOK_S is."""
    pace = Pace(level=1)
    assert {pace.look(busy_s=0.0, blocked_s=LOOK_S / 10, starved_s=0.0) for _ in range(9)} == {1}
    assert pace.look(busy_s=0.0, blocked_s=LOOK_S / 10 + 1e-6, starved_s=0.0) == LADDER[3]
