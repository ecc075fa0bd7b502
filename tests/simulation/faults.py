"""A schedule: what goes wrong, where, when, for how long, and how the network is; drawn from a seed. Pure.

The stages are those of one port; half of all faults fall between the last round of the memory and the disconnection,
where it is decided who runs the guest. Both tiers of the simulation read the same plan.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any


class Stage(StrEnum):
    """How far the port is, as an observer of everything sees it."""

    REQUEST = "request"
    PREPARE = "prepare"
    MEMORY = "memory"
    PAUSED = "paused"
    ASKED = "asked"
    COMMITTED = "committed"
    POST_COPY = "post_copy"
    """Of ports with post-copy only: the guest stands at the donor, and its memory follows it."""
    ARRIVED = "arrived"
    FINISHING = "finishing"


STAGES = tuple(Stage)
_EVERY_PORT = tuple(stage for stage in STAGES if stage is not Stage.POST_COPY)
DECISIVE = _EVERY_PORT[_EVERY_PORT.index(Stage.PAUSED) :]

PROCESSES = ("broker", "donor", "recipient", "alpha", "beta")
HOSTS = ("alpha", "beta")
PARTIES: dict[str, tuple[str, ...]] = {
    "crash": PROCESSES,
    "partition": PROCESSES,
    "bus": ("rabbitmq",),
    "lanes": ("lanes",),
    "disk_full": HOSTS,
    "skew": PROCESSES,
    "libvirtd": HOSTS,
    "qemu": HOSTS,
    "reboot": HOSTS,
    "power_off": ("guest",),
    "suspend": HOSTS,
    "start": HOSTS,
    "destroy": HOSTS,
    "cancel": ("tenant",),
}
"""Kinds of faults, and whom each may befall. `start`, `suspend` and `destroy` are an operator's virsh."""

SERVICES_ONLY = frozenset({"skew"})
"""What the core tier has no use for: its clock is an argument. Its schedules begin when the window opens."""

_WEIGHTS = {"crash": 8, "libvirtd": 4, "reboot": 5, "partition": 2, "disk_full": 4}
POST_COPY_SHARE = 0.2
_SKEW_S = 600.0
_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong: `after` steps of the stage, for `for_s` seconds."""

    kind: str
    party: str
    stage: Stage
    after: int = 0
    for_s: float = 1.0

    @property
    def cell(self) -> tuple[str, str, str]:
        """What coverage counts."""
        return (self.stage, self.kind, self.party)


@dataclass(frozen=True, slots=True)
class Plan:
    """One schedule."""

    seed: int
    faults: tuple[Fault, ...] = ()
    delay_s: float = 0.0
    lose: float = 0.0
    doubt: float = 0.0
    double: float = 0.0
    autostart: bool = False
    post_copy: bool = False
    """The guest writes so much that its memory moves after it, as the request allows; in the core tier."""

    def without(self, number: int) -> Plan:
        """The same without one fault."""
        return replace(self, faults=self.faults[:number] + self.faults[number + 1 :])

    def to_json(self) -> dict[str, Any]:
        """For reports."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Plan:
        """Read a report's plan again."""
        faults = tuple(Fault(**(fault | {"stage": Stage(fault["stage"])})) for fault in values["faults"])
        return cls(**(values | {"faults": faults}))


def draw(seed: int) -> Plan:
    """The schedule of a seed."""
    chance = random.Random(f"plan {seed}")  # noqa: S311  # a schedule, no secret
    count = chance.choices((0, 1, 2, 3, 4), weights=(1, 8, 6, 3, 2))[0]
    rough = chance.random() < 0.3
    return Plan(
        seed=seed,
        faults=tuple(_fault(chance) for _ in range(count)),
        delay_s=chance.choice((0.0, 0.0, 0.05, 0.5)),
        lose=chance.choice((0.05, 0.2)) if rough else 0.0,
        doubt=chance.choice((0.0, 0.05)) if rough else 0.0,
        double=chance.choice((0.0, 0.3)) if rough else 0.0,
        autostart=chance.random() < 0.5,
    )


def draw_core(seed: int) -> Plan:
    """The schedule of a seed in the core tier: a share of them with post-copy, where half of the faults meet it."""
    plan = draw(seed)
    chance = random.Random(f"post-copy {seed}")  # noqa: S311  # a schedule, no secret
    if chance.random() >= POST_COPY_SHARE:
        return plan
    faults = (
        replace(fault, stage=Stage.POST_COPY, after=chance.randrange(24)) if chance.random() < 0.5 else fault
        for fault in plan.faults
    )
    return replace(plan, faults=tuple(faults), post_copy=True)


def aimed(seed: int, tier: str) -> Plan:
    """The schedule of a seed in a tier whose schedules take long: each seed aims its first fault at another cell.

    So a run of as many schedules as there are cells tries each of them. Some stages are short, and other faults keep a
    port from reaching its stage: every fourth such run has nothing but the aimed fault, as soon as the stage begins.
    """
    plan = draw(seed)
    targets = sorted(cells(tier))
    stage, kind, party = targets[seed % len(targets)]
    chance = random.Random(f"aim {seed}")  # noqa: S311  # a schedule, no secret
    fault = Fault(
        kind, party, Stage(stage), after=chance.choice((0, 0, 0, 1, 2, 4, 7)), for_s=_duration_s(chance, kind)
    )
    if seed // len(targets) % _ROUNDS == 1:
        return Plan(seed, faults=(replace(fault, after=0),), autostart=plan.autostart)
    return replace(plan, faults=(fault, *plan.faults[1:]))


def _duration_s(chance: random.Random, kind: str) -> float:
    return chance.choice((-_SKEW_S, _SKEW_S)) if kind == "skew" else chance.choice((0.3, 1.0, 5.0, 30.0, 120.0))


def _fault(chance: random.Random) -> Fault:
    kinds = list(PARTIES)
    kind = chance.choices(kinds, weights=[_WEIGHTS.get(each, 1) for each in kinds])[0]
    is_decisive = chance.random() < 0.5
    stage = chance.choice(DECISIVE if is_decisive else _EVERY_PORT)
    return Fault(
        kind=kind,
        party=chance.choice(PARTIES[kind]),
        stage=Stage.REQUEST if kind == "skew" else stage,
        after=chance.randrange(24) if is_decisive else chance.choice((0, 0, 1, 2, 3, 5, 8, 13)),
        for_s=_duration_s(chance, kind),
    )


def cells(tier: str) -> frozenset[tuple[str, str, str]]:
    """All (stage, kind, party) that a schedule of a tier can reach."""
    if tier == "services":
        return frozenset(cell for cell in _cells() if cell[0] != Stage.POST_COPY)
    return frozenset(cell for cell in _cells() if cell[1] not in SERVICES_ONLY and cell[0] != Stage.REQUEST)


def _cells() -> Iterator[tuple[str, str, str]]:
    for kind, parties in PARTIES.items():
        for party in parties:
            for stage in (Stage.REQUEST,) if kind == "skew" else STAGES:
                yield (str(stage), kind, party)


def simpler(plan: Plan) -> Iterator[Plan]:
    """Plans that are simpler than this one, simplest first: to shrink a failure."""
    for number in range(len(plan.faults)):
        yield plan.without(number)
    calm = replace(plan, delay_s=0.0, lose=0.0, doubt=0.0, double=0.0)
    if calm != plan:
        yield calm
    if plan.autostart:
        yield replace(plan, autostart=False)
    if plan.post_copy:
        yield replace(plan, post_copy=False)
    for number, fault in enumerate(plan.faults):
        if fault.after:
            earlier = replace(fault, after=0)
            yield replace(plan, faults=(*plan.faults[:number], earlier, *plan.faults[number + 1 :]))
