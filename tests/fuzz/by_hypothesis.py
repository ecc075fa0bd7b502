"""The engine hypothesis: seeds first, then inputs of its own and seeds that it changes, round after round until the
time is over. A finding is shrunk; an input that takes too long is one.
"""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Final, NoReturn

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

ROUND_INPUTS: Final = 2000
LONGEST_BYTES: Final = 1500


@dataclass(slots=True)
class Finding:
    """How many inputs were tried; the one with which a promise breaks, and how it breaks."""

    inputs: int = 0
    data: bytes | None = None
    trace: str = ""


class HangError(Exception):
    """An input took too long."""


def search(
    check: Callable[[bytes], None],
    seeds: Sequence[bytes],
    *,
    seconds: float,
    hang_s: int,
    most_inputs: int | None = None,
) -> Finding:
    """Until the time is over, `most_inputs` were tried, or something is found."""
    finding = Finding()
    until_s = time.monotonic() + seconds

    def attempt(data: bytes) -> None:
        finding.inputs += 1
        try:
            with _alarm(hang_s):
                check(data)
        except Exception:
            finding.data, finding.trace = data, traceback.format_exc()
            raise

    try:
        for data in seeds:
            attempt(data)
        rounds = 0
        while time.monotonic() < until_s and (most_inputs is None or finding.inputs < most_inputs):
            _round(
                attempt, seeds, number=rounds, until_s=until_s, inputs=min(ROUND_INPUTS, most_inputs or ROUND_INPUTS)
            )
            rounds += 1
    except Exception:
        if finding.data is None:
            raise  # the engine's own
    return finding


def _round(
    attempt: Callable[[bytes], None], seeds: Sequence[bytes], *, number: int, until_s: float, inputs: int
) -> None:
    @seed(number)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(_inputs(seeds))
    def one_round(data: bytes) -> None:
        if time.monotonic() < until_s:
            attempt(data)

    one_round()


def _inputs(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    places = st.lists(st.tuples(st.integers(0, 2**16), st.binary(max_size=8)), max_size=4)
    return st.binary(max_size=LONGEST_BYTES) | st.builds(_overwritten, st.sampled_from(seeds), places)


def _overwritten(data: bytes, places: list[tuple[int, bytes]]) -> bytes:
    for place, new in places:
        at = place % (len(data) + 1)
        data = data[:at] + new + data[at + len(new) :]
    return data


@contextmanager
def _alarm(hang_s: int) -> Iterator[None]:
    def ring(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise HangError(f"an input took more than {hang_s} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(hang_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
