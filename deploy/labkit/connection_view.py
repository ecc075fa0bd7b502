"""How a client's connections fared, for people and as JSON. Pure."""

from dataclasses import asdict
from typing import Any

from rich.table import Table

from deploy.labkit.connection_report import Report


def connection_summary(fared: Report | None) -> dict[str, Any]:
    """The part of the demo's result about connections; nulls where none were watched.

    `connections` and `connections_kept` count those over TCP; `connection_kinds` has the longest gap of each kind in
    milliseconds; the longest outage of UDP echo and the end of it (seconds since 1970) stand per family.
    """
    return {
        "connections": None if fared is None else fared.connections,
        "connections_kept": None if fared is None else fared.kept,
        "connection_kinds": {} if fared is None else {kind: asdict(each) for kind, each in fared.kinds.items()},
        "udp_outage_ms": {} if fared is None else {name: each.outage_ms for name, each in fared.udp.items()},
        "udp_answered_again_at": (
            {} if fared is None else {name: each.answered_again_at for name, each in fared.udp.items()}
        ),
    }


def connection_table(fared: Report) -> Table:
    """A row per kind of connection, and one per family of UDP echo."""
    table = Table("CONNECTIONS", "KEPT", "ANSWERS", "LONGEST GAP")
    for kind, each in fared.kinds.items():
        table.add_row(kind, f"{each.kept} of {each.opened}", str(each.answers), f"{each.longest_gap_ms:.0f} ms")
    for family, echoes in fared.udp.items():
        table.add_row(f"udp echo, {family}", "", f"{echoes.answered} of {echoes.sent}", f"{echoes.outage_ms:.0f} ms")
    return table
