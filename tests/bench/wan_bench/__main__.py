"""`tests/bench/wan`: plans the runs, measures one after the other, and writes results after each."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from deploy.labkit.errors import LabError
from deploy.labkit.lab import Lab, LabOptions
from deploy.labkit.network import link_bytes_per_s
from deploy.labkit.processes import run
from tests.bench.wan_bench import guest, report, stock, vmport_run
from tests.bench.wan_bench.options import Options, parse
from tests.bench.wan_bench.rows import Row, label_without, read_rows, write_json, write_rows
from tests.bench.wan_bench.stock import Moved
from tests.bench.wan_bench.variants import TECHNIQUES, Knows, System, Variant, absent, overrides
from tests.bench.wan_bench.vmport_run import NodeAgents

RECIPIENT = {"alpha": "beta", "beta": "alpha"}


@dataclass(frozen=True)
class Step:
    """One run to make."""

    variant: Variant
    workload: str
    run: int
    without: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """As `Row.label`."""
        return label_without(self.variant.label, self.without)

    def key(self) -> tuple[object, ...]:
        """What tells a run apart from every other of the same call."""
        return self.variant.system, self.variant.name, self.workload, self.run, self.without


@dataclass
class Results:
    """What is in the folder, kept in step with it."""

    folder: Path
    conditions: dict[str, Any]
    absent: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    timelines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, row: Row, moved: Moved) -> None:
        """Keep a row and its samples at once."""
        self.rows.append(row)
        name = f"{row.workload} {row.label} run {row.run}"
        self.timelines[name] = [asdict(sample) for sample in moved.measured.samples]
        self.save()

    def unended(self, step: Step) -> bool:
        """Whether this move was made before and did not end in its time."""
        return any(
            (row.workload, row.label) == (step.workload, step.label) for row in self.rows if row.outcome == "timeout"
        )

    def save(self) -> None:
        """Write all files but the plots."""
        write_rows(self.folder / "results.json", self.rows)
        write_json(self.folder / "timelines.json", self.timelines)
        write_json(self.folder / "conditions.json", {**self.conditions, "absent": self.absent})
        shown = ", ".join(
            f"{key} {value}" for key, value in self.conditions.items() if isinstance(value, str | int | float)
        )
        text = report.document(self.rows, self.absent, f"Conditions: {shown}.")
        (self.folder / "summary.md").write_text(text, encoding="utf-8")


def steps(options: Options) -> list[Step]:
    """Every run, interleaved: all variants once, in an order that turns with each round. Pure."""
    measured = [variant for variant in options.variants if absent(variant) is None]
    kinds: list[tuple[Variant, tuple[str, ...]]] = []
    for variant in measured:
        ours = variant.system is System.VMPORT
        kinds.append((variant, options.without if ours else ()))
        if ours and options.ablation:
            kinds += [(variant, (*options.without, name)) for name in TECHNIQUES if name not in options.without]
    found = []
    for number in range(1, options.runs + 1):
        turn = (number - 1) % max(1, len(kinds))
        for workload in options.workloads:
            found += [Step(variant, workload, number, less) for variant, less in (*kinds[turn:], *kinds[:turn])]
    return found


def open_results(options: Options) -> Results:
    """The folder's results, with what earlier calls measured. Raises `ValueError` if that was something else."""
    options.out.mkdir(parents=True, exist_ok=True)
    missing = {variant.label: reason for variant in options.variants if (reason := absent(variant)) is not None}
    results = Results(options.out, options.conditions(), missing, read_rows(options.out / "results.json"))
    before = options.out / "conditions.json"
    if results.rows and before.exists():
        kept = json.loads(before.read_text("utf-8"))
        changed = [key for key, value in results.conditions.items() if kept.get(key) != value]
        if changed:
            raise ValueError(f"{options.out} holds results for another {', '.join(changed)}: choose another --out")
        results.conditions |= {key: value for key, value in kept.items() if key not in {"absent", *results.conditions}}
    if (options.out / "timelines.json").exists():
        results.timelines = json.loads((options.out / "timelines.json").read_text("utf-8"))
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 if every row counts."""
    options = parse(sys.argv[1:] if argv is None else argv)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _end)  # so that the lab is taken down
    try:
        results = open_results(options)
    except ValueError as error:
        say(f"wan: {error}")
        return 2
    for label, reason in results.absent.items():
        say(f"absent: {label}: {reason}")
    have = {(row.system, row.variant, row.workload, row.run, row.without) for row in results.rows}
    todo = [step for step in steps(options) if step.key() not in have]
    say(f"{len(todo)} runs to make, {len(results.rows)} rows kept")
    code = 0
    try:
        if todo:
            _measure_all(options, results, todo)
    except LabError as error:
        say(f"wan: {error}")
        code = 1
    results.save()
    if results.rows:
        from tests.bench.wan_bench.plots import draw_all  # noqa: PLC0415  # slow to import, and not needed to measure

        draw_all(results.folder, results.rows, results.timelines)
    say((results.folder / "summary.md").read_text("utf-8"))
    return code or (1 if report.faults(results.rows) or not results.rows else 0)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _measure_all(options: Options, results: Results, todo: list[Step]) -> None:
    with _lab(options) as lab:
        results.conditions |= _versions()
        agents = NodeAgents(lab)
        for number, step in enumerate(todo, start=1):
            say(f"[{number}/{len(todo)}] {step.workload} {step.label} run {step.run}")
            if options.unended_once and results.unended(step):
                say("    not repeated: it did not end before")
                continue
            row, moved = _measure(lab, agents, options, step)
            results.add(row, moved)
            say(f"    {_line(row)}")


def _line(row: Row) -> str:
    """A row for the person who waits."""
    faults = "; ".join(row.faults())
    times = f"{row.total_s:.1f} s, downtime {row.downtime_ms} ms, outage {row.outage_ms} ms"
    gates = f"{row.mismatches} mismatches, disk identical {row.disk_identical}"
    return f"{row.outcome}: {row.wire_bytes / 1e6:.1f} MB, {times}, {gates}" + f"; DOES NOT COUNT: {faults}" * bool(
        faults
    )


@contextmanager
def _lab(options: Options) -> Iterator[Lab]:
    lab = Lab(options.lab)
    lab.down()
    try:
        lab.up(LabOptions(link=options.link, rtt=options.rtt))
        say("building the Debian guest, once")
        lab.guest_build(debian=True)
        yield lab
    finally:
        if not options.keep_lab:
            lab.down()


def _measure(lab: Lab, agents: NodeAgents, options: Options, step: Step) -> tuple[Row, Moved]:
    pages_s = guest.writer_pages_per_s(link_bytes_per_s(options.link))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    if step.variant.system is System.VMPORT:
        if step.variant.knows is Knows.BASE_IMAGE:
            guest.publish_base_image(lab, options.guest)
        chosen = overrides(step.variant, step.without, base_image_dir=guest.BASE_IMAGE_DIR)
        agents.run_with(dict.fromkeys(lab.plan.providers, chosen))
    with guest.running(lab, options.guest, step.workload, pages_s=pages_s, settle_s=options.settle_s):
        if step.variant.knows is Knows.EARLIER_PORT:
            _stay(lab, options, step)
        before = guest.describe(lab, step.workload)
        moved = _move(lab, options, step, before)
        verdict = guest.examine(lab, before, step.workload, moved=moved.outcome == "completed")
    row = Row(
        system=step.variant.system,
        variant=step.variant.name,
        workload=step.workload,
        run=step.run,
        outcome=moved.outcome,
        wire_bytes=moved.measured.wire.sent + moved.measured.wire.received,
        total_s=round(moved.measured.total_s, 2),
        downtime_ms=moved.downtime_ms,
        outage_ms=moved.measured.outage_ms,
        mismatches=verdict.mismatches,
        disk_identical=verdict.disk_identical,
        disk_check=verdict.disk_check,
        without=step.without,
        wire_bytes_sent=moved.measured.wire.sent,
        wire_bytes_received=moved.measured.wire.received,
        memory_bytes=moved.memory_bytes,
        disk_bytes=moved.disk_bytes,
        techniques=moved.techniques or {},
        peak_memory_mib=moved.peak_memory_mib or {},
        detail="; ".join(text for text in (moved.detail, verdict.detail) if text),
        started_at=started,
    )
    return row, moved


def _stay(lab: Lab, options: Options, step: Step) -> None:
    """Port the guest away, and let it work there for the time after which it is to come back."""
    before = guest.describe(lab, step.workload)
    there = _move(lab, options, step, before)
    if there.outcome != "completed":
        raise LabError(
            f"the port that {step.variant.label} is to come back from ended as {there.outcome}: {there.detail}"
        )
    guest.thaw(lab)
    time.sleep(options.back_after_s)


def _move(lab: Lab, options: Options, step: Step, before: guest.Before) -> Moved:
    to, timeout_s, limit = RECIPIENT[before.provider], options.timeout_s, options.max_downtime_ms
    if step.variant.system is System.STOCK:
        return stock.migrate(lab, step.variant, before, to, timeout_s=timeout_s, max_downtime_ms=limit)
    route = step.variant.route
    return vmport_run.port(lab, before.provider, to, route=route, timeout_s=timeout_s, max_downtime_ms=limit)


def _versions() -> dict[str, str]:
    qemu = run(["qemu-system-x86_64", "--version"]).splitlines()[0]
    return {"qemu": qemu, "libvirt": run(["virsh", "--version"]).strip()}


def say(text: str) -> None:
    """A line for the person who waits."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
