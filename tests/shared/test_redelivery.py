"""Which delivery is next: order per conversation, retries with delay."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.backoff import Backoff
from shared.redelivery import MAX_OVERTAKING, Conversations

STEADY = Backoff(min_s=1.0, max_s=8.0, jitter=0.0)


def test_order_of_arrival_while_nothing_fails() -> None:
    """One after the other."""
    waiting: Conversations[int] = Conversations()
    for item in range(3):
        waiting.arrived("a", item)
    taken = []
    while (item_or_none := waiting.take(0.0)) is not None:
        taken.append(item_or_none)
        waiting.succeeded()
    assert taken == [0, 1, 2]


def _all(waiting: Conversations[str]) -> list[str]:
    taken = []
    while (item := waiting.take(0.0)) is not None:
        taken.append(item)
        waiting.succeeded()
    return taken


def test_pressing_goes_first_but_not_before_its_own_conversation() -> None:
    """A question of the same conversation, asked before, is answered before."""
    waiting: Conversations[str] = Conversations()
    for key, item in (("a", "a1"), ("b", "b1"), ("a", "a2!"), ("c", "c1!"), ("d", "d1!"), ("b", "b2")):
        waiting.arrived(key, item, pressing=item.endswith("!"))
    assert _all(waiting) == ["c1!", "d1!", "a1", "a2!", "b1", "b2"]
    assert len(waiting) == 0


def test_pressing_ones_do_not_starve_the_others() -> None:
    """After a few the oldest has its turn."""
    waiting: Conversations[str] = Conversations()
    waiting.arrived("a", "a1")
    waiting.arrived("b", "b1")
    for number in range(2 * MAX_OVERTAKING + 1):
        waiting.arrived(number, "!", pressing=True)
    assert _all(waiting) == ["!"] * MAX_OVERTAKING + ["a1"] + ["!"] * MAX_OVERTAKING + ["b1", "!"]


def test_a_pressing_one_that_fails_waits_like_any_other() -> None:
    """It holds up nobody meanwhile, and is counted no more."""
    waiting: Conversations[str] = Conversations(backoff=STEADY)
    waiting.arrived("a", "a1!", pressing=True)
    waiting.arrived("b", "b1")
    assert waiting.take(0.0) == "a1!"
    assert waiting.failed(0.0, chance=0.0) == 1.0
    waiting.arrived("a", "a2!", pressing=True)
    assert waiting.take(0.0) == "b1"
    waiting.succeeded()
    assert waiting.take(1.0) == "a1!"
    waiting.succeeded()
    assert waiting.take(1.0) == "a2!"


def test_failed_delivery_waits_for_its_time_and_holds_up_nobody() -> None:
    """Others pass; the conversation's own next message stays behind it."""
    waiting: Conversations[str] = Conversations(backoff=STEADY)
    for key, item in (("a", "a1"), ("a", "a2"), ("b", "b1")):
        waiting.arrived(key, item)
    assert waiting.take(0.0) == "a1"
    assert waiting.failed(0.0, chance=0.0) == 1.0
    assert waiting.take(0.0) == "b1"
    waiting.succeeded()
    assert waiting.take(0.5) is None
    assert waiting.next_due_s() == 1.0
    assert waiting.take(1.0) == "a1"
    waiting.succeeded()
    assert waiting.take(1.0) == "a2"
    waiting.succeeded()
    assert len(waiting) == 0
    assert waiting.next_due_s() is None


def test_delay_doubles_and_attempts_are_bounded() -> None:
    """After the last attempt there is no further one."""
    waiting: Conversations[str] = Conversations(backoff=STEADY, max_attempts=4)
    waiting.arrived("a", "a1")
    delays, now_s = [], 0.0
    while True:
        assert waiting.take(now_s) == "a1"
        delay_s = waiting.failed(now_s, chance=0.0)
        if delay_s is None:
            break
        delays.append(delay_s)
        now_s += delay_s
    assert delays == [1.0, 2.0, 4.0]
    waiting.succeeded()
    assert len(waiting) == 0


def test_verdict_is_demanded() -> None:
    """One delivery at a time, and no verdict without a delivery."""
    waiting: Conversations[str] = Conversations()
    with pytest.raises(RuntimeError):
        waiting.succeeded()
    waiting.arrived("a", "a1")
    waiting.take(0.0)
    with pytest.raises(RuntimeError):
        waiting.take(0.0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=30))
def test_every_delivery_ends_in_order_whatever_fails(script: list[tuple[str, int]]) -> None:
    """Each item is settled exactly once; within a conversation in the order of arrival; time goes on by what is due."""
    waiting: Conversations[int] = Conversations(backoff=STEADY, max_attempts=4)
    failures_left: dict[int, int] = {}
    expected: dict[str, list[int]] = defaultdict(list)
    settled: dict[str, list[int]] = defaultdict(list)
    keys: dict[int, str] = {}
    for number, (key, failures) in enumerate(script):
        waiting.arrived(key, number)
        failures_left[number], keys[number] = failures, key
        expected[key].append(number)
    now_s = 0.0
    while len(waiting):
        item = waiting.take(now_s)
        if item is None:
            due_s = waiting.next_due_s()
            assert due_s is not None
            assert due_s > now_s
            now_s = due_s
            continue
        if failures_left[item] > 0:
            failures_left[item] -= 1
            if waiting.failed(now_s, chance=0.5) is not None:
                continue
        settled[keys[item]].append(item)
        waiting.succeeded()
    assert settled == expected


def _fail_all(waiting: Conversations[str]) -> int:
    """Fail everything that is due; how many were given up."""
    given_up = 0
    while waiting.take(0.0) is not None:
        if waiting.failed(0.0, chance=0.0) is None:
            given_up += 1
            waiting.succeeded()
    return given_up + len(waiting.take_excess())


def test_sender_holds_a_few_while_others_succeed() -> None:
    """What one sender has more of is given up, or it would use up the prefetch of all."""
    waiting: Conversations[str] = Conversations(backoff=STEADY, max_held=3)
    waiting.arrived("first", "bad", sender="mallory")
    assert _fail_all(waiting) == 0
    waiting.arrived("fine", "good", sender="alice")
    assert waiting.take(0.0) == "good"
    waiting.succeeded()
    for number in range(10):
        waiting.arrived(number, "bad", sender="mallory")
        waiting.arrived("first", "behind", sender="mallory")
    assert _fail_all(waiting) == 18
    assert len(waiting) == 3


def test_everything_waits_when_nothing_succeeds() -> None:
    """Then the trouble is ours: nobody's message is given up before its attempts are used."""
    waiting: Conversations[str] = Conversations(backoff=STEADY, max_held=3)
    for number in range(10):
        waiting.arrived(number, "any", sender="alice")
    assert _fail_all(waiting) == 0
    assert len(waiting) == 10
