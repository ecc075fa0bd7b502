"""What goes for each page of a batch: nothing, a reference, a delta, or the page."""

from __future__ import annotations

from collections.abc import Callable

from services.node_agent.page_codec.codec import MAX_CHUNK_BYTES
from services.node_agent.page_codec.memory.encoder import MemoryEncoder
from tests.support.memory_pages import RAM, changed, memory, noise
from tests.support.migration_stream import StreamWriter


def test_each_technique_does_its_part(move: Callable[..., tuple[bytes, MemoryEncoder]]) -> None:
    """The same content again is a reference, a small change a delta, no change nothing."""
    first = [(RAM, number, noise(number)) for number in range(20)]
    again = [(RAM, 30, noise(3)), (RAM, 4, changed(noise(4), 8, b"news")), (RAM, 5, noise(5))]
    stream = bytes(StreamWriter().header().part(first).part(again).part([], last=True).data)
    # The rounds must not meet in one batch, or the older version would not go at all.
    out, encoder = move(stream, step=20_000, flush_every=1)
    assert memory(out) == memory(stream)
    assert {name: encoder.tally[name] for name in ("incompressible", "reference", "delta", "unchanged")} == {
        "incompressible": 20,
        "reference": 1,
        "delta": 1,
        "unchanged": 1,
    }


def test_of_two_versions_in_a_batch_only_the_newer_goes(move: Callable[..., tuple[bytes, MemoryEncoder]]) -> None:
    """A page that is rewritten while it waits is replaced."""
    rounds = [[(RAM, 7, noise(version)), (RAM, 8, b"")] for version in range(5)]
    writer = StreamWriter().header()
    for pages in rounds:
        writer.part(pages)
    stream = bytes(writer.part([], last=True).data)
    out, encoder = move(stream)
    assert memory(out) == memory(stream)
    assert encoder.tally["incompressible"] == 1
    assert encoder.tally["superseded"] == 8


def test_many_small_elements_fit_one_batch(move: Callable[..., tuple[bytes, MemoryEncoder]]) -> None:
    """Sections without a record cost no more than their bytes."""
    stream = bytes(StreamWriter().header().data) + bytes(StreamWriter().part([]).data) * 20_000
    out, _ = move(stream, step=MAX_CHUNK_BYTES)
    assert out == stream
