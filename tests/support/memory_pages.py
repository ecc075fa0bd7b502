"""Pages, guests and batches of memory streams, for tests."""

from __future__ import annotations

import random

import hypothesis.strategies as st

from services.node_agent.page_codec.batch import BatchPacker, Column
from services.node_agent.page_codec.contents import KEY_BYTES
from services.node_agent.page_codec.memory.format import MemoryColumn
from tests.support.migration_stream import BLOCKS, GuestMemory, StreamWriter

PAGE = 4096


RAM = b"pc.ram"


KEY = bytes(range(KEY_BYTES))


def memory(stream: bytes) -> str:
    """The digest of the guest after this stream."""
    guest = GuestMemory()
    guest.feed(stream)
    return guest.digest()


def pages(stream: bytes) -> str:
    """The digest of the guest's pages after this stream."""
    guest = GuestMemory()
    guest.feed(stream)
    return guest.pages_digest()


def text(seed: int) -> bytes:
    """A page that compresses."""
    return (f"line {seed} of a text that compresses well\n".encode() * 200)[:PAGE]


def noise(seed: int) -> bytes:
    """A page that does not."""
    return random.Random(seed).randbytes(PAGE)  # noqa: S311  # the same bytes in every run


def changed(page: bytes, at: int, value: bytes) -> bytes:
    """The page with a few other bytes."""
    return page[:at] + value + page[at + len(value) :]


@st.composite
def migrations(draw: st.DrawFn) -> bytes:
    """Rounds in which pages are rewritten, swapped, zeroed and repeated."""
    contents = [b"", text(1), text(2), noise(1), noise(2), changed(text(1), 100, b"XY"), changed(noise(1), 4000, b"Z")]
    writer = StreamWriter().header()
    block = st.sampled_from(sorted(BLOCKS))
    for _ in range(draw(st.integers(1, 5))):
        pages = []
        for name in draw(st.lists(block, max_size=4)):
            for number in draw(st.lists(st.integers(0, BLOCKS[name] - 1), max_size=12)):
                pages.append((name, number, contents[draw(st.integers(0, len(contents) - 1))]))  # noqa: PERF401  # draws
        writer.part(pages)
    writer.part([], last=True).device_state(b"device" * 100)
    return bytes(writer.data)


def batch(**columns: bytes) -> bytes:
    """A payload with these columns, the others empty."""
    given_columns = {MemoryColumn[name.upper()]: data for name, data in columns.items()}
    return BatchPacker().pack([Column(given_columns.get(column, b"")) for column in MemoryColumn])


def u32(*values: int) -> bytes:
    """Little-endian."""
    return b"".join(value.to_bytes(4, "little") for value in values)
