"""Progress: whole percents that never run backwards, the right phase, an honest rate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.hypervisor.interface import JobStats
from services.node_agent.transfers.progress import ProgressMeter, SeedingMeter
from shared.messages.service_change import StreamProgress, TransferPhase

MB = 1_000_000
DISK = JobStats(disk_total_bytes=100 * MB, disk_processed_bytes=50 * MB, disk_remaining_bytes=50 * MB)
MEMORY = JobStats(
    memory_total_bytes=300 * MB, memory_processed_bytes=100 * MB, memory_remaining_bytes=150 * MB, memory_iteration=1
)


def test_disks_come_first_then_memory() -> None:
    """The phase follows what libvirt counts; disk and memory are told apart."""
    meter = ProgressMeter(disk_bytes=100 * MB, memory_bytes=300 * MB)
    first = meter.update(DISK, now_s=1.0)
    assert (first.phase, first.percent, first.disk.processed_bytes) == (TransferPhase.DISK, 12, 50 * MB)
    second = meter.update(MEMORY, now_s=2.0)
    assert (second.phase, second.percent) == (TransferPhase.MEMORY, 62)
    assert (second.disk.processed_bytes, second.disk.remaining_bytes) == (100 * MB, 0)
    assert second.rate_bytes_per_s == 150 * MB
    assert second.eta_s == 1.0


def test_switchover_and_post_copy_are_phases() -> None:
    """Who steers says which."""
    meter = ProgressMeter(disk_bytes=0, memory_bytes=300 * MB)
    assert meter.update(MEMORY, now_s=1, post_copy=True).phase == TransferPhase.POST_COPY
    assert meter.update(MEMORY, now_s=2, switchover=True).phase == TransferPhase.SWITCHOVER


def test_what_goes_ahead_is_told_by_what_was_looked_at() -> None:
    """Percent of disk and memory together; the rate is of what was sent, smoothed."""
    meter, memory = SeedingMeter(), StreamProgress(total_bytes=300, remaining_bytes=300)
    for now_s, looked, sent_bytes in ((0.0, 0, 0), (10.0, 100, 50)):
        disk = StreamProgress(total_bytes=100, processed_bytes=looked, remaining_bytes=100 - looked)
        progress = meter.update(disk=disk, memory=memory, sent_bytes=sent_bytes, now_s=now_s)
    assert (progress.phase, progress.percent, progress.rate_bytes_per_s) == (TransferPhase.SEEDING, 25, 2)
    assert (progress.disk, progress.memory, progress.eta_s) == (disk, memory, None)
    nothing = SeedingMeter().update(disk=StreamProgress(), memory=StreamProgress(), sent_bytes=0, now_s=0.0)
    assert nothing.percent == 0


def test_only_the_end_is_100_percent() -> None:
    """Nothing remaining is 99; `finish` is 100."""
    meter = ProgressMeter(disk_bytes=0, memory_bytes=300 * MB)
    done = JobStats(memory_total_bytes=300 * MB, memory_processed_bytes=300 * MB)
    assert meter.update(done, now_s=1).percent == 99
    assert meter.finish().percent == 100


@given(
    st.lists(
        st.tuples(st.integers(0, 300 * MB), st.integers(0, 400 * MB), st.integers(0, 100 * MB), st.booleans()),
        max_size=30,
    )
)
def test_percent_never_runs_backwards(readings: list[tuple[int, int, int, bool]]) -> None:
    """Whatever libvirt says, the percent stays or grows, within 0 and 99."""
    meter = ProgressMeter(disk_bytes=100 * MB, memory_bytes=300 * MB)
    last = 0
    for second, (processed, remaining, disk, memory) in enumerate(readings):
        stats = JobStats(
            memory_total_bytes=300 * MB if memory else 0,
            memory_processed_bytes=processed,
            memory_remaining_bytes=remaining,
            disk_total_bytes=0 if memory else 100 * MB,
            disk_processed_bytes=disk,
            disk_remaining_bytes=100 * MB - disk,
        )
        percent = meter.update(stats, now_s=float(second)).percent
        assert last <= percent <= 99
        last = percent


def test_read_only_disks_go_ahead_and_count() -> None:
    """Their bytes are bytes of the disks, before libvirt counts its own and after."""
    meter = ProgressMeter(disk_bytes=100 * MB, memory_bytes=300 * MB, ahead_bytes=100 * MB)
    assert meter.ahead(now_s=0.0).percent == 0
    meter.sent_ahead(50 * MB)
    first = meter.ahead(now_s=1.0)
    assert (first.phase, first.percent, first.rate_bytes_per_s) == (TransferPhase.DISK, 10, 50 * MB)
    assert (first.disk.total_bytes, first.disk.processed_bytes, first.disk.remaining_bytes) == (
        200 * MB,
        50 * MB,
        150 * MB,
    )
    meter.sent_ahead(50 * MB)
    second = meter.update(DISK, now_s=2.0)
    assert (second.percent, second.disk.total_bytes, second.disk.processed_bytes) == (30, 200 * MB, 150 * MB)
    third = meter.update(MEMORY, now_s=3.0)
    assert (third.phase, third.disk.remaining_bytes) == (TransferPhase.MEMORY, 0)


def test_a_vm_whose_only_disk_is_a_medium() -> None:
    """When it is there, memory is next."""
    meter = ProgressMeter(disk_bytes=0, memory_bytes=300 * MB, ahead_bytes=100 * MB)
    meter.sent_ahead(100 * MB)
    assert meter.ahead(now_s=1.0).percent == 25
    assert meter.update(MEMORY, now_s=2.0).percent == 62
