"""A port's progress for a person: bars on a terminal, a line per change elsewhere. Owns what is drawn only."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from rich.text import Text

from shared.client.port_ends import END_PHASES
from shared.client.render import human_bytes, human_seconds
from shared.messages import Message
from shared.messages.porting import PortingFixed
from shared.messages.queries import PortShown
from shared.messages.service_change import PortCompleted, PortPhase, PortProgressed, StreamProgress, TransferPhase

MEANING = {
    PortPhase.APPROVAL: "the donor checks the request",
    PortPhase.QUOTING: "providers are asked for quotes",
    PortPhase.RESERVING: "the recipient reserves capacity",
    PortPhase.SCHEDULED: "waiting for the window",
    PortPhase.PREPARING: "the recipient prepares disks and lanes",
    PortPhase.STARTING: "the donor starts the transfer",
    PortPhase.TRANSFERRING: "transferring",
    PortPhase.SWITCHING: "ownership passes to the recipient",
    PortPhase.FINISHING: "provisioning at the recipient, disconnecting at the donor",
    PortPhase.ABORTING: "removing what the port made",
    PortPhase.RESOLVING: "finding out where the VM runs",
}
TRANSFER_MEANING = {
    TransferPhase.SEEDING: "seeding until the window opens",
    TransferPhase.DISK: "transferring the disks",
    TransferPhase.MEMORY: "transferring memory",
    TransferPhase.POST_COPY: "fetching the rest of memory (post-copy)",
    TransferPhase.SWITCHOVER: "switching over",
}


class WatchView(Protocol):
    """Where a watcher's events go."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, data: Message, *, wire_bytes_per_s: int | None = None) -> None:
        """One more event, with the rate on the wire where it is known."""
        ...


def view_for(console: Console) -> WatchView:
    """Bars on a terminal, lines elsewhere."""
    return BarView(console) if console.is_terminal else LineView(console)


def headline(data: Message) -> str | None:
    """The current step in one clause; None where an event says nothing about it."""
    match data:
        case PortShown(summary=summary, progress=progress):
            if summary.phase is PortPhase.TRANSFERRING and progress:
                return TRANSFER_MEANING[progress.phase]
            return MEANING.get(summary.phase)
        case PortingFixed(agreement=agreement):
            return f"fixed: from {agreement.donor} to {agreement.recipient}"
        case PortProgressed(phase=phase):
            return TRANSFER_MEANING[phase]
        case _:
            return None


def speed(progress: PortProgressed, wire_bytes_per_s: int | None = None) -> str:
    """``12 MiB/s processed, 0.9 MiB/s on the wire, 3 min 05 s left``. A bandwidth limit bounds the wire's."""
    clauses = [f"{human_bytes(progress.rate_bytes_per_s)}/s processed"]
    if wire_bytes_per_s is not None:
        clauses.append(f"{human_bytes(wire_bytes_per_s)}/s on the wire")
    if progress.eta_s is not None:
        clauses.append(f"{human_seconds(progress.eta_s)} left")
    return ", ".join(clauses)


def done_bytes(stream: StreamProgress) -> int:
    """How much need not be sent any more. What was sent twice, or was never to be sent, counts once."""
    return max(0, stream.total_bytes - stream.remaining_bytes)


def moved(stream: StreamProgress) -> str:
    """``1.2 GiB of 2 GiB``; `percent_of` is of the same figures."""
    return f"{human_bytes(done_bytes(stream))} of {human_bytes(stream.total_bytes)}" if stream.total_bytes else ""


def percent_of(stream: StreamProgress) -> int:
    """Whole percents of one kind of data, rounded down."""
    return min(100, done_bytes(stream) * 100 // stream.total_bytes) if stream.total_bytes else 0


def _progress_of(data: Message) -> PortProgressed | None:
    match data:
        case PortProgressed():
            return data
        case PortShown(progress=progress, summary=summary) if summary.phase not in END_PHASES:
            return progress
        case _:
            return None


class BarView:
    """Three bars that stay in place: all, disks, memory."""

    def __init__(self, console: Console) -> None:
        self._head = Text("waiting for the first report")
        self._bars = Progress(
            TextColumn("{task.description:<7}"),
            BarColumn(bar_width=40),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            auto_refresh=False,
        )
        self._all = self._bars.add_task("all", total=100, note="")
        self._disk = self._bars.add_task("disks", total=100, note="")
        self._memory = self._bars.add_task("memory", total=100, note="")
        self._live = Live(Group(self._head, self._bars), console=console, refresh_per_second=4)
        self._highest: dict[TaskID, tuple[int, str]] = {}
        self._seeding = False

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, data: Message, *, wire_bytes_per_s: int | None = None) -> None:
        if (text := headline(data)) is not None:
            self._head.plain = text
        if isinstance(data, PortCompleted):
            self._head.plain = f"the VM runs at {data.recipient}"
            self._advance(self._all, 100)
            self._advance(self._disk, 100, human_bytes(data.disk_bytes))
            self._advance(self._memory, 100, human_bytes(data.memory_bytes))
        elif (progress := _progress_of(data)) is not None:
            self._restart_after_seeding(progress)
            self._advance(self._all, progress.percent, live=speed(progress, wire_bytes_per_s))
            self._advance(self._disk, percent_of(progress.disk), moved(progress.disk))
            dirty = progress.dirty_rate_bytes_per_s
            rewritten = f", {human_bytes(dirty)}/s rewritten" if dirty else ""
            self._advance(self._memory, percent_of(progress.memory), moved(progress.memory), live=rewritten)

    def _restart_after_seeding(self, progress: PortProgressed) -> None:
        """Seeding is no part of the transfer, whose bars start at zero."""
        seeding = progress.phase is TransferPhase.SEEDING
        if self._seeding and not seeding:
            self._highest.clear()
        self._seeding = seeding

    def _advance(self, task: TaskID, percent: int, figures: str = "", *, live: str = "") -> None:
        """A bar never runs backwards, although a guest that writes makes more work; its figures stay with it."""
        highest = self._highest.get(task)
        if highest is None or percent >= highest[0]:
            self._highest[task] = highest = (percent, figures)
        self._bars.update(task, completed=highest[0], note=highest[1] + live)


class LineView:
    """A line when the phase changes and at each 10 %, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: str | None = None
        self._tenth = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, data: Message, *, wire_bytes_per_s: int | None = None) -> None:
        text, progress = headline(data), _progress_of(data)
        changed = text is not None and text != self._said
        if changed and self._said == TRANSFER_MEANING[TransferPhase.SEEDING]:
            self._tenth = -1
        tenth = progress.percent // 10 if progress else self._tenth
        if changed or tenth > self._tenth:
            self._said, self._tenth = text or self._said, max(tenth, self._tenth)
            rest = f" ({progress.percent} %, {speed(progress, wire_bytes_per_s)})" if progress else ""
            self._console.print(f"{self._said or 'under way'}{rest}", highlight=False, soft_wrap=True)
