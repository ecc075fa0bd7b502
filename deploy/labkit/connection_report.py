"""What became of a client's connections: per connection, per kind, and what packets over UDP have shown. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from deploy.labkit.echo_probe import Seen, outage

FAMILIES = ("ipv4", "ipv6")
_SHOWN_ERRORS = 3
_MOST_SILENCES = 64


@dataclass
class Connection:
    """One TCP connection. `longest_gap_s` is the longest wait for an answer, less the usual time between two."""

    kind: str
    family: str
    answers: int = 0
    longest_gap_s: float = 0.0
    kept: bool = False
    error: str = ""

    def answered(self, waited_s: float, usual_s: float) -> None:
        """Note an answer that came after this time."""
        self.answers += 1
        self.longest_gap_s = max(self.longest_gap_s, waited_s - usual_s)


@dataclass(frozen=True)
class KindReport:
    """How the connections of one kind fared."""

    opened: int
    kept: int
    answers: int
    longest_gap_ms: float
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Silence:
    """A long time without an answer, less the usual time between two. `began_at`, `ended_at`: seconds since 1970."""

    began_at: float
    ended_at: float
    outage_ms: float


@dataclass(frozen=True)
class EchoReport:
    """How packets of one family fared. `answered_again_at` is when the longest silence ended (seconds since 1970).

    `silences` are the longest ones in the order of time: a guest that is busy, or whose host is, has several in a port.
    """

    sent: int
    answered: int
    outage_ms: float
    answered_again_at: float | None
    silences: tuple[Silence, ...] = ()

    def outage_within_ms(self, began_at: float, ended_at: float) -> float:
        """The longest silence that touches a time (seconds since 1970): the switchover's, and no other one's."""
        touching = (each for each in self.silences if each.began_at <= ended_at and each.ended_at >= began_at)
        return max((each.outage_ms for each in touching), default=0.0)


@dataclass(frozen=True)
class Report:
    """All of it. A connection was kept if its first connect served to the end, with every answer right."""

    connections: int
    kept: int
    kinds: dict[str, KindReport] = field(default_factory=dict)
    udp: dict[str, EchoReport] = field(default_factory=dict)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Report":
        """What the probe printed. Raises `KeyError` or `TypeError` for something else."""
        return cls(
            connections=raw["connections"],
            kept=raw["kept"],
            kinds={
                kind: KindReport(**{**each, "errors": tuple(each["errors"])}) for kind, each in raw["kinds"].items()
            },
            udp={
                family: EchoReport(**{**each, "silences": tuple(Silence(**silence) for silence in each["silences"])})
                for family, each in raw["udp"].items()
            },
        )


def report(connections: Sequence[Connection], udp: Mapping[str, EchoReport]) -> Report:
    """Sum up; kinds stand in the order of their first connection."""
    kinds = {}
    for kind in dict.fromkeys(each.kind for each in connections):
        of_kind = [each for each in connections if each.kind == kind]
        errors = dict.fromkeys(f"{each.family}: {each.error}" for each in of_kind if not each.kept)
        kinds[kind] = KindReport(
            opened=len(of_kind),
            kept=sum(each.kept for each in of_kind),
            answers=sum(each.answers for each in of_kind),
            longest_gap_ms=round(max(each.longest_gap_s for each in of_kind) * 1000, 1),
            errors=tuple(errors)[:_SHOWN_ERRORS],
        )
    return Report(len(connections), sum(each.kept for each in connections), kinds, dict(udp))


def echo_report(
    answers: Sequence[tuple[float, int]], *, sent: int, interval_s: float, until_s: float, started_at: float
) -> EchoReport:
    """From answers (seconds since `started_at`, packet number) in the order in which they came."""
    seen = outage(answers, sent=sent, interval_s=interval_s, until_s=until_s)
    again_s = _answered_again_s(answers, seen)
    again_at = None if again_s is None else round(started_at + again_s, 3)
    silences = _silences([*(at_s for at_s, _ in answers), until_s], interval_s=interval_s, started_at=started_at)
    return EchoReport(sent, seen.answered, seen.outage_ms, again_at, silences)


def _silences(times_s: Sequence[float], *, interval_s: float, started_at: float) -> tuple[Silence, ...]:
    found = [
        Silence(
            round(started_at + before, 3), round(started_at + after, 3), round((after - before - interval_s) * 1000, 1)
        )
        for before, after in pairwise(times_s)
        if after - before > 2 * interval_s
    ]
    longest = sorted(found, key=lambda each: -each.outage_ms)[:_MOST_SILENCES]
    return tuple(sorted(longest, key=lambda each: each.began_at))


def _answered_again_s(answers: Sequence[tuple[float, int]], seen: Seen) -> float | None:
    """When the answer came that ended the longest silence; None if none came any more."""
    ends = (after for (_, last), (after, _) in pairwise(answers) if last + 1 == seen.first_gap_number)
    return next(ends, None)
