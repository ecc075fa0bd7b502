"""Measures a move from outside: the link's counters, a UDP client of the guest, and how far each kind of data is.

Owns no system's ways; each system runs inside `measuring` and says how its progress is read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from deploy.labkit.errors import LabError
from deploy.labkit.lab import Lab
from deploy.labkit.network import LinkBytes
from deploy.labkit.port_run import echo_client
from tests.bench.wan_bench.guest import NAME

SAMPLE_EVERY_S = 1.0
ANSWERS_WITHIN_S = 20.0

Kinds = dict[str, int]
"""Bytes by kind of data since the move began, e.g. {"memory": 1000, "disk": 2000}."""


@dataclass(frozen=True)
class Sample:
    """How things stood at a moment of the move."""

    at_s: float
    wire_bytes: int
    kinds: Kinds


@dataclass
class Measurement:
    """Filled when the block of `measuring` is left; `wire` up to then, `outage_ms` None if the client saw no answer."""

    wire: LinkBytes = field(default_factory=lambda: LinkBytes(0, 0))
    total_s: float = 0.0
    outage_ms: float | None = None
    samples: list[Sample] = field(default_factory=list)


@contextmanager
def measuring(lab: Lab, donor: str, kinds: Callable[[], Kinds]) -> Iterator[Measurement]:
    """Measure what happens inside the block. `kinds` is asked once a second, from another thread."""
    taken = Measurement()
    with echo_client(lab, lab.guest(NAME).address) as finish_probe:
        time.sleep(0.5)  # the client's first answers, and the guest's address learnt
        before, began, done = lab.read_link_bytes(donor), time.monotonic(), threading.Event()

        def sample() -> None:
            while not done.wait(SAMPLE_EVERY_S):
                with suppress(LabError, OSError):  # a sample less in a picture; the row's figures do not depend on it
                    wire = lab.read_link_bytes(donor).since(before)
                    taken.samples.append(Sample(time.monotonic() - began, wire.sent + wire.received, kinds()))

        sampler = threading.Thread(target=sample, name="sampler", daemon=True)
        sampler.start()
        try:
            yield taken
        finally:
            taken.total_s = time.monotonic() - began
            taken.wire = lab.read_link_bytes(donor).since(before)
            done.set()
            sampler.join(timeout=30)
        _wait_for_answer(lab)
        seen = finish_probe()
        taken.outage_ms = seen.outage_ms if seen.answered else None


def _wait_for_answer(lab: Lab) -> None:
    """The outage ends when the client is answered again, which may be after the command's end."""
    deadline = time.monotonic() + ANSWERS_WITHIN_S
    while time.monotonic() < deadline:
        with suppress(LabError):
            lab.guest_report(NAME, timeout_s=2)
            return
