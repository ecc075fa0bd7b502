"""How hard to compress, from where the time goes. Pure; the shell measures, the encoder obeys.

Three numbers per sample: seconds of processor time spent encoding, seconds blocked because the lane's window was full,
seconds without bytes from the hypervisor or without a processor. A change needs several samples in a row:

* Blocked for most of the time, with an encoder that is hardly busy: the link is the bottleneck, and a higher level buys
  bytes with time that nobody needs.
* Hardly ever blocked, with an encoder that works most of the time: it is the bottleneck itself. A lower level, in the
  end none, so that the codec is never slower than raw.
* Hardly ever blocked, with an encoder that is not idle, for long: it takes the processor from what is late (TLS, the
  relay's client, the hypervisor). A level above 1 is left, and not tried again for a while, each time for longer.

In between, and while the hypervisor has nothing, nothing changes.

Measured against level 1 (memory of a Debian guest, tests/bench/replay): wire bytes 1.33 at level -5, 0.95 at 3, 0.91
at 6, 0.90 at 9, 0.89 at 12; time 0.8, 1.05 to 1.35, 1.8, 2.2, 4.4. So the ladder ends at 6.
"""

from __future__ import annotations

from typing import Final

from services.node_agent.page_codec.batch import STORED_LEVEL

DEFAULT_LEVEL: Final = 3
"""Where a stream begins: at most a third slower than 1, and a short stream has no time to climb."""
LADDER: Final = (STORED_LEVEL, -5, 1, 3, 6)
SAMPLE_S: Final = 0.1
"""Shortest time to judge."""
LINK_SAMPLES: Final = 3
BUSY_SAMPLES: Final = 2
LATE_SAMPLES: Final = 10
"""How many samples in a row must agree."""
REFUSE_S: Final = 4.0
"""How long a level that made others late is not tried again, at first."""
_PLAIN: Final = LADDER.index(1)
"""Below it bytes are given up for speed, above it speed for bytes."""
_MOSTLY: Final = 0.5
_NOT_IDLE: Final = 0.25
_HARDLY: Final = 0.1
_BUSY_AT_MOST: Final = 0.3
"""The next level takes up to two and a half times as long; what is late then shows that it was too much."""


class Pace:
    """Chooses the level of one stream."""

    def __init__(self, *, level: int = DEFAULT_LEVEL) -> None:
        self._rung = LADDER.index(level)
        self._busy_s = self._blocked_s = self._starved_s = 0.0
        self._link_samples = self._busy_samples = self._late_samples = 0
        self._refused_s = 0.0
        self._refuse_s = REFUSE_S

    @property
    def level(self) -> int:
        """zstd's level, or STORED_LEVEL."""
        return LADDER[self._rung]

    def sample(self, *, busy_s: float, blocked_s: float, starved_s: float) -> int:
        """Add what was measured since the last call; the level from now on."""
        self._busy_s += busy_s
        self._blocked_s += blocked_s
        self._starved_s += starved_s
        total_s = self._busy_s + self._blocked_s + self._starved_s
        if total_s < SAMPLE_S:
            return self.level
        busy, blocked = self._busy_s / total_s, self._blocked_s / total_s
        self._busy_s = self._blocked_s = self._starved_s = 0.0
        self._refused_s -= total_s
        free = blocked < _HARDLY
        self._link_samples = self._link_samples + 1 if blocked > _MOSTLY and busy < _BUSY_AT_MOST else 0
        self._busy_samples = self._busy_samples + 1 if free and busy > _MOSTLY else 0
        self._late_samples = self._late_samples + 1 if free and busy > _NOT_IDLE else 0
        if self._link_samples >= LINK_SAMPLES and (self._refused_s <= 0 or self._rung < _PLAIN):
            self._go(min(self._rung + 1, len(LADDER) - 1))
        elif self._late_samples >= LATE_SAMPLES and self._rung > _PLAIN:
            self._refused_s, self._refuse_s = self._refuse_s, 2 * self._refuse_s
            self._go(self._rung - 1)
        elif self._busy_samples >= BUSY_SAMPLES:
            self._go(max(self._rung - 1, 0))
        return self.level

    def _go(self, rung: int) -> None:
        self._rung = rung
        self._link_samples = self._busy_samples = 0
