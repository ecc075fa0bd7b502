"""What waits is bounded, and the oldest goes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.network.extension.queue import BatchQueue


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=30), st.integers(1, 100))
def test_it_keeps_the_newest_within_its_limit(batches: list[bytes], limit: int) -> None:
    """Never more bytes than the limit; what is kept is the end of what came; every frame is kept or counted."""
    queue = BatchQueue(limit)
    dropped = 0
    for number, batch in enumerate(batches, 1):
        dropped += queue.put(batch, number)
        assert queue.held_bytes <= limit
    everything = b"".join(batches)
    held = queue.held_bytes
    kept = queue.take(1 << 20)
    assert (len(kept), queue.held_bytes, bool(queue)) == (held, 0, False)
    assert everything.endswith(kept)
    assert dropped == sum(range(1, len(batches) + 1)) - sum(
        number for number, _ in enumerate(batches, 1) if number > len(batches) - _count_of_end(batches, len(kept))
    )


def _count_of_end(batches: list[bytes], size: int) -> int:
    count = 0
    while size > 0:
        count += 1
        size -= len(batches[-count])
    return count


def test_taking_joins_small_batches_up_to_a_limit() -> None:
    """Whole batches only, at least one, in order; clearing counts the frames that are lost."""
    queue = BatchQueue(100)
    for batch in (b"aa", b"bb", b"cccccc", b"d"):
        assert queue.put(batch, 2) == 0
    assert queue.take(5) == b"aabb"
    assert queue.take(5) == b"cccccc"
    assert queue.clear() == 2
    assert queue.take(5) == b""
