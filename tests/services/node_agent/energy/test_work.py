"""Work for calibration: it ends in time, and keeps its rate."""

from __future__ import annotations

from services.node_agent.energy.work import CHUNK_BYTES, move


class Clock:
    """Each look at it takes a moment."""

    def __init__(self) -> None:
        self.now = 0.0

    def look(self) -> float:
        """A hundredth of a second later."""
        self.now += 0.01
        return self.now

    def sleep(self, seconds: float) -> None:
        """At once."""
        self.now += seconds


def test_as_fast_as_it_goes_and_at_a_rate() -> None:
    """Half of the memory is compressed away; a rate is held, but for one chunk."""
    clock = Clock()
    fast = move(1.0, None, clock=clock.look, sleep=clock.sleep)
    assert 90 * CHUNK_BYTES / 2 < fast < 101 * CHUNK_BYTES * 0.6
    rate = fast / 4
    slow = move(1.0, rate, clock=clock.look, sleep=clock.sleep)
    assert rate * 0.8 < slow < rate + CHUNK_BYTES
