"""From measured rounds to the two coefficients: least squares, neither below 0. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class NotFitted(Exception):
    """The rounds do not tell the coefficients."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round of work moved, how long it took, and what the host used in that time, idle use included."""

    bytes: int
    seconds: float
    joules: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """Liu's coefficients, and how far the worst round is from them, as a share of what it used above idle."""

    joules_per_byte: float
    joules_per_s: float
    worst_error: float


def fit(rounds: Sequence[Round], idle_watts: float) -> Fitted:
    """Coefficients of the energy above idle; raises `NotFitted`. Rounds must differ in bytes per second."""
    above = [(each.bytes, each.seconds, each.joules - idle_watts * each.seconds) for each in rounds]
    if len(above) < 2:
        raise NotFitted("two rounds or more are needed")
    bb = sum(b * b for b, _, _ in above)
    bs = sum(b * s for b, s, _ in above)
    ss = sum(s * s for _, s, _ in above)
    be = sum(b * e for b, _, e in above)
    se = sum(s * e for _, s, e in above)
    determinant = bb * ss - bs * bs
    if determinant <= 1e-9 * bb * ss:
        raise NotFitted("the rounds moved bytes at the same rate, so bytes and seconds cannot be told apart")
    per_byte, per_s = (be * ss - se * bs) / determinant, (bb * se - bs * be) / determinant
    if per_byte < 0:
        per_byte, per_s = 0.0, max(0.0, se / ss)
    elif per_s < 0:
        per_byte, per_s = max(0.0, be / bb), 0.0
    if per_byte == per_s == 0:
        raise NotFitted("work used no more than an idle host: the counters do not count it, or the host was busy")
    return Fitted(per_byte, per_s, _worst(above, per_byte, per_s))


def _worst(above: Sequence[tuple[int, float, float]], per_byte: float, per_s: float) -> float:
    return max(abs(per_byte * b + per_s * s - e) / max(abs(e), 1e-9) for b, s, e in above)
