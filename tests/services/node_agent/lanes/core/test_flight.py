from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.lanes.core.flight import LEAST_BYTES, SLOT_S, START_BYTES, STILL_S, BestOfTwoSlots, Flight
from tests.support.simulated_link import MBIT, Bottleneck, Clock, SimulatedLane

MIB = 1024 * 1024
WINDOW_BYTES = 4 * MIB
PAYLOAD_BYTES = 64 * 1024


class Sender:
    """A flight with what is under way in it; the test consumes it by hand."""

    def __init__(self, *, follow: bool = True) -> None:
        self.flight = Flight(follow=follow)
        self.flight.window_bytes = WINDOW_BYTES
        self.sizes: deque[int] = deque()
        self.in_flight_bytes = 0
        self.now_s = 1000.0

    def put(self, size_bytes: int = PAYLOAD_BYTES) -> None:
        self.sizes.append(size_bytes)
        self.in_flight_bytes += size_bytes
        self.flight.sent(size_bytes, unconsumed_bytes=self.in_flight_bytes, now_s=self.now_s)

    def fill(self, size_bytes: int = PAYLOAD_BYTES) -> None:
        """Put what there is room for."""
        while self.flight.has_room(self.in_flight_bytes) and self.in_flight_bytes + size_bytes <= WINDOW_BYTES:
            self.put(size_bytes)

    def consume(self, payloads: int) -> None:
        for _ in range(payloads):
            self.in_flight_bytes -= self.sizes.popleft()
        self.flight.consumed(payloads, self.now_s)

    def round(self, took_s: float, size_bytes: int = PAYLOAD_BYTES) -> None:
        """All that there is room for is put, and consumed after that time."""
        self.fill(size_bytes)
        self.now_s += took_s
        self.consume(len(self.sizes))


@given(
    st.lists(
        st.tuples(
            st.floats(0, 8),
            st.one_of(st.just("restart"), st.integers(1, 266_240), st.integers(-60, -1)),
        ),
        max_size=80,
    )
)
def test_between_the_floor_and_the_window(steps: list[tuple[float, int | str]]) -> None:
    """Whatever is put, consumed and when, what is allowed stays between the floor and the window."""
    sender = Sender()
    for passed_s, step in steps:
        sender.now_s += passed_s
        match step:
            case int() if step > 0:
                sender.put(step)
            case int():
                sender.consume(min(-step, len(sender.sizes)))
            case _:
                sender.flight.restart(sender.now_s)
        sender.flight.tick(sender.now_s, all_arrived=True)
        assert LEAST_BYTES <= sender.flight.allowed_bytes <= WINDOW_BYTES


@given(st.lists(st.floats(0, 3), max_size=40))
def test_it_recovers(took: list[float]) -> None:
    """After any delays, a link on which nothing waits is given the whole window within three slots."""
    sender = Sender()
    for each_s in took:
        sender.round(each_s)
    end_s = sender.now_s + 3 * SLOT_S
    while sender.now_s < end_s:
        sender.round(0.02, 256 * 1024)
    assert sender.flight.allowed_bytes == WINDOW_BYTES


def test_a_small_window_is_the_floor() -> None:
    """Below the floor the window still bounds."""
    flight = Flight()
    assert not flight.has_room(0), "the other end's window is not known"
    flight.window_bytes = 1000
    assert flight.allowed_bytes == 1000


def test_one_that_does_not_follow() -> None:
    """A lane of small, urgent messages has its whole window, whatever they take."""
    sender = Sender(follow=False)
    for _ in range(5):
        sender.round(3.0)
    assert sender.flight.allowed_bytes == WINDOW_BYTES


def test_an_application_with_little_to_say_lowers_nothing() -> None:
    """Slow payloads count only when there was no room for more."""
    sender = Sender()
    for _ in range(30):
        sender.put()
        sender.now_s += 0.3
        sender.consume(1)
    assert sender.flight.allowed_bytes == START_BYTES
    for _ in range(4):
        sender.round(1.0)
    assert sender.flight.allowed_bytes < START_BYTES, "these had no room for more"


def test_another_route_begins_again() -> None:
    """What was put before the route came measures nothing."""
    sender = Sender()
    for _ in range(10):
        sender.round(0.001)
    assert sender.flight.allowed_bytes == WINDOW_BYTES
    sender.fill()
    sender.flight.restart(sender.now_s)
    assert sender.flight.allowed_bytes == START_BYTES
    sender.now_s += 2.0
    sender.consume(len(sender.sizes))
    assert sender.flight.allowed_bytes == START_BYTES
    sender.round(0.001)
    assert sender.flight.allowed_bytes == 2 * START_BYTES, "its first payloads show no more than the double"


def test_a_reader_that_stands_still_is_sent_the_whole_window() -> None:
    """It may wait for what comes behind; once it goes on, the link counts again."""
    sender = Sender()
    assert sender.flight.next_tick_s(all_arrived=True) is None, "nobody waits for anything"
    sender.fill()
    due_s = sender.flight.next_tick_s(all_arrived=True)
    assert due_s == sender.now_s + STILL_S
    sender.flight.tick(due_s - 0.01, all_arrived=True)
    assert sender.flight.allowed_bytes == START_BYTES
    sender.flight.tick(due_s, all_arrived=True)
    assert (sender.flight.allowed_bytes, sender.flight.next_tick_s(all_arrived=True)) == (WINDOW_BYTES, None)
    sender.now_s = due_s + 1.0
    sender.consume(1)
    assert sender.flight.allowed_bytes == START_BYTES


def test_a_link_that_may_be_away_is_not_sent_the_whole_window() -> None:
    """What has not come to the other end says nothing about its reader, however long that takes."""
    sender = Sender()
    sender.fill()
    assert sender.flight.next_tick_s(all_arrived=False) is None
    sender.flight.tick(sender.now_s + 100 * STILL_S, all_arrived=False)
    assert sender.flight.allowed_bytes == START_BYTES
    sender.flight.tick(sender.now_s + 100 * STILL_S, all_arrived=True)
    assert sender.flight.allowed_bytes == WINDOW_BYTES


def test_two_payloads_fit_even_a_slow_link() -> None:
    """However large the payloads are, one may arrive while another is consumed."""
    sender = Sender()
    sender.put(1000)
    sender.now_s += 0.001
    sender.consume(1)
    for _ in range(8):
        sender.fill(266_240)
        sender.now_s += 0.4
        sender.consume(len(sender.sizes))
    sender.fill(266_240)
    assert len(sender.sizes) == 2


def test_the_best_of_two_slots() -> None:
    """A value counts in its slot and the next one."""
    best = BestOfTwoSlots(1.0, max)
    added = ((5, 0.1), (3, 0.9), (2, 1.5), (1, 2.2), (0, 9.0))
    assert [best.add(value, at_s) for value, at_s in added] == [5, 5, 5, 2, 0]


# On a simulated link ----------------------------------------------------------------------------------------------


class Stretch:
    """What a lane and its link did in some seconds."""

    def __init__(self, lane: SimulatedLane, seconds: float) -> None:
        busy_s, began_s = lane.link.busy_s, lane.clock.now_s
        queued_s = lane.link.queue_s(began_s)
        lane.clock.run(seconds)
        # What was queued at its begin is sent within it, and what is queued at its end is not.
        self.busy = (lane.link.busy_s - busy_s + queued_s - lane.link.queue_s(lane.clock.now_s)) / seconds
        seen = lane.since(began_s)
        queues_s = sorted(reading.queue_s for reading in seen)
        self.queue_s = queues_s[len(queues_s) // 2]
        self.longest_queue_s = queues_s[-1]
        self.allowed_bytes = sorted(reading.allowed_bytes for reading in seen)[len(seen) // 2]


def make_lane(
    rate: float = 100 * MBIT, one_way_s: float = 0.01, *, clock: Clock | None = None, **values: Any
) -> SimulatedLane:
    return SimulatedLane(clock or Clock(), Bottleneck(rate), one_way_s=one_way_s, **values)


@pytest.mark.parametrize(
    ("payload_bytes", "hiccup_s", "ack_delay_s"),
    [
        (8 * 1024, 0.0, 0.01),
        (8 * 1024, 0.03, 0.01),
        (8 * 1024, 0.0, 0.05),
        (PAYLOAD_BYTES, 0.0, 0.01),
        (PAYLOAD_BYTES, 0.03, 0.01),
        (PAYLOAD_BYTES, 0.03, 0.05),
        (256 * 1024, 0.0, 0.01),
        (256 * 1024, 0.03, 0.05),
    ],
)
def test_a_long_narrow_link(payload_bytes: int, hiccup_s: float, ack_delay_s: float) -> None:
    """At 100 Mbit/s and 20 ms the link is always busy, and what stands before it is less than 100 ms."""
    lane = make_lane(payload_bytes=payload_bytes, hiccup_s=hiccup_s, ack_delay_s=ack_delay_s)
    lane.clock.run(1.0)
    stretch = Stretch(lane, 14.0)
    assert stretch.busy > 0.95
    assert stretch.queue_s < 0.1


def test_a_fixed_window_stands_behind() -> None:
    """What it is for: the window of the same lane, taken whole, stands there for 300 ms."""
    lane = make_lane(window_follows_link=False)
    lane.clock.run(1.0)
    assert Stretch(lane, 4.0).queue_s == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("hiccup_s", [0.0, 0.02])
def test_a_fast_link_has_its_window(hiccup_s: float) -> None:
    """At 10 Gbit/s and 0.2 ms the whole window is used, and nothing but hiccups keeps the link from being busy."""
    lane = make_lane(10_000 * MBIT, 0.0001, payload_bytes=256 * 1024, window_bytes=8 * MIB, hiccup_s=hiccup_s)
    lane.clock.run(0.1)
    stretch = Stretch(lane, 0.5)
    assert stretch.allowed_bytes == 8 * MIB
    assert stretch.busy > (0.3 if hiccup_s else 0.99)


def test_a_link_that_becomes_slow_and_fast_again() -> None:
    """From 100 to 20 Mbit/s the queue is gone within a second, and back again the link is busy at once."""
    lane = make_lane(hiccup_s=0.02)
    lane.clock.run(6.5)
    lane.link.bytes_per_s = 20 * MBIT
    lane.clock.run(1.0)
    slow = Stretch(lane, 4.0)
    assert slow.longest_queue_s < 0.11
    assert slow.busy > 0.9
    lane.link.bytes_per_s = 100 * MBIT
    lane.clock.run(0.3)
    fast = Stretch(lane, 1.0)
    assert fast.busy > 0.95


@pytest.mark.parametrize("reader_rate", [5e6, 50e6, 500e6])
def test_a_reader_that_makes_much_of_little(reader_rate: float) -> None:
    """References of 2 kB that stand for 256 KiB: it always has work, but no more than takes it a tenth of a second."""
    reader = Bottleneck(reader_rate)
    lane = make_lane(payload_bytes=2048, raw_bytes=256 * 1024, reader=reader, hiccup_s=0.01)
    lane.clock.run(2.0)
    busy_s, began_s = reader.busy_s, lane.clock.now_s
    waits_s = []
    for _ in range(100):
        lane.clock.run(0.05)
        waits_s.append(reader.queue_s(lane.clock.now_s))
    assert (reader.busy_s - busy_s) / (lane.clock.now_s - began_s) > 0.9
    assert max(waits_s) < 0.1 + 2 * 256 * 1024 / reader_rate


def test_a_slow_reader_does_not_make_the_link_slow() -> None:
    """After references that it had to wait for, full payloads fill the link at once."""
    reader = Bottleneck(20e6)
    lane = make_lane(reader=reader)
    lane.clock.run(2.0)
    lane.payload, lane.raw_bytes = bytes(2048), 256 * 1024
    lane.clock.run(3.0)
    assert reader.queue_s(lane.clock.now_s) < 0.15
    lane.payload, lane.raw_bytes = bytes(64 * 1024), 64 * 1024
    lane.clock.run(0.2)
    assert Stretch(lane, 2.0).busy > 0.9


@pytest.mark.parametrize("one_way_s", [0.01, 0.05])
def test_payloads_of_which_more_becomes_do_not_idle_the_link(one_way_s: float) -> None:
    """A reader that can do with four times what the link brings is not the bottleneck, with any of them."""
    lane = make_lane(one_way_s=one_way_s, reader=Bottleneck(4 * 100 * MBIT), vary=True, hiccup_s=0.01)
    lane.clock.run(2.0)
    assert Stretch(lane, 20.0).busy > 0.93


def test_a_long_pause() -> None:
    """After a minute of silence the link is busy and its queue short at once."""
    lane = make_lane(hiccup_s=0.02)
    lane.clock.run(7.0)
    lane.sends = False
    lane.clock.run(60.0)
    lane.sends = True
    lane.go_on()
    after = Stretch(lane, 3.0)
    assert after.busy > 0.95
    assert after.longest_queue_s < 0.1


def test_two_lanes_share_a_link() -> None:
    """Neither is starved, and their queues do not grow slot by slot."""
    clock, link = Clock(), Bottleneck(100 * MBIT)
    lanes = [SimulatedLane(clock, link, one_way_s=0.01, hiccup_s=0.01, seed=seed) for seed in (1, 2)]
    clock.run(30.0)
    before = [lane.consumed_bytes for lane in lanes]
    stretch = Stretch(lanes[0], 20.0)
    assert stretch.busy > 0.95
    assert stretch.queue_s < 0.15
    shares = [lane.consumed_bytes - then for lane, then in zip(lanes, before, strict=True)]
    assert min(shares) > 0.25 * sum(shares)


def test_a_busy_machine_keeps_its_link_busy() -> None:
    """Event loops that stutter for up to 100 ms are no reason to send less and less."""
    lane = make_lane(hiccup_s=0.1)
    lane.clock.run(6.0)
    assert Stretch(lane, 20.0).busy > 0.85
