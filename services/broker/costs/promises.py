"""A provider's record of kept promises: a smoothed share, and an interval that is wide where records are few. Pure.

Laplace's rule: of a provider with `kept` of `total` promises kept, the next is kept with probability
(kept + 1) / (total + 2). One that is new counts as one half. The interval is Wilson's at 90 %.
"""

from __future__ import annotations

from fractions import Fraction
from math import sqrt
from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.messages.base import Count, Value
from shared.messages.costs import PromiseRecord

Z90 = 1.6448536269514722
"""Of the normal distribution: nine in ten lie within so many standard deviations."""


class Kept(Value):
    """How many promises were recorded, and how many of them were kept."""

    kept: Annotated[Count, Field(description="At most total.")] = 0
    total: Count = 0

    @model_validator(mode="after")
    def _no_more_than_there_were(self) -> Self:
        if self.kept > self.total:
            raise ValueError("kept must not be more than total")
        return self

    @property
    def share(self) -> Fraction:
        """The probability that the next promise is kept."""
        return Fraction(self.kept + 1, self.total + 2)

    def record(self) -> PromiseRecord:
        """With its interval."""
        low, high = wilson(self.kept, self.total)
        return PromiseRecord(kept=self.kept, total=self.total, share=float(self.share), low=low, high=high)


def wilson(kept: int, total: int, z: float = Z90) -> tuple[float, float]:
    """Wilson's interval of a share; (0, 1) where nothing is known."""
    if total == 0:
        return 0.0, 1.0
    share, square = kept / total, z * z
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = z * sqrt(share * (1 - share) / total + square / (4 * total * total)) / (1 + square / total)
    return max(0.0, middle - half), min(1.0, middle + half)
