"""How far an outbound port is, for people: whole percents that never run backwards, phase, rate, ETA. Pure.

Read-only disks go ahead as files; then libvirt mirrors all other disks, then it copies memory round after round. So the
work is the sum of all, disks first.
What the guest writes meanwhile makes work grow; the percent then stays as it is, and stays below 100 until the end.
Seeding, before the window opens, has a meter of its own; the port itself then starts at zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.node_agent.hypervisor.interface import JobStats
from shared.messages.service_change import StreamProgress, TransferPhase

SMOOTHING = 0.4
"""Weight of the newest second in the rate: three seconds back count for a fifth."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One report. Bytes and bytes per second."""

    phase: TransferPhase
    percent: int
    memory: StreamProgress
    disk: StreamProgress
    rate_bytes_per_s: int
    dirty_rate_bytes_per_s: int
    eta_s: float | None
    waiting_for: str | None = None


@dataclass(slots=True)
class ProgressMeter:
    """Turns job figures into progress. `disk_bytes` and `memory_bytes` are what the VM has, before libvirt says
    more; `ahead_bytes` are its read-only disks, of which libvirt says nothing."""

    disk_bytes: int
    memory_bytes: int
    ahead_bytes: int = 0
    sent_ahead_bytes: int = 0
    """How much of the read-only disks has left."""
    _percent: int = 0
    _disk: StreamProgress = field(default_factory=StreamProgress)
    _memory: StreamProgress = field(default_factory=StreamProgress)
    _last: tuple[float, int] | None = None
    _rate: float = 0.0
    _dirty: int = 0

    def sent_ahead(self, size_bytes: int) -> None:
        """So many bytes more of read-only disks have left."""
        self.sent_ahead_bytes += size_bytes

    def ahead(self, *, now_s: float) -> Progress:
        """How far it is while read-only disks are sent."""
        self._measure(now_s)
        self._percent = max(self._percent, min(99, self._share()))
        return self._report(TransferPhase.DISK)

    def update(self, stats: JobStats, *, now_s: float, post_copy: bool = False, switchover: bool = False) -> Progress:
        """Take one reading."""
        disk_done = stats.memory_total_bytes > 0 and stats.disk_total_bytes == 0
        if stats.disk_total_bytes:
            self._disk = StreamProgress(
                total_bytes=stats.disk_total_bytes,
                processed_bytes=stats.disk_processed_bytes,
                remaining_bytes=stats.disk_remaining_bytes,
            )
        elif disk_done:
            # After the mirrors are synchronised libvirt no longer counts them.
            total = self._disk.total_bytes or self.disk_bytes
            self._disk = StreamProgress(total_bytes=total, processed_bytes=total, remaining_bytes=0)
        if stats.memory_total_bytes:
            self._memory = StreamProgress(
                total_bytes=stats.memory_total_bytes,
                processed_bytes=stats.memory_processed_bytes,
                remaining_bytes=stats.memory_remaining_bytes,
            )
        self._measure(now_s)
        self._dirty = stats.dirty_rate_bytes_per_s
        phase = self._phase(post_copy=post_copy, switchover=switchover)
        self._percent = max(self._percent, min(99, self._share()))
        return self._report(phase)

    def finish(self) -> Progress:
        """The last report: all of it."""
        self._percent = 100
        return self._report(TransferPhase.SWITCHOVER)

    def _report(self, phase: TransferPhase) -> Progress:
        remaining = self._disk_total() - self._disk_processed() + self._memory_remaining()
        eta = None if self._percent == 100 or self._rate < 1 else round(remaining / self._rate, 1)
        disk = self._disk if not self.ahead_bytes else self._with_ahead(self._disk)
        return Progress(phase, self._percent, self._memory, disk, int(self._rate), self._dirty, eta)

    def _with_ahead(self, disk: StreamProgress) -> StreamProgress:
        total = self.ahead_bytes + (disk.total_bytes or self.disk_bytes)
        done = self.sent_ahead_bytes + disk.processed_bytes
        return StreamProgress(total_bytes=total, processed_bytes=done, remaining_bytes=max(0, total - done))

    def _phase(self, *, post_copy: bool, switchover: bool) -> TransferPhase:
        if switchover:
            return TransferPhase.SWITCHOVER
        if post_copy:
            return TransferPhase.POST_COPY
        if self._memory.processed_bytes > 0 or self._disk_total() == self.ahead_bytes:
            return TransferPhase.MEMORY
        return TransferPhase.DISK

    def _measure(self, now_s: float) -> None:
        moved = self.sent_ahead_bytes + self._disk.processed_bytes + self._memory.processed_bytes
        if self._last is not None and now_s > self._last[0]:
            speed = max(0, moved - self._last[1]) / (now_s - self._last[0])
            self._rate = speed if self._rate == 0 else (1 - SMOOTHING) * self._rate + SMOOTHING * speed
        self._last = (now_s, moved)

    def _disk_total(self) -> int:
        return self.ahead_bytes + max(self._disk.total_bytes, self.disk_bytes)

    def _disk_processed(self) -> int:
        if self._disk.total_bytes and self._disk.processed_bytes >= self._disk.total_bytes:
            return self._disk_total()
        return min(self.sent_ahead_bytes + self._disk.processed_bytes, self._disk_total())

    def _memory_total(self) -> int:
        return self._memory.total_bytes or self.memory_bytes

    def _memory_remaining(self) -> int:
        return self._memory.remaining_bytes if self._memory.total_bytes else self._memory_total()

    def _share(self) -> int:
        total = self._disk_total() + self._memory_total()
        done = self._disk_processed() + self._memory_total() - min(self._memory_remaining(), self._memory_total())
        return 100 * done // total if total else 0


@dataclass(slots=True)
class SeedingMeter:
    """Turns what seeding has read into progress; the rate is of what it sends."""

    _last: tuple[float, int] | None = None
    _rate: float = 0.0

    def update(self, *, disk: StreamProgress, memory: StreamProgress, sent_bytes: int, now_s: float) -> Progress:
        """Take one reading."""
        if self._last is not None and now_s > self._last[0]:
            speed = (sent_bytes - self._last[1]) / (now_s - self._last[0])
            self._rate = (1 - SMOOTHING) * self._rate + SMOOTHING * speed
        self._last = (now_s, sent_bytes)
        total = disk.total_bytes + memory.total_bytes
        percent = 100 * (disk.processed_bytes + memory.processed_bytes) // total if total else 0
        return Progress(TransferPhase.SEEDING, percent, memory, disk, int(self._rate), 0, None)
