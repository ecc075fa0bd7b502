"""How long to wait before trying again. Pure: chance is an input, and nothing waits here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before attempt n+1: doubling, bounded, with up to ``jitter`` of it taken away at random."""

    min_s: float = 0.2
    max_s: float = 10.0
    jitter: float = 0.5

    def delay_s(self, failures: int, chance: float) -> float:
        """The pause after this many failures in a row (from 1). ``chance`` is uniform in [0, 1)."""
        doublings = min(max(failures, 1) - 1, 62)
        return float(min(self.max_s, self.min_s * 2**doublings)) * (1 - self.jitter * chance)
