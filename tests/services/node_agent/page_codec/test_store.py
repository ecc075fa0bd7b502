"""The recipient's content store in files, against a list in memory; bounds and failing disks."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import (
    CONTENT_BYTES,
    MOST_RUNS,
    Arrived,
    ContentMissingError,
    Origin,
    Pages,
)
from services.node_agent.page_codec.store import FileStore, NoStore

KEEP = 16


def pages(first: int, count: int) -> Pages:
    """Contents that say their number."""
    numbers = np.arange(first, first + count, dtype="<u4").reshape(-1, 1)
    return np.tile(numbers, (1, CONTENT_BYTES // 4)).view(np.uint8)


def numbers_of(found: Pages) -> list[int]:
    assert found.shape[1:] == (CONTENT_BYTES,)
    words = found.view("<u4")
    assert (words == words[:, :1]).all()
    return [int(number) for number in words[:, 0]]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([Origin.MEMORY, Origin.DISK]), st.integers(0, 3 * KEEP)), max_size=12), st.data()
)
def test_holds_the_newest_of_each_origin(
    tmp_path_factory: pytest.TempPathFactory, appended: list[tuple[Origin, int]], data: st.DataObject
) -> None:
    """The newest `keep` contents of each origin are there under their numbers, older and later ones are missing."""
    counts = {Origin.MEMORY: 0, Origin.DISK: 0}
    with FileStore(tmp_path_factory.mktemp("store"), keep=KEEP) as store:
        for origin, count in appended:
            store.append(origin, pages(counts[origin], count))
            counts[origin] += count
            held = range(max(0, counts[origin] - KEEP), counts[origin])
            wanted = data.draw(st.lists(st.sampled_from(held), max_size=40)) if held else []
            assert numbers_of(store.fetch(origin, np.array(wanted, dtype=np.uint32))) == wanted
            assert store.count(origin) == counts[origin]
        for origin, count in counts.items():
            for number in (count, max(0, count - KEEP) - 1):
                if number >= 0:
                    with pytest.raises(ContentMissingError) as caught:
                        store.fetch(origin, np.array([number], dtype=np.uint32))
                    assert (caught.value.origin, caught.value.number) == (origin, number)


def test_files_are_bounded_and_private(tmp_path: Path) -> None:
    """However much is appended, a file never grows past its ring; nobody else may read it."""
    with FileStore(tmp_path / "port", keep=KEEP) as store:
        for first in range(0, 10 * KEEP, 7):
            store.append(Origin.DISK, pages(first, 7))
    (file,) = (tmp_path / "port").iterdir()
    assert file.stat().st_size == KEEP * CONTENT_BYTES
    assert file.stat().st_mode & 0o077 == 0
    assert (tmp_path / "port").stat().st_mode & 0o077 == 0


def test_a_new_store_believes_nothing_of_an_old_one(tmp_path: Path) -> None:
    """What a crashed process left in the folder has no numbers."""
    with FileStore(tmp_path, keep=KEEP) as store:
        store.append(Origin.MEMORY, pages(0, 3))
    with FileStore(tmp_path, keep=KEEP) as store, pytest.raises(ContentMissingError):
        store.fetch(Origin.MEMORY, np.array([0], dtype=np.uint32))


def test_a_truncated_file_is_a_missing_content(tmp_path: Path) -> None:
    """Bytes that are gone are never replaced by others."""
    with FileStore(tmp_path, keep=KEEP) as store:
        store.append(Origin.MEMORY, pages(0, 3))
        os.truncate(tmp_path / "memory.contents", CONTENT_BYTES + 5)
        assert numbers_of(store.fetch(Origin.MEMORY, np.array([0], dtype=np.uint32))) == [0]
        with pytest.raises(ContentMissingError):
            store.fetch(Origin.MEMORY, np.array([1, 2], dtype=np.uint32))


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port fails with the reason; no number is taken."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with FileStore(tmp_path, keep=KEEP) as store:
        store.append(Origin.DISK, pages(0, 2))
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            store.append(Origin.DISK, pages(2, 2))
        assert store.count(Origin.DISK) == 2


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.randoms())
def test_contents_come_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], order: random.Random
) -> None:
    """What has come is there under its number, what has not is missing, and nothing comes twice."""
    parts = [(sum(counts[:at]), count) for at, count in enumerate(counts)]
    order.shuffle(parts)
    every = np.arange(sum(counts), dtype=np.uint32)
    with FileStore(tmp_path_factory.mktemp("store"), keep=128) as store:
        there: set[int] = set()
        for first, count in parts:
            store.insert(Origin.DISK, first, pages(first, count))
            there |= set(range(first, first + count))
            for number in every.tolist():
                if number in there:
                    assert numbers_of(store.fetch(Origin.DISK, np.array([number], dtype=np.uint32))) == [number]
                else:
                    with pytest.raises(ContentMissingError):
                        store.fetch(Origin.DISK, np.array([number], dtype=np.uint32))
            with pytest.raises(CodecError, match="came already"):
                store.insert(Origin.DISK, first + count - 1, pages(0, 1))
        assert numbers_of(store.fetch(Origin.DISK, every)) == every.tolist()
        assert store.count(Origin.DISK) == len(every)


def test_a_number_far_ahead_is_refused(tmp_path: Path) -> None:
    """It would overwrite what may still be referred to."""
    with FileStore(tmp_path, keep=KEEP) as store:
        store.insert(Origin.DISK, KEEP // 2, pages(0, 1))
        with pytest.raises(CodecError, match="too far ahead"):
            store.insert(Origin.DISK, KEEP // 2 + 2, pages(0, 1))


def test_however_many_gaps_there_are_they_can_be_filled() -> None:
    """Only one more gap is refused."""
    arrived = Arrived(most_ahead=1 << 20)
    for number in range(1, 2 * MOST_RUNS, 2):
        arrived.add(number, 1)
    with pytest.raises(CodecError, match="too far ahead"):
        arrived.add(2 * MOST_RUNS + 1, 1)
    for number in range(0, 2 * MOST_RUNS, 2):
        arrived.add(number, 1)
    assert arrived.next == arrived.end == 2 * MOST_RUNS


def test_nothing_is_held_where_nothing_may_be_stored() -> None:
    """A donor that refers to a content all the same is refused."""
    store = NoStore()
    store.append(Origin.MEMORY, pages(0, 4))
    store.insert(Origin.DISK, 0, pages(0, 4))
    assert len(store.fetch(Origin.DISK, np.empty(0, dtype=np.uint32))) == 0
    with pytest.raises(CodecError, match="nothing is stored"):
        store.fetch(Origin.DISK, np.zeros(1, dtype=np.uint32))
