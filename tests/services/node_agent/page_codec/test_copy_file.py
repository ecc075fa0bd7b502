"""The file of copies: what was put is read again, and a failure is said once."""

from __future__ import annotations

import os

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from services.node_agent.page_codec.copy_file import CopyFile


def never(error: OSError) -> None:
    """No test here breaks the file."""
    raise error


def pages_of(values: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """One page per value, filled with it."""
    return np.repeat(np.array(values, dtype=np.uint8)[:, np.newaxis], 4096, axis=1)


@given(st.lists(st.dictionaries(st.integers(0, 40), st.integers(0, 255), min_size=1), max_size=6))
def test_slots_hold_what_was_put_last(rounds: list[dict[int, int]]) -> None:
    """In whatever order slots come."""
    file = CopyFile.in_memory(never)
    last: dict[int, int] = {}
    for put in rounds:
        file.write(np.array(list(put), dtype=np.int64), pages_of(list(put.values())))
        last |= put
    found = file.read(np.array(list(last), dtype=np.int64))
    assert found is not None
    assert found[:, 4095].tolist() == list(last.values())


def test_a_failure_is_said_once() -> None:
    """After it nothing is read or written."""
    said: list[OSError] = []
    file = CopyFile(os.open("/dev/full", os.O_RDWR | os.O_CLOEXEC), said.append)
    for _ in range(2):
        file.write(np.array([0, 7]), pages_of([1, 2]))
    assert len(said) == 1
    assert file.broken
    assert file.read(np.array([0])) is None
