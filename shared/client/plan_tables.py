"""How ``vmport plan`` shows plans: what to reserve, what it costs and how good that is, and how far the ports are."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from shared.client.render import facts_table, human_time, make_table, plain
from shared.messages.plans import MoveState, PlanResult, PlanShown, PlanState, PlanSummary

_COLOURS = {
    MoveState.COMPLETED: "green",
    MoveState.FAILED: "red",
    MoveState.REFUSED: "red",
    MoveState.CANCELLED: "yellow",
    MoveState.LEFT: "yellow",
    MoveState.UNDER_WAY: "cyan",
}
_OF_PLAN = {
    PlanState.COMPLETED: "green",
    PlanState.READY: "green",
    PlanState.UNSOLVABLE: "red",
    PlanState.STOPPED: "red",
    PlanState.PARTLY: "yellow",
    PlanState.CANCELLED: "yellow",
}


def plans_table(plans: Sequence[PlanSummary]) -> Table:
    """``plan list``."""
    table = make_table("PLAN", "NAME", "STATE", "MOVES", "DONE", "CREATED", right=("MOVES", "DONE"))
    for plan in plans:
        table.add_row(
            str(plan.plan_id)[:8],
            plain(plan.name),
            _state(plan.state),
            str(plan.moves),
            str(plan.completed),
            human_time(plan.created_at),
        )
    return table


def plan_tables(shown: PlanShown) -> list[Table]:
    """``plan show``."""
    summary = shown.summary
    ended = f"{summary.completed} of {summary.moves} completed"
    if summary.not_completed:
        ended += f", {summary.not_completed} not"
    facts = facts_table(
        None,
        (
            ("plan", f"{summary.plan_id} {summary.name}".strip()),
            ("state", _state(summary.state)),
            ("reason", plain(shown.failure) if shown.failure else None),
            ("ports", ended if summary.moves else "none to move"),
            ("at once", shown.at_once),
            ("after a failure", shown.on_failure.replace("_", " ") if shown.on_failure else None),
        ),
    )
    tables = [facts]
    if shown.result is not None:
        tables += _result_tables(shown.result)
    if shown.moves:
        tables.append(moves_table(shown))
    return tables


def moves_table(shown: PlanShown) -> Table:
    """Each VM, from where to where, and how far that is."""
    table = make_table("VM", "FROM", "TO", "STATE", "PORT", "DETAIL", title="ports")
    for move in shown.moves:
        state = Text(move.state.value.replace("_", " "), style=_COLOURS.get(move.state, ""))
        port = str(move.port_id)[:8] if move.port_id else ""
        table.add_row(plain(move.vm_name), move.donor, move.recipient, state, port, plain(move.detail))
    return table


def _state(state: PlanState) -> Text:
    return Text(state.value, style=_OF_PLAN.get(state, "cyan"))


def _result_tables(result: PlanResult) -> list[Table]:
    costs, figures, money = result.costs, result.figures, result.currency
    facts = facts_table(
        f"expected cost over the horizon, {money}",
        (
            ("total", costs.total),
            ("  reservations", costs.reservations),
            ("  reserved VMs' months", costs.reserved_use),
            ("  on demand", costs.on_demand),
            ("  ports", costs.porting),
            ("in the worst scenarios", figures.worst),
            ("at least, in these scenarios", f"{figures.lower_bound} (gap {figures.gap:.2%})"),
            ("95 % bounds by new samples", f"{figures.sample_low} to {figures.sample_high}"),
            ("planning for the mean", f"{figures.mean_value} (VSS {figures.vss})"),
            ("knowing the future would save", f"{figures.evpi} (EVPI, by {figures.evpi_scenarios} scenarios)"),
            ("reserving for the most", figures.most_reserved),
            ("reserving nothing", figures.none_reserved),
            ("found by", f"{figures.method}; {figures.scenarios} scenarios, {figures.iterations} iterations"),
        ),
    )
    return [facts, _reservations(result), _use(result), *_left_out(result)]


def _reservations(result: PlanResult) -> Table:
    table = make_table(
        "CLASS", "PROVIDER", "TYPE", "VMS", "FROM MONTH", "MONTHS", "ONCE, EACH", "PER MONTH",
        title="to reserve" if result.reservations else "nothing is to be reserved",
        right=("VMS", "FROM MONTH", "MONTHS", "ONCE, EACH", "PER MONTH"),
    )  # fmt: skip
    for each in result.reservations:
        table.add_row(
            each.class_name,
            each.provider,
            plain(each.instance_type),
            str(each.vms),
            str(each.from_month),
            str(each.months),
            str(each.upfront_each),
            str(each.price_per_month),
        )
    return table


def _use(result: PlanResult) -> Table:
    table = make_table(
        "CLASS", "PROVIDER", "RESERVED", "ON DEMAND", title="VMs in the mean month", right=("RESERVED", "ON DEMAND")
    )
    for each in result.use:
        table.add_row(each.class_name, each.provider, f"{each.reserved:.1f}", f"{each.on_demand:.1f}")
    return table


def _left_out(result: PlanResult) -> list[Table]:
    if not result.left_out:
        return []
    table = make_table("CLASS", "PROVIDER", "REASON", title="not considered")
    for each in result.left_out:
        table.add_row(each.class_name, each.provider, plain(each.reason))
    return [table]
