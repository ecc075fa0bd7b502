"""Tables of the results as text: medians against stock plain and the best stock, faults, and the ablation. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tests.bench.wan_bench.rows import Row, Summary, best_stock, ratio, summaries

_NOTHING = "-"


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned so that it reads well as it is."""
    body = [list(line) for line in lines]
    widths = [max(len(line[i]) for line in [list(header), *body]) for i in range(len(header))]

    def row(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        return "| " + " | ".join([first, *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]) + " |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([row(header), rule, *(row(line) for line in body)])


def comparison(rows: Sequence[Row]) -> str:
    """One table per workload: medians, and vmport's as shares of stock's."""
    found = summaries(rows)
    parts = []
    for workload in dict.fromkeys(summary.workload for summary in found):
        these = [summary for summary in found if summary.workload == workload]
        plain = next((summary for summary in these if summary.label == "stock/plain"), None)
        lines = [
            (
                summary.label,
                _runs(summary),
                ">" * (summary.ended < summary.runs) + f"{summary.wire_bytes / 1e6:.1f}",
                _figure(summary.total_s, ".1f"),
                _figure(summary.downtime_ms, ".0f"),
                _figure(summary.outage_ms, ".0f"),
                *_shares(summary, plain, found),
            )
            for summary in these
        ]
        header = ("VARIANT", "RUNS", "WIRE MB", "TOTAL s", "DOWNTIME ms", "OUTAGE ms")
        shares = ("BYTES/PLAIN", "TIME/PLAIN", "OUTAGE/PLAIN", "BYTES/BEST", "TIME/BEST", "OUTAGE/BEST")
        parts.append(f"### {workload}\n\n{markdown((*header, *shares), lines)}")
    return "\n\n".join(parts) or "No run gave figures that may be used."


def _runs(summary: Summary) -> str:
    return str(summary.runs) if summary.ended == summary.runs else f"{summary.ended} of {summary.runs} ended"


def _shares(summary: Summary, plain: Summary | None, found: Sequence[Summary]) -> list[str]:
    if summary.label.startswith("stock/"):
        return [_NOTHING] * 6
    figures = ("wire_bytes", "total_s", "outage_ms")
    against_plain = [ratio(summary, plain, figure) for figure in figures]
    against_best = [ratio(summary, best_stock(found, summary.workload, figure), figure) for figure in figures]
    return [_figure(share, ".2f") for share in (*against_plain, *against_best)]


def _figure(value: float | None, shape: str) -> str:
    return _NOTHING if value is None else format(value, shape)


def ablation(rows: Sequence[Row]) -> str:
    """What each technique is worth: the same variant and workload with it and without it. Empty without such rows."""
    found = {(summary.workload, summary.label): summary for summary in summaries(rows)}
    lines = []
    for row in {(row.workload, row.label): row for row in rows if row.without}.values():
        less = found.get((row.workload, row.label))
        whole = found.get((row.workload, f"{row.system}/{row.variant}"))
        if less is None or whole is None:
            continue
        more_bytes = (less.wire_bytes - whole.wire_bytes) / 1e6
        ratios = [ratio(less, whole, figure) for figure in ("wire_bytes", "total_s", "outage_ms")]
        shares = [_figure(share, ".2f") for share in ratios]
        lines.append(
            (row.workload, f"{row.system}/{row.variant}", ", ".join(row.without), f"{more_bytes:+.1f}", *shares)
        )
    header = ("WORKLOAD", "VARIANT", "WITHOUT", "MORE WIRE MB", "BYTES x", "TIME x", "OUTAGE x")
    return markdown(header, lines) if lines else ""


def memory(rows: Sequence[Row]) -> str:
    """The most memory that node agents had resident, over all runs of a variant. Empty without such rows."""
    peaks: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row.peak_memory_mib:
            most = peaks.setdefault((row.workload, row.label), {})
            for side, mib in row.peak_memory_mib.items():
                most[side] = max(most.get(side, 0), mib)
    lines = [
        (workload, label, *(_figure(most.get(side), ".0f") for side in ("donor", "recipient")))
        for (workload, label), most in peaks.items()
    ]
    return markdown(("WORKLOAD", "VARIANT", "DONOR MiB", "RECIPIENT MiB"), lines) if lines else ""


def faults(rows: Sequence[Row]) -> list[str]:
    """Rows that do not count, with the reason."""
    return [f"{row.workload} {row.label} run {row.run}: {'; '.join(row.faults())}" for row in rows if row.faults()]


def document(rows: Sequence[Row], absent: Mapping[str, str], conditions: str) -> str:
    """All of it as Markdown."""
    parts = ["# Porting over a WAN: vmport and stock libvirt", conditions, comparison(rows)]
    unended = [row for row in rows if row.outcome == "timeout" and not row.faults()]
    if unended:
        lines = "\n".join(f"- {row.workload} {row.label} run {row.run}: {row.detail}" for row in unended)
        parts.append(f"## Did not end\n\n{lines}")
    if table := ablation(rows):
        parts.append(f"## What each technique is worth\n\n{table}")
    if table := memory(rows):
        parts.append(f"## Peak memory of the node agents\n\n{table}")
    if found := faults(rows):
        parts.append("## Rows that do not count\n\n" + "\n".join(f"- {line}" for line in found))
    if absent:
        parts.append("## Not measured\n\n" + "\n".join(f"- {label}: {reason}" for label, reason in absent.items()))
    return "\n\n".join(parts) + "\n"
