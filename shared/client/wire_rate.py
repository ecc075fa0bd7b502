"""How fast the lanes carry bytes now, from the totals that a port reports. Pure; times are those of the reports."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from shared.messages import Message
from shared.messages.service_change import PortProgressed

SMOOTHING = 0.4
"""Weight of the newest interval, as in the processed rate that the node reports beside it."""


@dataclass(slots=True)
class WireRate:
    """Bytes per second on the wire, after compression, both directions."""

    _last: tuple[datetime, int] | None = None
    _bytes_per_s: float | None = None

    def update(self, data: Message, at: datetime) -> int | None:
        """Take one event; the rate, or None before two reports can be compared."""
        if not isinstance(data, PortProgressed):
            return self._rounded()
        last, self._last = self._last, (at, data.wire_bytes)
        if last is None or data.wire_bytes < last[1]:
            self._bytes_per_s = None  # the first report of this attempt
        elif at > last[0]:
            newest = (data.wire_bytes - last[1]) / (at - last[0]).total_seconds()
            before = self._bytes_per_s
            self._bytes_per_s = newest if before is None else (1 - SMOOTHING) * before + SMOOTHING * newest
        else:
            self._last = last  # two reports of one instant cannot be compared
        return self._rounded()

    def _rounded(self) -> int | None:
        return None if self._bytes_per_s is None else round(self._bytes_per_s)
