"""How ``vmport network`` shows a VM's addresses: the plan, the donor's help after the port, and what nodes reported."""

from __future__ import annotations

from rich.table import Table

from shared.client.network_words import terms_text
from shared.client.render import facts_table, human_time, make_table, plain
from shared.messages.addresses import ExtensionShown, NetworkShown
from shared.messages.network import NetworkPlan


def network_tables(shown: NetworkShown) -> list[Table]:
    """The facts, one line per address, and the nodes' reports, oldest first."""
    plan = shown.plan
    facts = facts_table(
        None,
        (
            ("vm", f"{shown.vm_name} ({shown.vm_uuid})"),
            ("served by", f"{shown.provider} (epoch {shown.epoch})"),
            ("port", shown.port_id),
            ("addresses", terms_text(plan.terms if plan else None)),
            ("donor's help", _help(shown.extension)),
            ("closed by", ", ".join(shown.extension.closed_by) if shown.extension else None),
        ),
    )
    tables = [facts]
    if plan is not None:
        tables.append(_addresses(plan))
    if shown.findings:
        differ = make_table("", title="where the sources of addresses differed")
        for finding in shown.findings:
            differ.add_row(plain(finding))
        tables.append(differ)
    if shown.reports:
        tables.append(_reports(shown))
    return tables


def _help(extension: ExtensionShown | None) -> str | None:
    if extension is None:
        return None
    if extension.reason:
        return f"{extension.state}: {extension.reason}"
    until = f"until {human_time(extension.ends_at)}" if extension.ends_at else "until somebody ends it"
    return f"{extension.state} since {human_time(extension.since)}, {until}"


def _addresses(plan: NetworkPlan) -> Table:
    table = make_table("CARD", "ADDRESS", "KNOWN BY", "DONOR'S BRIDGE", "BRIDGE", "CARE-OF")
    for card in plan.cards:
        real = {pair.address: pair.real for pair in card.care_of}
        for each in card.card.addresses:
            table.add_row(
                card.card.mac,
                each.address,
                ", ".join(each.sources),
                card.donor_bridge,
                card.bridge,
                real.get(each.address, ""),
            )
        if not card.card.addresses:
            table.add_row(card.card.mac, "unknown", "", card.donor_bridge, card.bridge, "")
    return table


def _reports(shown: NetworkShown) -> Table:
    table = make_table("TIME", "NODE", "STATE", "FIRST ANSWER", "DETAIL", right=("FIRST ANSWER",))
    for report in shown.reports:
        answered = "" if report.first_answer_ms is None else f"{report.first_answer_ms} ms"
        table.add_row(human_time(report.at), report.sender, report.state, answered, plain(report.detail))
    return table
