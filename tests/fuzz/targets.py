"""The targets by name: a check that raises when a promise is broken, and inputs to begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.fuzz import decoders, extension, lane, nbd, qemu


@dataclass(frozen=True, slots=True)
class Target:
    """What an engine needs to know."""

    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


TARGETS: Final[Mapping[str, Target]] = {
    "qemu": Target(qemu.check, qemu.seeds),
    "nbd": Target(nbd.check, nbd.seeds),
    "lane": Target(lane.check, lane.seeds),
    "decoders": Target(decoders.check, decoders.seeds),
    "extension": Target(extension.check, extension.seeds),
}
