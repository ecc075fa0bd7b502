"""How answers look: tables for people, and the JSON that programs read, which is a message's body by `vmport schema`.

Its only I/O is writing to the consoles that it is given. Standard output carries the answer and nothing else; progress,
hints and errors go to standard error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared.client.limits import rate_text
from shared.client.network_words import short_terms, terms_text
from shared.client.outcome import Outcome
from shared.messages import Refusal
from shared.messages.porting import ServiceChangeAgreement
from shared.messages.queries import PortShown, PortSummary, ProviderStatus
from shared.messages.rule_facts import Charge
from shared.messages.service_change import PortPhase, PortPlanned, Quote

_COLOURS = {
    PortPhase.COMPLETED: "green",
    PortPhase.PLANNED: "green",
    PortPhase.FAILED: "red",
    PortPhase.REFUSED: "red",
    PortPhase.CANCELLED: "yellow",
}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def as_json(value: BaseModel | Sequence[BaseModel]) -> Any:
    """Plain JSON values; unset fields stay, as null, so that a program finds every key."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [item.model_dump(mode="json") for item in value]


def json_text(value: Any, *, compact: bool = False) -> str:
    """A document over several lines, or one line of NDJSON."""
    if compact:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(value, ensure_ascii=False, indent=2)


def human_bytes(count: float) -> str:
    """``512 MiB``, ``1.5 GiB``: at most four significant figures."""
    power = 0
    while count >= 1024 and power < len(_UNITS) - 1:
        count, power = count / 1024, power + 1
    whole = power == 0 or count >= 100 or count == int(count)
    return f"{count:.0f} {_UNITS[power]}" if whole else f"{count:.1f} {_UNITS[power]}"


def human_seconds(seconds: float) -> str:
    """``0.4 s``, ``42 s``, ``3 min 05 s``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def human_time(moment: datetime | None) -> str:
    """A time in the reader's own zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else "never"


def phase_text(phase: PortPhase) -> Text:
    """A phase; the colour says whether and how the port has ended."""
    return Text(phase.value, style=_COLOURS.get(phase, "cyan"))


def plain(text: str) -> Text:
    """Others' words as they are: neither markup nor a control sequence of the terminal."""
    return Text("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text))


def make_table(*columns: str, title: str | None = None, right: Iterable[str] = ()) -> Table:
    """An empty table with a heading."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def facts_table(title: str | None, facts: Iterable[tuple[str, Any]]) -> Table:
    """Names with their values; what is None or empty is left out."""
    table = Table(box=None, show_header=False, title=title, title_justify="left", pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts:
        if value not in (None, ""):
            table.add_row(name, value if isinstance(value, Text) else str(value))
    return table


def providers_table(providers: Sequence[ProviderStatus]) -> Table:
    """``provider list``."""
    table = make_table(
        "PROVIDER", "NODES", "HEALTHY", "MEMORY FREE", "DISK FREE", "LAST SEEN", right=("NODES", "HEALTHY")
    )
    for provider in providers:
        table.add_row(
            provider.name,
            str(provider.nodes),
            str(provider.nodes_healthy),
            human_bytes(provider.memory_free_bytes),
            human_bytes(provider.disk_free_bytes),
            human_time(provider.last_seen),
        )
    return table


def ports_table(ports: Sequence[PortSummary]) -> Table:
    """``port list``."""
    table = make_table("PORT", "VM", "FROM", "TO", "PHASE", "DONE", "REQUESTED", right=("DONE",))
    for port in ports:
        table.add_row(
            str(port.port_id)[:8],
            port.vm_name,
            port.donor,
            port.recipient or "?",
            phase_text(port.phase),
            f"{port.percent} %",
            human_time(port.requested_at),
        )
    return table


def port_facts(shown: PortShown) -> list[Table]:
    """``port show``: the summary, the agreement in short, and the record."""
    summary, agreement, limits, sla = shown.summary, shown.agreement, shown.request.limits, shown.sla
    window = f"from {human_time(limits.window_start)}" if limits.window_start else "at once"
    facts = facts_table(
        None,
        (
            ("port", summary.port_id),
            ("vm", f"{summary.vm_name} ({summary.vm_uuid})"),
            ("from", agreement.donor + "/" + agreement.donor_node if agreement else summary.donor),
            ("to", agreement.recipient + "/" + agreement.recipient_node if agreement else summary.recipient or "open"),
            ("phase", phase_text(summary.phase)),
            ("done", f"{summary.percent} %"),
            ("window", window + (f", until {human_time(limits.deadline)}" if limits.deadline else "")),
            ("seeding", "before the window" if limits.seed else None),
            ("downtime limit", f"{limits.max_downtime_ms} ms"),
            ("bandwidth limit", rate_text(limits.bandwidth_bytes_per_s) if limits.bandwidth_bytes_per_s else None),
            ("post-copy", limits.post_copy),
            ("stop-and-copy", "if needed" if limits.stop_and_copy else None),
            ("overlays", limits.overlays),
            ("media left behind", ", ".join(limits.eject) or None),
            ("addresses", _addresses_of(agreement)),
            ("price", f"{agreement.price_per_month} {agreement.currency} per month" if agreement else None),
            ("donor's charges", charges_text(shown.charges)),
            ("promised", _figures(agreement.promised_total_s, agreement.promised_downtime_ms) if agreement else None),
            ("measured", _figures(sla.measured_total_s, sla.measured_downtime_ms) if sla else None),
            ("failure", shown.failure),
        ),
    )
    record = make_table("TIME", "SENDER", "EVENT", "PHASE", "DETAIL")
    for event in shown.events:
        record.add_row(human_time(event.at), event.sender, event.type, event.phase, event.detail)
    return [facts, record]


def charges_text(charges: Sequence[Charge]) -> str | None:
    """The donor's charges that no rule forbids, in one line."""
    return ", ".join(f"{each.kind} {each.amount} {each.currency}" for each in charges) or None


def _addresses_of(agreement: ServiceChangeAgreement | None) -> str | None:
    if agreement is None:
        return None
    return terms_text(agreement.network.terms if agreement.network else None, agreement.currency)


def _figures(total_s: float, downtime_ms: int) -> str:
    return f"{human_seconds(total_s)} in all, {downtime_ms} ms downtime"


def plan_tables(plan: PortPlanned) -> list[Table]:
    """``quote``: offers, best first, and who declined."""
    tables = [offers_table(plan.quotes), *(lines_table(quote) for quote in plan.quotes if has_lines(quote))]
    if plan.charges:
        tables.append(facts_table(None, (("donor's charges", charges_text(plan.charges)),)))
    for provider, refusals in plan.declined.items():
        tables.append(refusals_table(refusals, title=f"{provider} declines"))
    return tables


def offers_table(quotes: Iterable[Quote]) -> Table:
    """Price and promise of each offer."""
    table = make_table(
        "PROVIDER",
        "PRICE/MONTH",
        "INSTANCE TYPE",
        "TIME",
        "DOWNTIME",
        "ADDRESSES",
        "VALID UNTIL",
        "TOTAL COST",
        right=("PRICE/MONTH", "TIME", "DOWNTIME", "TOTAL COST"),
    )
    for quote in quotes:
        table.add_row(
            quote.provider,
            f"{quote.price_per_month} {quote.currency}",
            quote.instance_type,
            human_seconds(quote.promised_total_s),
            f"{quote.promised_downtime_ms} ms",
            short_terms(quote.network),
            human_time(quote.valid_until),
            f"{quote.costs.total} {quote.costs.currency} in {quote.costs.horizon_months} months" if quote.costs else "",
        )
    return table


def has_lines(quote: Quote) -> bool:
    """Whether the offer says anything of the VM's host-bound parts."""
    return bool(quote.kept or quote.made_anew or quote.not_kept)


def lines_table(quote: Quote) -> Table:
    """What becomes of the VM's parts at this provider. The names are those that --require takes."""
    table = make_table("", "NAME", "PART", title=f"at {quote.provider}")
    for said, lines in (("not kept", quote.not_kept), ("changed", quote.made_anew), ("kept", quote.kept)):
        for line in lines:
            table.add_row(said, line.part, plain(line.text))
    return table


def agreement_text(agreement: ServiceChangeAgreement) -> str:
    """What was fixed, in one line."""
    return (
        f"fixed: from {agreement.donor} to {agreement.recipient}, starts {human_time(agreement.window_start)}, "
        f"{agreement.price_per_month} {agreement.currency} per month; "
        f"promised: {_figures(agreement.promised_total_s, agreement.promised_downtime_ms)}"
    )


def refusals_table(refusals: Sequence[Refusal], *, title: str | None = None) -> Table:
    """Why a port is refused: each rule, and the facts that break it."""
    has_clauses = any(refusal.clause for refusal in refusals)
    table = make_table("CODE", "RULE", "FOUND", *(("CLAUSE",) if has_clauses else ()), title=title)
    for refusal in refusals:
        clause = (plain(refusal.clause),) if has_clauses else ()
        table.add_row(refusal.code, plain(refusal.rule), plain(refusal.evidence), *clause)
    return table


def outcome_table(outcome: Outcome) -> Table:
    """The short table at the end of a watch."""
    sla = outcome.sla
    table = make_table("", "MEASURED", "PROMISED", title=None, right=("MEASURED", "PROMISED"))
    table.add_row("outcome", phase_text(outcome.outcome), "")
    if sla:
        kept = Text("kept", style="green") if sla.kept else Text("not kept", style="red")
        table.add_row("promise", kept, "")
        table.add_row("total", human_seconds(sla.measured_total_s), human_seconds(sla.promised_total_s))
        table.add_row("downtime", f"{sla.measured_downtime_ms} ms", f"{sla.promised_downtime_ms} ms")
        if sla.measured_outage_ms is not None:
            table.add_row("outage", f"{sla.measured_outage_ms} ms", "")
        table.add_row("price per month", f"{sla.price_per_month} {sla.currency}", "")
    for name, count in (
        ("memory", outcome.memory_bytes),
        ("disk", outcome.disk_bytes),
        ("on the wire", outcome.wire_bytes),
        ("seeded before the window", outcome.seeded_bytes),
    ):
        if count:
            table.add_row(name, human_bytes(count), "")
    if outcome.vm_runs_at:
        table.add_row("the VM runs at", outcome.vm_runs_at, "")
    return table


def show(console: Console, *tables: Table) -> None:
    """Write tables to a console; on a pipe they are as wide as they need, so that nothing is cut or wrapped."""
    if not console.is_terminal:
        console.width = 240
    for table in tables:
        console.print(table)
