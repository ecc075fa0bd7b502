"""What the frames say of one port: how long the guest was silent at its devices, and a client beside that. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.bench.network_outage_bench.frames_seen import Frame, Kind

DONOR, RECIPIENT = "alpha", "beta"
REPLIES = {"ipv4": Kind.REPLY4, "ipv6": Kind.REPLY6}
REQUESTS = {"ipv4": Kind.REQUEST4, "ipv6": Kind.REQUEST6}


@dataclass(frozen=True)
class Outage:
    """One family, in milliseconds. `outage_ms` is the client's longest wait for an answer around the switchover.

    `silent_ms` is from the guest's last reply at the donor to its first one at the recipient, at its own devices: what
    the network adds is the difference. The other times count from the last reply at the donor: when the first request
    was given to the guest's device at the recipient, when its hypervisor announced it there, and when it spoke itself.
    """

    outage_ms: float
    silent_ms: float
    asked_ms: float | None
    announced_ms: float | None
    spoke_ms: float

    @property
    def network_ms(self) -> float:
        """What the guest's silence does not explain."""
        return round(self.outage_ms - self.silent_ms, 1)


@dataclass(frozen=True)
class Measured:
    """One port. `excess_ms` is by family: the outage beyond the port's own downtime. `kept` counts a client's
    connections that lived on, of 50; None: it had none.
    """

    mode: str
    downtime_ms: float
    outages: dict[str, Outage] = field(default_factory=dict)
    kept: int | None = None

    @property
    def excess_ms(self) -> dict[str, float]:
        """By family."""
        return {family: round(each.outage_ms - self.downtime_ms, 1) for family, each in self.outages.items()}


def outage_of(family: str, frames: Sequence[Frame], answered_ns: Sequence[int], interval_ms: float) -> Outage | None:
    """From frames at guests' devices and the times of a client's answers; None where the guest never replied at one.

    An outage is the longest time between two answers that touches the time in which the guest was silent, without the
    usual time between two.
    """
    replies = [each for each in frames if each.kind is REPLIES[family] and not each.out]
    there = sorted(each.at_ns for each in replies if each.host == RECIPIENT)
    here = sorted(each.at_ns for each in replies if each.host == DONOR and (not there or each.at_ns < there[0]))
    if not there or not here:
        return None
    since_ns, first_ns = here[-1], there[0]
    gaps = [
        after - before
        for before, after in pairwise(sorted(answered_ns))
        if before < first_ns + 1_000_000_000 and after > since_ns
    ]
    if not gaps:
        return None

    def after_ms(at_ns: int | None) -> float | None:
        return None if at_ns is None else round((at_ns - since_ns) / 1e6, 1)

    arrived = [each for each in frames if each.host == RECIPIENT and each.at_ns > since_ns]
    asked = min((each.at_ns for each in arrived if each.out and each.kind is REQUESTS[family]), default=None)
    announced = min((each.at_ns for each in arrived if not each.out and each.kind is Kind.RARP), default=None)
    spoke = min(each.at_ns for each in arrived if not each.out and each.kind is not Kind.RARP)
    return Outage(
        outage_ms=round(max(gaps) / 1e6 - interval_ms, 1),
        silent_ms=round((first_ns - since_ns) / 1e6, 1),
        asked_ms=after_ms(asked),
        announced_ms=after_ms(announced),
        spoke_ms=round((spoke - since_ns) / 1e6, 1),
    )
