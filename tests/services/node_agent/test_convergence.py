"""The ladder: low limit first, then up to the promise, then post-copy where it is allowed."""

from __future__ import annotations

from services.node_agent.convergence import (
    COMMIT_RESERVE_MS,
    HOLD_SHARE,
    LOWEST_MS,
    NEVER_MS,
    PATIENCE_MS,
    UNLIMITED_MS,
    GiveUp,
    Ladder,
    LinkRate,
    SetMaxDowntime,
    StartPostCopy,
    Step,
)
from services.node_agent.hypervisor import JobStats


def look(ladder: Ladder, iteration: int, *, lane_bytes: int = 0, rate: int = 10_000_000) -> list[Step]:
    """One reading in this round of memory; a round takes a second."""
    stats = JobStats(memory_total_bytes=1, memory_iteration=iteration, elapsed_ms=1000 * iteration)
    return ladder.look(stats, lane_bytes=lane_bytes, rate_bytes_per_s=rate)


def limits(ladder: Ladder, rounds: int) -> list[int]:
    """All limits set in so many rounds."""
    steps = [step for iteration in range(1, rounds + 1) for step in look(ladder, iteration)]
    return [step.milliseconds for step in steps if isinstance(step, SetMaxDowntime)]


def test_nothing_is_steered_before_memory_moves() -> None:
    """The disk phase has no downtime."""
    assert Ladder(1000, "if_needed").look(JobStats(disk_total_bytes=5), lane_bytes=0, rate_bytes_per_s=0) == []


def test_the_limit_rises_to_the_promise_and_not_beyond() -> None:
    """Each rung is higher; the top leaves room for the commit."""
    rungs = limits(Ladder(1000, "never"), 30)
    assert sorted(rungs) == rungs
    assert rungs[0] <= 200
    assert rungs[-1] == 850


def test_rounds_of_a_moment_do_not_climb() -> None:
    """A guest that writes little has many of them, and leaves soon."""
    steps = climb(Ladder(1000, "never"), round_s=PATIENCE_MS / 1000 / 50, rounds=49)
    assert len(steps) == 1


def test_bytes_in_the_lane_are_part_of_the_downtime() -> None:
    """What waits in the lane is taken off the limit, at the rate at which it leaves."""
    free, full = Ladder(1000, "never"), Ladder(1000, "never")
    (idle,) = look(free, 1)
    (busy,) = look(full, 1, lane_bytes=4_000_000)
    assert isinstance(idle, SetMaxDowntime)
    assert isinstance(busy, SetMaxDowntime)
    assert idle.milliseconds - busy.milliseconds == 400 // 5


def test_hot_pages_that_wait_take_a_share_of_the_promise() -> None:
    """At whatever rate they leave: the rest is for QEMU, the lane and the commit."""
    ladder = Ladder(1000, "never")
    assert ladder.hold_bytes(10_000_000) == 10_000_000 // HOLD_SHARE
    assert ladder.hold_bytes(0) == 0
    (step,) = look(ladder, 1, lane_bytes=ladder.hold_bytes(10_000_000))
    assert step == SetMaxDowntime((1000 - COMMIT_RESERVE_MS - 1000 // HOLD_SHARE) // 5)


def test_an_impossible_promise_still_has_a_limit() -> None:
    """QEMU is never told less than the lowest."""
    (step,) = look(Ladder(1, "never"), 1, lane_bytes=10**9)
    assert SetMaxDowntime(LOWEST_MS) == step


def test_post_copy_is_the_last_rung_where_allowed() -> None:
    """`if_needed` climbs first; `never` stays at the top; it starts once."""
    allowed, forbidden = Ladder(1000, "if_needed"), Ladder(1000, "never")
    steps = [step for iteration in range(1, 40) for step in look(allowed, iteration)]
    assert sum(isinstance(step, StartPostCopy) for step in steps) == 1
    assert isinstance(steps[-1], StartPostCopy)
    assert not any(isinstance(step, StartPostCopy) for n in range(1, 40) for step in look(forbidden, n))


def climb(ladder: Ladder, *, round_s: float, rounds: int) -> list[Step]:
    """All steps of a guest that never converges, in rounds of this length."""
    return [
        step
        for number in range(1, rounds + 1)
        for step in ladder.look(
            JobStats(memory_total_bytes=1, memory_iteration=number, elapsed_ms=round(1000 * round_s * number)),
            lane_bytes=0,
            rate_bytes_per_s=10_000_000,
        )
    ]


def test_a_port_that_may_do_nothing_else_fails_in_the_end() -> None:
    """Once, with what the tenant could do, and not before the guest was slowed down for long."""
    *limits, last = climb(Ladder(1000, "never"), round_s=5, rounds=60)
    assert all(isinstance(step, SetMaxDowntime) for step in limits)
    assert isinstance(last, GiveUp)
    assert "stop-and-copy" in last.reason


def test_short_rounds_are_no_reason_to_give_up() -> None:
    """Many rounds in few seconds mean that little is left each time."""
    assert not any(isinstance(step, GiveUp) for step in climb(Ladder(1000, "never"), round_s=0.5, rounds=60))


def test_stop_and_copy_is_the_last_rung_where_allowed() -> None:
    """Post-copy comes first where that is allowed, too."""
    assert climb(Ladder(1000, "never", stop_and_copy=True), round_s=5, rounds=60)[-1] == SetMaxDowntime(UNLIMITED_MS)
    assert climb(Ladder(1000, "if_needed", stop_and_copy=True), round_s=5, rounds=60)[-1] == StartPostCopy()


def test_post_copy_always_waits_for_the_first_round() -> None:
    """The limit keeps pre-copy from ending before."""
    ladder = Ladder(1000, "always")
    assert [SetMaxDowntime(NEVER_MS)] == look(ladder, 1)
    assert [StartPostCopy()] == look(ladder, 2)
    assert look(ladder, 3) == []


def test_a_lane_that_always_has_bytes_waiting_shows_the_links_rate() -> None:
    """It follows a change of the link in a few looks."""
    link = LinkRate()
    rates = [
        link.look(delivered_bytes=12_000_000 * second, waiting_bytes=4_000_000, at_s=second) for second in range(4)
    ]
    assert rates == [0, 12_000_000, 12_000_000, 12_000_000]
    slower = [link.look(delivered_bytes=36_000_000 + 10**6 * n, waiting_bytes=10**6, at_s=3.0 + n) for n in range(1, 9)]
    assert slower[-1] < 1_100_000


def test_a_lane_that_runs_dry_does_not_make_the_link_slow() -> None:
    """Deltas are few bytes; the link could carry more."""
    link = LinkRate()
    for second in range(3):
        link.look(delivered_bytes=10_000_000 * second, waiting_bytes=1, at_s=second)
    assert link.look(delivered_bytes=20_100_000, waiting_bytes=0, at_s=3.0) == 10_000_000
    assert link.look(delivered_bytes=20_100_000, waiting_bytes=0, at_s=3.0) == 10_000_000
