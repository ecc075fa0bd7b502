"""What a situation showed, step by step, and how two traces of one situation are compared. Pure.

A trace is kept as JSON: `situation`, the versions that it was recorded with, and for each step what both hosts showed
when nothing moved any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.simulation.calibration.situations import HOSTS

TRACES: Final = Path(__file__).with_name("traces")

NO_ANSWER: Final = "no answer"
"""The state of a VM whose libvirtd is away, or does not tell."""
ABSENT: Final = "absent"
"""libvirtd has no such VM."""


@dataclass(frozen=True, slots=True)
class Place:
    """One host after a step."""

    state: str
    """libvirt's state, `ABSENT` or `NO_ANSWER`."""
    reason: str
    """libvirt's reason for the state; empty without one."""
    persistent: bool
    vcpus: str
    """`run`, `stand`, or `none` without a process, by the CPU time that they use."""
    events: tuple[str, ...] = ()
    """Lifecycle events of this step, `EVENT DETAIL`, in their order. A libvirtd that is being started has no listeners
    yet: its events are not here."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Both hosts after a step, and the calls that ended in it: `migrate`, and what an operator asked for."""

    step: str
    places: dict[str, Place]
    calls: dict[str, str] = field(default_factory=dict)
    """`ok`, or `error` with libvirt's number."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One situation, played."""

    situation: str
    moments: tuple[Moment, ...]
    libvirt: str = ""
    qemu: str = ""

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """Read a kept one."""
        values: dict[str, Any] = json.loads(text)
        moments = tuple(
            Moment(
                each["step"],
                {host: Place(**(place | {"events": tuple(place["events"])})) for host, place in each["places"].items()},
                each["calls"],
            )
            for each in values["moments"]
        )
        return cls(values["situation"], moments, values["libvirt"], values["qemu"])

    def save(self, folder: Path) -> None:
        """Write it under its situation's name."""
        (folder / f"{self.situation}.json").write_text(self.to_json())


def kept(situation: str) -> Trace:
    """The trace in the repository. Raises OSError where there is none."""
    return Trace.from_json((TRACES / f"{situation}.json").read_text())


def differences(expected: Trace, found: Trace) -> Iterator[str]:
    """Each difference as one line, versions aside."""
    if [each.step for each in expected.moments] != [each.step for each in found.moments]:
        yield f"{expected.situation}: other steps"
        return
    for number, (wanted, got) in enumerate(zip(expected.moments, found.moments, strict=True)):
        where = f"{expected.situation}, step {number} ({wanted.step})"
        for host in HOSTS:
            before, after = asdict(wanted.places[host]), asdict(got.places[host])
            for name, value in before.items():
                if after[name] != value:
                    yield f"{where}: {host}'s {name}: {value!r} expected, {after[name]!r} found"
        if wanted.calls != got.calls:
            yield f"{where}: calls: {wanted.calls} expected, {got.calls} found"
