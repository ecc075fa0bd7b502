"""The ladder: low limit first, then up to the promise, then post-copy where it is allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.node_agent.hypervisor.interface import JobStats
from services.node_agent.switchover.convergence import (
    COMMIT_RESERVE_MS,
    HOLD_SHARE,
    LEAST_BYTES_PER_S,
    LEAST_SHARE,
    LOWEST_MS,
    NEVER_MS,
    PATIENCE_MS,
    PLANNED_BYTES_PER_S,
    UNLIMITED_MS,
    UNSEEN_BYTES_PER_S,
    Backlog,
    GiveUp,
    Ladder,
    NewDataShare,
    ServiceRate,
    SetMaxDowntime,
    StartPostCopy,
    Step,
)
from shared.messages.service_change import PostCopy

IDLE = Backlog(0, 10**12)


def look(ladder: Ladder, iteration: int, *, lane_bytes: int = 0, rate: int = 10_000_000) -> list[Step]:
    """One reading in this round of memory; a round takes a second."""
    stats = JobStats(memory_total_bytes=1, memory_iteration=iteration, elapsed_ms=1000 * iteration)
    return done(ladder, ladder.next_steps(stats, link=Backlog(lane_bytes, rate), recipient=IDLE))


def done(ladder: Ladder, steps: list[Step]) -> list[Step]:
    """All of these steps are carried out."""
    for step in steps:
        ladder.carried_out(step)
    return steps


def limits(ladder: Ladder, rounds: int) -> list[int]:
    """All limits set in so many rounds."""
    steps = [step for iteration in range(1, rounds + 1) for step in look(ladder, iteration)]
    return [step.milliseconds for step in steps if isinstance(step, SetMaxDowntime)]


def test_nothing_is_steered_before_memory_moves() -> None:
    """The disk phase has no downtime."""
    assert Ladder(1000, "if_needed").next_steps(JobStats(disk_total_bytes=5), link=Backlog(0, 1), recipient=IDLE) == []


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
    (busy,) = look(full, 1, lane_bytes=1_000_000)
    assert isinstance(idle, SetMaxDowntime)
    assert isinstance(busy, SetMaxDowntime)
    assert idle.milliseconds - busy.milliseconds == 100


def test_a_limit_of_bytes_follows_from_the_link_and_from_what_is_news() -> None:
    """A hypervisor that calculates with our rate gets milliseconds that mean so many bytes of it."""

    def limit_bytes(*, rate: int, new_data_share: float) -> float:
        ladder = Ladder(1000, "never", plans_bytes=True)
        (step,) = ladder.next_steps(
            JobStats(memory_total_bytes=1, memory_iteration=1),
            link=Backlog(0, rate),
            recipient=IDLE,
            new_data_share=new_data_share,
        )
        assert isinstance(step, SetMaxDowntime)
        return step.milliseconds / 1000 * PLANNED_BYTES_PER_S

    rung_s = (1000 - COMMIT_RESERVE_MS) / 5 / 1000
    assert limit_bytes(rate=10**8, new_data_share=1.0) == pytest.approx(10**8 * rung_s, rel=0.01)
    assert limit_bytes(rate=10**8, new_data_share=0.1) == pytest.approx(10**9 * rung_s, rel=0.01)
    assert limit_bytes(rate=1, new_data_share=1.0) == PLANNED_BYTES_PER_S / 1000  # 0 ms would mean never
    assert limit_bytes(rate=10**12, new_data_share=0.1) == PLANNED_BYTES_PER_S * UNLIMITED_MS / 1000


def test_a_recipient_that_is_slower_than_the_link_bounds_the_limit() -> None:
    """References are few bytes on the link and many to write: it is the recipient then that the guest waits for."""

    def limit_ms(recipient: Backlog) -> int:
        ladder = Ladder(1000, "never", plans_bytes=True)
        stats = JobStats(memory_total_bytes=1, memory_iteration=1)
        (step,) = ladder.next_steps(stats, link=Backlog(0, 10**7), recipient=recipient, new_data_share=0.1)
        assert isinstance(step, SetMaxDowntime)
        return step.milliseconds

    free = limit_ms(IDLE)
    assert limit_ms(Backlog(0, 10**8)) == free
    assert limit_ms(Backlog(0, 10**7)) == pytest.approx(free / 10, rel=0.01)
    rung_ms = (1000 - COMMIT_RESERVE_MS) / 5
    late_ms = 100
    late = limit_ms(Backlog(10**7 * late_ms // 1000, 10**7))
    assert late == pytest.approx(free / 10 * (rung_ms - late_ms) / rung_ms, rel=0.05)


def test_news_are_counted_after_the_first_round_only() -> None:
    """All is news until enough was seen; what one may rely on has a lower bound."""
    news = NewDataShare()
    assert news.sample(1, taken_bytes=100 << 20, new_data_bytes=1 << 20) == 1.0
    assert news.sample(2, taken_bytes=100 << 20, new_data_bytes=2 << 20) == 1.0
    assert news.sample(2, taken_bytes=(100 << 20) + 1000, new_data_bytes=2 << 20) == 1.0
    assert news.sample(3, taken_bytes=104 << 20, new_data_bytes=3 << 20) == 0.25
    assert news.sample(4, taken_bytes=200 << 20, new_data_bytes=3 << 20) == LEAST_SHARE
    assert news.sample(4, taken_bytes=200 << 20, new_data_bytes=300 << 20) == 1.0


def test_hot_pages_that_wait_take_a_share_of_the_promise() -> None:
    """At whatever rate they leave: the rest is for QEMU, the lane and the commit."""
    ladder = Ladder(1000, "never")
    assert ladder.hold_bytes(10_000_000) == 10_000_000 // HOLD_SHARE
    assert ladder.hold_bytes(0) == 0
    steps = [step for n in range(1, 30) for step in look(ladder, n, lane_bytes=ladder.hold_bytes(10_000_000))]
    assert steps[-1] == SetMaxDowntime(1000 - COMMIT_RESERVE_MS - 1000 // HOLD_SHARE)


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
        for step in done(
            ladder,
            ladder.next_steps(
                JobStats(memory_total_bytes=1, memory_iteration=number, elapsed_ms=round(1000 * round_s * number)),
                link=Backlog(0, 10_000_000),
                recipient=IDLE,
            ),
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


def test_lanes_that_are_full_show_the_links_rate() -> None:
    """It follows a change of the link in a few looks; the first that counts replaces what was assumed."""
    link = ServiceRate()
    rates = [link.sample(delivered_bytes=2_000_000 * second, full=True, at_s=second) for second in range(4)]
    assert rates == [UNSEEN_BYTES_PER_S, 2_000_000, 2_000_000, 2_000_000]
    slower = [link.sample(delivered_bytes=6_000_000 + 10**6 * n, full=True, at_s=3.0 + n) for n in range(1, 9)]
    assert slower[-1] < 1_100_000


def test_lanes_that_run_dry_do_not_make_the_link_slow() -> None:
    """References and deltas are few bytes; the link could carry more."""
    link = ServiceRate()
    for second in range(3):
        link.sample(delivered_bytes=20_000_000 * second, full=True, at_s=second)
    assert link.sample(delivered_bytes=40_100_000, full=False, at_s=3.0) == 20_000_000
    assert link.sample(delivered_bytes=40_200_000, full=True, at_s=4.0) == 20_000_000
    assert link.sample(delivered_bytes=90_200_000, full=False, at_s=5.0) == 50_000_000


def test_a_clock_that_stands_still_measures_nothing() -> None:
    """Two looks at one moment."""
    link = ServiceRate()
    link.sample(delivered_bytes=0, full=True, at_s=1.0)
    assert link.sample(delivered_bytes=10**9, full=True, at_s=1.0) == UNSEEN_BYTES_PER_S


def test_a_route_that_is_away_leaves_a_rate_to_calculate_with() -> None:
    """Nothing is delivered for seconds; the limit is low until the lanes move again."""
    link = ServiceRate()
    rates = [link.sample(delivered_bytes=0, full=True, at_s=second) for second in range(30)]
    assert rates[-1] == LEAST_BYTES_PER_S
    (step,) = look(Ladder(1000, "never", plans_bytes=True), 1, lane_bytes=10**6, rate=rates[-1])
    assert step == SetMaxDowntime(1)
    assert link.sample(delivered_bytes=10**7, full=True, at_s=30.0) > 10**6


def test_post_copy_always_begins_when_the_first_round_is_all_but_over() -> None:
    """An idle guest is through all later rounds before anybody looks again."""
    begun = JobStats(
        memory_total_bytes=1600, memory_iteration=1, memory_processed_bytes=1400, memory_remaining_bytes=101
    )
    ladder = Ladder(1000, "always")
    assert ladder.next_steps(begun, link=Backlog(0, 1), recipient=IDLE) == [SetMaxDowntime(NEVER_MS)]
    assert ladder.next_steps(replace(begun, memory_remaining_bytes=100), link=Backlog(0, 1), recipient=IDLE) == [
        StartPostCopy()
    ]


@pytest.mark.parametrize("mode", ["if_needed", "always"])
def test_post_copy_is_tried_until_it_has_started(mode: PostCopy) -> None:
    """A question that was not answered, or a libvirt that refused, is no end: the broker may have committed."""
    ladder = Ladder(1000, mode)

    def reading(iteration: int) -> list[Step]:
        stats = JobStats(memory_total_bytes=1, memory_iteration=iteration, elapsed_ms=1000 * iteration)
        steps = ladder.next_steps(stats, link=Backlog(0, 10**7), recipient=IDLE)
        for step in steps:
            if not isinstance(step, StartPostCopy):
                ladder.carried_out(step)
        return steps

    tried = [iteration for iteration in range(1, 40) if reading(iteration) == [StartPostCopy()]]
    assert len(tried) > 10
    ladder.carried_out(StartPostCopy())
    assert reading(40) == []


def test_a_limit_that_was_not_set_is_set_again() -> None:
    """libvirt may refuse for a moment; the last rung, too."""
    ladder = Ladder(1000, "never")
    stats = JobStats(memory_total_bytes=1, memory_iteration=1)
    first = ladder.next_steps(stats, link=Backlog(0, 10**7), recipient=IDLE)
    assert ladder.next_steps(stats, link=Backlog(0, 10**7), recipient=IDLE) == first
    done(ladder, first)
    assert ladder.next_steps(stats, link=Backlog(0, 10**7), recipient=IDLE) == []


@pytest.mark.parametrize("mode", ["never", "if_needed", "always"])
def test_without_the_broker_the_guest_is_not_paused(mode: PostCopy) -> None:
    """The limit is the least there is and nothing climbs, however long; afterwards the ladder begins where it was."""
    ladder = Ladder(1000, mode, stop_and_copy=True)

    def reading(iteration: int, *, may_switch: bool) -> list[Step]:
        stats = JobStats(memory_total_bytes=1, memory_iteration=iteration, elapsed_ms=5000 * iteration)
        steps = ladder.next_steps(stats, link=Backlog(0, 10**7), recipient=IDLE, may_switch=may_switch)
        return done(ladder, steps)

    assert [step for n in range(1, 100) for step in reading(n, may_switch=False)] == [SetMaxDowntime(NEVER_MS)]
    (after,) = reading(100, may_switch=True)
    assert after == (StartPostCopy() if mode == "always" else SetMaxDowntime(170))


def test_a_stop_and_copy_waits_for_the_broker_too() -> None:
    """The unlimited downtime is taken back while the broker is away, and set again."""
    ladder = Ladder(1000, "never", stop_and_copy=True)
    assert climb(ladder, round_s=5, rounds=60)[-1] == SetMaxDowntime(UNLIMITED_MS)
    stats = JobStats(memory_total_bytes=1, memory_iteration=61, elapsed_ms=61 * 5000)

    def reading(*, may_switch: bool) -> list[Step]:
        steps = ladder.next_steps(stats, link=Backlog(0, 10**7), recipient=IDLE, may_switch=may_switch)
        return done(ladder, steps)

    assert reading(may_switch=True) == []
    assert reading(may_switch=False) == [SetMaxDowntime(NEVER_MS)]
    assert reading(may_switch=True) == [SetMaxDowntime(UNLIMITED_MS)]
