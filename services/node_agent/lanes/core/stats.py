"""LaneStats: what one lane endpoint has done so far, as a plain value.

Exporting it as metrics is the caller's work.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStats:
    """A snapshot. Counters only grow; fields that are gauges say so.

    `data_*` counts payloads once; `sent_*` and `received_*` count whole frames. *Raw* bytes are those that the
    application at the other end makes of the payloads.
    """

    at_s: float
    """Time of the snapshot on the lane's clock."""
    sent_frames: int
    sent_bytes: int
    """All frames handed to the route, headers and repetitions included."""
    resent_bytes: int
    """The part of `sent_bytes` that was sent before."""
    received_frames: int
    received_bytes: int
    dropped_frames: int
    """Numbered frames that were duplicates or came after a gap, and frames of a foreign epoch."""
    data_sent_bytes: int
    data_received_bytes: int
    raw_sent_bytes: int
    allowed_out_bytes: int
    """Gauge: part of the window that may be taken in the sending direction: about bandwidth x delay (flight.py)."""
    unconsumed_out_bytes: int
    """Gauge: part of the window that is taken in the sending direction."""
    allowed_out_raw_bytes: int
    """Gauge: about what the other application consumes while a payload comes to it, and its report back."""
    unconsumed_out_raw_bytes: int
    """Gauge: raw bytes of the payloads that it has not consumed."""
    unconsumed_in_bytes: int
    """Gauge: received, but not yet consumed by this end's application."""
    reconnects: int
    """How often the route came back after a break."""
    open_streams: int
    """Gauge."""

    @property
    def link_is_full(self) -> bool:
        """Whether at least 3/4 of the in-flight limit is used, so that bytes now leave at the link's rate."""
        return 4 * self.unconsumed_out_bytes >= 3 * self.allowed_out_bytes > 0

    @property
    def reader_is_full(self) -> bool:
        """Whether at least 3/4 of the raw limit is used, so that the other application now consumes at its own rate."""
        return 4 * self.unconsumed_out_raw_bytes >= 3 * self.allowed_out_raw_bytes > 0
