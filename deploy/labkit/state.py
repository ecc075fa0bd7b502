"""The lab's record of what it made: processes with their start times, shaping, guests.

Owns the format and the file; decides nothing. A process counts as the recorded one only if pid and start time both
match, so that a reused pid is never killed.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1


@dataclass(frozen=True)
class ProcessRecord:
    """A process that the lab started. `start_time` is in clock ticks since boot (field 22 of /proc/PID/stat)."""

    pid: int
    start_time: int


@dataclass(frozen=True)
class GuestRecord:
    """What was fixed when a guest was defined; where it runs is asked of the providers."""

    name: str
    uuid: str
    mac: str
    address: str
    image: str
    workload: str
    memory_mib: int
    home: str
    vlan: int | None = None
    address6: str = ""


@dataclass
class LabState:
    """The recorded lab. Rates are None for an unshaped link; `rtt_ms` is that from provider to provider."""

    providers: tuple[str, ...] = ()
    link: str | None = None
    rtt_ms: float = 0.0
    processes: dict[str, ProcessRecord] = field(default_factory=dict)
    guests: dict[str, GuestRecord] = field(default_factory=dict)
    network: str = "joined"

    def to_json(self) -> str:
        """The state as text."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "LabState":
        """Parse; raises `ValueError` for text that is not a state of this version."""
        raw: Any = json.loads(text)
        if not isinstance(raw, dict) or raw.get("version") != VERSION:
            raise ValueError(f"not a lab state of version {VERSION}")
        try:
            return cls(
                providers=tuple(raw["providers"]),
                link=raw["link"],
                rtt_ms=float(raw["rtt_ms"]),
                processes={name: ProcessRecord(**record) for name, record in raw["processes"].items()},
                guests={name: GuestRecord(**record) for name, record in raw["guests"].items()},
                network=str(raw.get("network", "joined")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a lab state without its parts: {error}") from error


def load(path: Path) -> LabState | None:
    """The recorded state, or None where none is kept. Raises `ValueError` for a damaged file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return LabState.from_json(text)


def save(path: Path, state: LabState) -> None:
    """Replace the file at once, so that a crash leaves the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_text(state.to_json(), encoding="utf-8")
    os.replace(draft, path)
