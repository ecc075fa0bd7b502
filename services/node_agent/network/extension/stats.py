"""What an extension has carried and dropped so far, as plain values. Pure. Exporting it is the caller's work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.node_agent.network.extension.verdict import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class CardStats:
    """One card's counters. `out` is from this host to the other end, `into` from the other end to this host."""

    out_frames: int
    out_bytes: int
    into_frames: int
    into_bytes: int
    answered_frames: int
    dropped: Mapping[Reason, int]
    """Frames, in both directions."""
    activated: bool
    """Whether the gate of this end is open: at the recipient the guest has spoken, at the donor it stands still."""
    last_traffic_s: float | None
    """On the event loop's clock: the last packet between the card and another host, in either direction. ARP and the
    like do not count: an extension that carries nothing else is of no use any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionStats:
    """All cards of one port."""

    cards: Mapping[int, CardStats]
    sessions: int
    """How often the lane has begun."""
    connected: bool
    idle_s: float
    """Since `last_traffic_s` of any card, or since it was opened where there was none."""


@dataclass(slots=True)
class CardCounters:
    """What CardStats is made of."""

    out_frames: int = 0
    out_bytes: int = 0
    into_frames: int = 0
    into_bytes: int = 0
    answered_frames: int = 0
    dropped: Counter[Reason] = field(default_factory=Counter)
    last_traffic_s: float | None = None

    def sent(self, frames: int, size_bytes: int) -> None:
        """Frames left for the other end."""
        self.out_frames += frames
        self.out_bytes += size_bytes

    def received(self, size_bytes: int) -> None:
        """A frame was given to this host."""
        self.into_frames += 1
        self.into_bytes += size_bytes

    def snapshot(self, *, activated: bool) -> CardStats:
        """As they are now."""
        return CardStats(
            out_frames=self.out_frames,
            out_bytes=self.out_bytes,
            into_frames=self.into_frames,
            into_bytes=self.into_bytes,
            answered_frames=self.answered_frames,
            dropped={reason: count for reason, count in self.dropped.items() if count},
            activated=activated,
            last_traffic_s=self.last_traffic_s,
        )
