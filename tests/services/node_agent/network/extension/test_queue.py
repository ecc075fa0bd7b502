"""What waits is bounded in bytes and in time, and the oldest goes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.network.extension.queue import BatchQueue

batches_of_some_size = st.lists(st.binary(min_size=1, max_size=60), max_size=30)


@given(batches_of_some_size, st.integers(1, 100))
def test_it_keeps_the_newest_within_its_limit(batches: list[bytes], limit: int) -> None:
    """Never more bytes than the limit; what is kept is the end of what came; every frame is kept or counted."""
    queue = BatchQueue(limit)
    for number, batch in enumerate(batches, 1):
        queue.put(batch, number, 0.0)
        assert queue.held_bytes <= limit
    held = queue.held_bytes
    kept = queue.take(1 << 20, 1e9)
    assert (len(kept), queue.held_bytes, bool(queue)) == (held, 0, False)
    assert b"".join(batches).endswith(kept)
    gone = len(batches)
    while len(b"".join(batches[gone:])) < len(kept):
        gone -= 1
    assert queue.dropped_frames == sum(range(1, gone + 1))


@given(st.lists(st.floats(0, 10), max_size=20).map(sorted), st.floats(0, 20))
def test_nothing_old_is_given(times: list[float], now_s: float) -> None:
    """What has waited for longer than the limit is dropped and counted; the rest comes, in order."""
    queue = BatchQueue(1 << 20, limit_s=1.0)
    for number, at_s in enumerate(times):
        queue.put(bytes((number,)), 1, at_s)
    fresh = bytes(number for number, at_s in enumerate(times) if not now_s - at_s > 1.0)
    taken = queue.take(1 << 20, now_s)
    assert taken == fresh
    assert queue.dropped_frames == len(times) - len(fresh)


def test_taking_joins_small_batches_up_to_a_limit() -> None:
    """Whole batches only, at least one, in order."""
    queue = BatchQueue(100)
    for batch in (b"aa", b"bb", b"cccccc", b"d"):
        queue.put(batch, 2, 0.0)
    assert queue.take(5, 0.0) == b"aabb"
    assert queue.take(5, 0.0) == b"cccccc"
    assert queue.take(5, 0.0) == b"d"
    assert (queue.take(5, 0.0), queue.dropped_frames) == (b"", 0)
