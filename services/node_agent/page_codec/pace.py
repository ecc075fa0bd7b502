"""How hard to compress, from where the time goes. Pure; the shell measures, the encoder obeys.

Three numbers per look: seconds of processor time spent encoding, seconds blocked because the lane's window was full,
seconds without bytes from the hypervisor or without a processor. Blocked for most of the time, with an encoder that is
hardly busy, means that the link is the bottleneck: a higher level buys bytes with time that nobody needs. An encoder
that is not idle and hardly ever blocked is the bottleneck itself, or takes the processor from what is (TLS, the relay's
client): a lower level, where it is most of the work in the end none. In between, and while the hypervisor has nothing,
nothing changes. A level that was too high is not tried again for a while, each time for longer.

Measured against level 1 (memory of a Debian guest, tests/bench/replay): wire bytes 1.33 at level -5, 0.95 at 3, 0.91
at 6, 0.90 at 9, 0.89 at 12; time 0.8, 1.05 to 1.35, 1.8, 2.2, 4.4. So the ladder ends at 6.
"""

from __future__ import annotations

from typing import Final

from services.node_agent.page_codec.batch import STORED_LEVEL

DEFAULT_LEVEL: Final = 3
"""Where a stream begins: dearer than 1 by a third at most, and a short stream has no time to climb."""
LADDER: Final = (STORED_LEVEL, -5, 1, 3, 6)
LOOK_S: Final = 0.2
"""Shortest time to judge."""
_PLAIN: Final = LADDER.index(1)
"""Below it bytes are given up for speed, above it speed for bytes."""
REFUSE_S: Final = 4.0
"""How long a level that was too high is not tried again, at first."""
_MOSTLY: Final = 0.5
_NOT_IDLE: Final = 0.25
_HARDLY: Final = 0.1
_BUSY_AT_MOST: Final = 0.2
"""The next level takes up to two and a half times as long; at half of all time encoding would begin to show."""


class Pace:
    """Chooses the level of one stream."""

    def __init__(self, *, level: int = DEFAULT_LEVEL) -> None:
        self._rung = LADDER.index(level)
        self._busy_s = self._blocked_s = self._starved_s = 0.0
        self._refused_s = 0.0
        self._refuse_s = REFUSE_S

    @property
    def level(self) -> int:
        """zstd's level, or STORED_LEVEL."""
        return LADDER[self._rung]

    def look(self, *, busy_s: float, blocked_s: float, starved_s: float) -> int:
        """Add what was measured since the last call; the level from now on."""
        self._busy_s += busy_s
        self._blocked_s += blocked_s
        self._starved_s += starved_s
        total_s = self._busy_s + self._blocked_s + self._starved_s
        if total_s < LOOK_S:
            return self.level
        busy, blocked = self._busy_s / total_s, self._blocked_s / total_s
        self._busy_s = self._blocked_s = self._starved_s = 0.0
        self._refused_s -= total_s
        if blocked > _MOSTLY and busy < _BUSY_AT_MOST and (self._refused_s <= 0 or self._rung < _PLAIN):
            self._rung = min(self._rung + 1, len(LADDER) - 1)
        elif blocked < _HARDLY and busy > (_NOT_IDLE if self._rung > _PLAIN else _MOSTLY):
            if self._rung > _PLAIN:
                self._refused_s, self._refuse_s = self._refuse_s, 2 * self._refuse_s
            self._rung = max(self._rung - 1, 0)
        return self.level
