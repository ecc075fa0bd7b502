"""Progress for a person, on a terminal and elsewhere."""

from __future__ import annotations

import io
from collections.abc import Callable
from uuid import UUID

from rich.console import Console

from shared.client.watch_view import BarView, LineView, headline, moved, percent_of, view_for
from shared.messages.queries import PortShown
from shared.messages.service_change import (
    PortAccepted,
    PortCompleted,
    PortPhase,
    PortProgressed,
    SlaRecord,
    StreamProgress,
    TransferPhase,
)

PORT = UUID(int=1)
SLA = SlaRecord(
    promised_total_s=60,
    measured_total_s=42,
    promised_downtime_ms=500,
    measured_downtime_ms=120,
    price_per_month="12.50",
    currency="EUR",
    kept=True,
)
COMPLETED = PortCompleted(port_id=PORT, recipient="beta", epoch=2, sla=SLA, memory_bytes=1, disk_bytes=2, wire_bytes=3)


def progress(percent: int, phase: TransferPhase = TransferPhase.DISK, left: int = 50) -> PortProgressed:
    return PortProgressed(
        port_id=PORT,
        phase=phase,
        percent=percent,
        memory=StreamProgress(total_bytes=2**20, processed_bytes=0, remaining_bytes=2**20),
        disk=StreamProgress(total_bytes=100, processed_bytes=100 - left, remaining_bytes=left),
        rate_bytes_per_s=2**20,
        dirty_rate_bytes_per_s=2**10,
        eta_s=5,
    )


def test_lines_say_what_changed(record: Callable[..., PortShown]) -> None:
    """Without a terminal a line comes with each phase and each tenth of the way, and no more."""
    out = io.StringIO()
    with view_for(Console(file=out, width=200)) as view:
        assert isinstance(view, LineView)
        view.show(record(PORT, PortPhase.QUOTING))
        for percent in (0, 3, 9, 10, 11, 25, 29):
            view.show(progress(percent))
        view.show(progress(29, TransferPhase.MEMORY))
        view.show(PortAccepted(port_id=PORT))
    assert out.getvalue().splitlines() == [
        "providers are asked for quotes",
        "transferring the disks (0 %, 1 MiB/s processed, 5.0 s left)",
        "transferring the disks (10 %, 1 MiB/s processed, 5.0 s left)",
        "transferring the disks (25 %, 1 MiB/s processed, 5.0 s left)",
        "transferring memory (29 %, 1 MiB/s processed, 5.0 s left)",
    ]


def test_bars_on_a_terminal() -> None:
    """A terminal gets three bars with rate, time left and rewritten memory."""
    out = io.StringIO()
    with view_for(Console(file=out, width=120, force_terminal=True)) as view:
        assert isinstance(view, BarView)
        view.show(progress(40))
    for said in (
        "transferring the disks",
        "disks",
        "memory",
        " 40%",
        "1 MiB/s processed, 5.0 s left",
        "1 KiB/s rewritten",
    ):
        assert said in out.getvalue()


def test_bars_are_full_at_the_end() -> None:
    """The last report comes before the end; a completed port still ends with full bars."""
    out = io.StringIO()
    with BarView(Console(file=out, width=120, force_terminal=True)) as view:
        view.show(progress(60))
        view.show(COMPLETED)
        assert [task.completed for task in view._bars.tasks] == [100, 100, 100]
    assert "the VM runs at beta" in out.getvalue()


def test_bars_never_run_backwards() -> None:
    """A guest that writes makes more work, which no bar shows as a step back."""
    out = io.StringIO()
    with BarView(Console(file=out, width=120, force_terminal=True)) as view:
        view.show(progress(60, left=10))
        view.show(progress(40, left=80))
        finished = [(task.description, task.completed) for task in view._bars.tasks]
    assert finished == [("all", 60), ("disks", 90), ("memory", 0)]


def test_bars_restart_after_seeding() -> None:
    """Seeding is no part of the transfer."""
    out = io.StringIO()
    with BarView(Console(file=out, width=120, force_terminal=True)) as view:
        view.show(progress(100, TransferPhase.SEEDING, left=0))
        assert view._head.plain == "seeding until the window opens"
        view.show(progress(1, left=98))
        assert [task.completed for task in view._bars.tasks] == [1, 2, 0]


def test_lines_restart_after_seeding() -> None:
    """Each tenth of the transfer is said, however far the seeding was."""
    out = io.StringIO()
    with LineView(Console(file=out, width=200)) as view:
        for told in (progress(95, TransferPhase.SEEDING), progress(1), progress(11)):
            view.show(told)
    assert [line.partition(",")[0] for line in out.getvalue().splitlines()] == [
        "seeding until the window opens (95 %",
        "transferring the disks (1 %",
        "transferring the disks (11 %",
    ]


def test_percent_of_nothing() -> None:
    """A stream that has not begun, or has more left than it began with, is at zero."""
    assert percent_of(StreamProgress()) == 0
    assert percent_of(StreamProgress(total_bytes=10, remaining_bytes=30)) == 0
    assert percent_of(StreamProgress(total_bytes=10, remaining_bytes=0)) == 100


def test_every_phase_has_words(record: Callable[..., PortShown]) -> None:
    """Whatever a port waits for is said in words, until it ends."""
    ends = {PortPhase.COMPLETED, PortPhase.FAILED, PortPhase.CANCELLED, PortPhase.REFUSED, PortPhase.PLANNED}
    for phase in PortPhase:
        assert bool(headline(record(PORT, phase))) is (phase not in ends)
    for transfer in TransferPhase:
        assert headline(progress(1, transfer))
        assert headline(record(PORT, PortPhase.TRANSFERRING, progress=progress(1, transfer))) == headline(
            progress(1, transfer)
        )


def test_the_wire_rate_stands_beside_the_processed_rate() -> None:
    """Under a bandwidth limit the processed rate may be far above it: each rate has its name."""
    out, bars = io.StringIO(), io.StringIO()
    with LineView(Console(file=out, width=200)) as view:
        view.show(progress(10), wire_bytes_per_s=2**19)
    assert out.getvalue() == ("transferring the disks (10 %, 1 MiB/s processed, 512 KiB/s on the wire, 5.0 s left)\n")
    with BarView(Console(file=bars, width=120, force_terminal=True)) as bar_view:
        bar_view.show(progress(10), wire_bytes_per_s=2**19)
    assert "1 MiB/s processed, 512 KiB/s on the wire, 5.0 s left" in bars.getvalue()


def test_percent_is_of_the_figures_beside_it() -> None:
    """Pages that need not be sent are done without being processed: both percent and figures count them."""
    memory = StreamProgress(total_bytes=513 * 2**20, processed_bytes=161 * 2**20, remaining_bytes=169 * 2**20)

    assert percent_of(memory) == 67
    assert moved(memory) == "344 MiB of 513 MiB"


def test_a_bar_that_stands_still_keeps_its_figures() -> None:
    """When a guest writes more than was sent, neither the bar nor its figures run backwards; the rate is the newest."""
    with BarView(Console(file=io.StringIO(), width=120, force_terminal=True)) as view:
        view.show(progress(60, left=10))
        view.show(progress(60, left=80).model_copy(update={"rate_bytes_per_s": 2**21}))
        everything, disks, _ = view._bars.tasks
        assert (disks.completed, disks.fields["note"]) == (90, "90 B of 100 B")
        assert everything.fields["note"] == "2 MiB/s processed, 5.0 s left"


def test_an_ended_port_has_no_progress(record: Callable[..., PortShown]) -> None:
    """The last report of a port that has ended is not shown as if it were running."""
    out = io.StringIO()
    with LineView(Console(file=out, width=200)) as view:
        view.show(record(PORT, PortPhase.CANCELLED, progress=progress(79)))
    assert out.getvalue() == ""
