"""What to do when a guest writes faster than its memory leaves: the ladder. Pure; the shell carries out the steps.

QEMU stops the guest when what remains fits into its downtime limit at the rate that it sees. It sees a socket of this
host, behind which most bytes turn into references: its rate may be ten times the link's, or, where all data is new,
the link's. So where the hypervisor can be told what to calculate with, it gets a fixed rate, and a limit then means so
many bytes; how many, follows from the link's rate and from the share of what QEMU sends that is new to the recipient,
or, where references are many, from the rate at which the recipient makes bytes of them again. Three things come on top
of what QEMU knows: bytes that wait in the lane, hot pages that the codec lets wait, and the commit of the switchover.
The limit leaves room for all, so that the promise to the tenant includes them. What the codec may let wait is a share
of that promise, too.

1. begin with a low limit: an idle guest then has a short downtime;
2. after `PATIENCE` rounds of memory and PATIENCE_MS without an end, raise it step by step up to what was promised;
3. at the top, if the request allows it, switch to post-copy; `always` does so when the first round is all but over: the
   rounds of an idle guest after it may all pass between two looks;
4. else, when that was of no use for LAST_PATIENCE rounds and LAST_PATIENCE_S, stop the guest and copy the rest, if the
   request allows that; else give up, so that neither guest nor link is burdened for nothing.
From the first round on QEMU slows the guest down by itself (auto-converge), if the node's settings let it.
The port's deadline is the broker's to watch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.node_agent.hypervisor.interface import JobStats
from shared.messages.service_change import PostCopy

PATIENCE = 2
"""Rounds at each rung before the next one."""
PATIENCE_MS = 500
"""Least time at each rung: late rounds are short, and a guest that can leave with a short downtime should."""
STEPS = 4
PLANNED_BYTES_PER_S = 16 << 20
"""What the hypervisor calculates with: a millisecond is then 16 KiB, and the most that QEMU takes 33 GB."""
UNSEEN_BYTES_PER_S = 10_000_000
"""The rate of a link or a recipient that was never busy."""
LEAST_BYTES_PER_S = 1 << 16
"""Of a route that is away; it comes back."""
ENOUGH_BYTES = 1 << 20
"""What must have come from the hypervisor since the first round before its share of new data is known."""
LEAST_SHARE = 1 / 16
COMMIT_RESERVE_MS = 150
"""Finish across the lane, the broker's commit, and back."""
LOWEST_MS = 20
NEVER_MS = 1
"""So short that only a guest that stands all but still gets through without post-copy."""
LAST_PATIENCE = 20
"""Rounds at the top before the last step: QEMU's throttling has then reached its end."""
LAST_PATIENCE_S = 60.0
UNLIMITED_MS = 2_000_000
"""The most that QEMU takes."""
LAST_PART = 16
"""Post-copy that is wanted always begins when this part of memory is left of the first round."""
HOLD_SHARE = 4
"""Hot pages that wait take at most this part of the promised downtime to cross the link."""


@dataclass(frozen=True, slots=True)
class SetMaxDowntime:
    """Tell the hypervisor this limit. The `last` one stops the guest for as long as the rest takes."""

    milliseconds: int
    last: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class StartPostCopy:
    """Switch to post-copy."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The guest writes too fast for what the request allows: the port fails, and the guest runs on here."""

    reason: str


Step = SetMaxDowntime | StartPostCopy | GiveUp


@dataclass(slots=True)
class ServiceRate:
    """The rate at which link or recipient serves what waits for it, which is not QEMU's: bytes shrink on the way.

    One that always had work moved as many as it can; one that ran dry shows only a lower bound.
    """

    bytes_per_s: int = UNSEEN_BYTES_PER_S
    _last: tuple[float, int, bool] | None = None
    _busy_once: bool = False

    def sample(self, *, delivered_bytes: int, full: bool, at_s: float) -> int:
        """Take one reading of what it has served so far; bytes per second."""
        last, self._last = self._last, (at_s, delivered_bytes, full)
        if last is None or at_s <= last[0]:
            return self.bytes_per_s
        seen = max(LEAST_BYTES_PER_S, int((delivered_bytes - last[1]) / (at_s - last[0])))
        if full and last[2]:
            self.bytes_per_s = (self.bytes_per_s + seen) // 2 if self._busy_once else seen
            self._busy_once = True
        else:
            self.bytes_per_s = max(self.bytes_per_s, seen)
        return self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for the link or for the recipient, and the rate at which it is served."""

    waiting_bytes: int
    bytes_per_s: int

    @property
    def wait_ms(self) -> int:
        """How long the last of it waits."""
        return 1000 * self.waiting_bytes // self.bytes_per_s


@dataclass(slots=True)
class NewDataShare:
    """How much of what the hypervisor sends of pages that were written again crosses the link.

    The first round says nothing about it: most of that is zeros, or known.
    """

    share: float = 1.0
    _first_round: tuple[int, int] | None = None

    def sample(self, iteration: int, *, taken_bytes: int, new_data_bytes: int) -> float:
        """Take one reading: bytes taken from the hypervisor so far, and bytes that went into the lane for them."""
        if iteration < 2:
            return self.share
        if self._first_round is None:
            self._first_round = taken_bytes, new_data_bytes
        taken, new_data = taken_bytes - self._first_round[0], new_data_bytes - self._first_round[1]
        if taken >= ENOUGH_BYTES:
            self.share = min(1.0, max(LEAST_SHARE, new_data / taken))
        return self.share


@dataclass(slots=True)
class Ladder:
    """One port's way up. `max_downtime_ms` is what was promised to the tenant.

    `plans_bytes`: the hypervisor calculates with PLANNED_BYTES_PER_S.
    """

    max_downtime_ms: int
    post_copy: PostCopy
    stop_and_copy: bool = False
    plans_bytes: bool = False
    _rung: int = 0
    _since_round: int = 0
    _since_ms: int = 0
    _told_ms: int | None = None
    _stops_guest: bool = False
    _over: bool = False

    def next_steps(
        self,
        stats: JobStats,
        *,
        link: Backlog,
        recipient: Backlog,
        new_data_share: float = 1.0,
        may_switch: bool = True,
    ) -> list[Step]:
        """Judge one reading. What the hypervisor will send comes on top of what waits: all of it for the recipient,
        `new_data_share` of it for the link. While not `may_switch`, the guest must not be paused: the limit is the
        least there is, and nothing climbs. A step that is not reported by `carried_out` is decided again.
        """
        if self._over or stats.memory_total_bytes == 0:
            return []
        if not may_switch:
            self._since_round, self._since_ms = stats.memory_iteration, stats.elapsed_ms
            return self._tell(NEVER_MS)
        if self._stops_guest:
            return self._tell(UNLIMITED_MS)
        if self.post_copy == "always":
            return [StartPostCopy()] if first_round_is_all_but_over(stats) else self._tell(NEVER_MS)
        rounds, waited_ms = stats.memory_iteration - self._since_round, stats.elapsed_ms - self._since_ms
        if rounds >= PATIENCE and waited_ms >= PATIENCE_MS:
            if self._rung < STEPS:
                self._rung += 1
                self._since_round, self._since_ms = stats.memory_iteration, stats.elapsed_ms
            elif self.post_copy == "if_needed":
                return [StartPostCopy()]
            elif rounds >= LAST_PATIENCE and waited_ms >= 1000 * LAST_PATIENCE_S:
                return [self._last_step(stats)]
        return self._tell(self._limit_ms(link, recipient, new_data_share))

    def hold_bytes(self, rate_bytes_per_s: int) -> int:
        """How many bytes of hot pages may wait at this rate."""
        return self.max_downtime_ms * rate_bytes_per_s // 1000 // HOLD_SHARE

    def carried_out(self, step: Step) -> None:
        """The step was done. The ladder is over with the last one: post-copy runs, stop-and-copy is set, or it gave
        up.
        """
        match step:
            case SetMaxDowntime(milliseconds, last):
                self._told_ms = milliseconds
                self._stops_guest = self._stops_guest or last
            case StartPostCopy() | GiveUp():
                self._over = True

    def _tell(self, limit_ms: int) -> list[Step]:
        """Small changes are not worth a call; a change to or from the least limit is."""
        told_ms = self._told_ms
        if told_ms is None:
            return [SetMaxDowntime(limit_ms)]
        little_ms = 0 if NEVER_MS in {limit_ms, told_ms} else max(1, told_ms // 10)
        return [] if abs(limit_ms - told_ms) <= little_ms else [SetMaxDowntime(limit_ms)]

    def _last_step(self, stats: JobStats) -> SetMaxDowntime | GiveUp:
        if self.stop_and_copy:
            return SetMaxDowntime(UNLIMITED_MS, last=True)
        return GiveUp(
            f"after {stats.memory_iteration} rounds the guest still writes {stats.dirty_rate_bytes_per_s} bytes per"
            f" second and cannot be moved with a downtime of {self.max_downtime_ms} ms: allow a longer one, post-copy,"
            " stop-and-copy or more bandwidth"
        )

    def _limit_ms(self, link: Backlog, recipient: Backlog, new_data_share: float) -> int:
        """The rung's part of the promise, less what waits already: the recipient works while the link does."""
        rung_ms = (self.max_downtime_ms - COMMIT_RESERVE_MS) * (self._rung + 1) // (STEPS + 1)
        room_ms = max(LOWEST_MS, rung_ms - max(link.wait_ms, recipient.wait_ms))
        if not self.plans_bytes:
            return room_ms
        bytes_per_s = min(link.bytes_per_s / new_data_share, recipient.bytes_per_s)
        return min(UNLIMITED_MS, max(1, int(room_ms * bytes_per_s / PLANNED_BYTES_PER_S)))


def first_round_is_all_but_over(stats: JobStats) -> bool:
    """Whether at most a small part of memory is left to be sent for the first time."""
    if stats.memory_iteration >= 2:
        return True
    return stats.memory_processed_bytes > 0 and LAST_PART * stats.memory_remaining_bytes <= stats.memory_total_bytes
