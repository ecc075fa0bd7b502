"""What became of a client's connections: per connection, per kind, and what packets over UDP have shown. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from deploy.labkit.echo_probe import Seen, outage

FAMILIES = ("ipv4", "ipv6")
_SHOWN_ERRORS = 3


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
class EchoReport:
    """How packets of one family fared. `answered_again_at` is when the longest silence ended (seconds since 1970)."""

    sent: int
    answered: int
    outage_ms: float
    answered_again_at: float | None


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
            udp={family: EchoReport(**each) for family, each in raw["udp"].items()},
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
    return EchoReport(sent, seen.answered, seen.outage_ms, None if again_s is None else round(started_at + again_s, 3))


def _answered_again_s(answers: Sequence[tuple[float, int]], seen: Seen) -> float | None:
    """When the answer came that ended the longest silence; None if none came any more."""
    ends = (after for (_, last), (after, _) in pairwise(answers) if last + 1 == seen.first_gap_number)
    return next(ends, None)
