"""TokenBucket: how many bytes may go now, at a rate that may change at any time. Pure; time is an argument.

Rule 1  Tokens come at `rate_bytes_per_s`, up to a burst of `burst_s` seconds' worth.
Rule 2  A taker may take when there is no debt, however much it takes: what it takes beyond the tokens becomes debt,
        and the next one waits until that is paid. So a frame larger than the burst passes, and the mean rate holds.
Rule 3  What must not wait (acks, return path, libvirt's calls) takes at once; the others pay the debt.
Rule 4  A change of the rate counts from its moment on; a debt stays the same in bytes.
"""

from __future__ import annotations

BURST_S = 0.1
MIN_BURST_BYTES = 64 * 1024


class TokenBucket:
    """`rate_bytes_per_s` None: no limit."""

    def __init__(self, rate_bytes_per_s: float | None, *, now_s: float) -> None:
        self._rate = _checked(rate_bytes_per_s)
        self._tokens = 0.0
        self._at_s = now_s

    @property
    def rate_bytes_per_s(self) -> float | None:
        """The limit in force."""
        return self._rate

    def set_rate(self, rate_bytes_per_s: float | None, now_s: float) -> None:
        """Another limit from now on; None lifts it, and any debt with it. Raises ValueError unless positive."""
        rate = _checked(rate_bytes_per_s)
        self._advance(now_s)
        if rate is None or self._rate is None:
            self._tokens = 0.0
        self._rate = rate

    def wait_s(self, now_s: float) -> float:
        """How long a taker must wait at this rate; 0.0 when it may take now."""
        self._advance(now_s)
        if self._rate is None or self._tokens >= 0:
            return 0.0
        return -self._tokens / self._rate

    def consume(self, size_bytes: int, now_s: float) -> None:
        """Take, with or without having waited."""
        self._advance(now_s)
        if self._rate is not None:
            self._tokens -= size_bytes

    def _advance(self, now_s: float) -> None:
        elapsed_s, self._at_s = max(0.0, now_s - self._at_s), max(now_s, self._at_s)
        if self._rate is not None:
            burst = max(MIN_BURST_BYTES, self._rate * BURST_S)
            self._tokens = min(burst, self._tokens + elapsed_s * self._rate)


def _checked(rate_bytes_per_s: float | None) -> float | None:
    if rate_bytes_per_s is not None and not rate_bytes_per_s > 0:
        raise ValueError(f"a rate must be positive, not {rate_bytes_per_s}")
    return rate_bytes_per_s
