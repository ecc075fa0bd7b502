"""``vmport plan``: where many VMs are to run and what to reserve; and their ports, carried out as one group."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from uuid import UUID, uuid4

import typer

from shared.client import render
from shared.client.limits import NetworkChoice, limits_of, limits_text
from shared.client.plan_files import BadPlanFile, read_demand, read_moves
from shared.client.plan_tables import plan_tables, plans_table
from shared.client.resolve import find_plan, whole_id
from shared.client.sdk import TenantClient
from shared.client.session import Session
from shared.client.units import BadValue, parse_months, value_of
from shared.client.vm_commands import NetworkModeOption
from shared.exit_codes import ExitCode
from shared.messages.plans import MAX_AT_ONCE, CreatePlan, MoveState, OnFailure, PlanShown, PlanState

app = typer.Typer(help="Plans: where many of your VMs are to run, carried out as one.", no_args_is_help=True)

PlanArgument = Annotated[
    str, typer.Argument(metavar="PLAN", help="Name or id of the plan, or the first 4 or more characters of the id.")
]
FollowOption = Annotated[bool, typer.Option("--follow", help="Tell each change until the plan has ended.")]

_EXITS = {
    PlanState.UNSOLVABLE: ExitCode.REFUSED,
    PlanState.PARTLY: ExitCode.PORT_FAILED,
    PlanState.STOPPED: ExitCode.PORT_FAILED,
    PlanState.CANCELLED: ExitCode.CANCELLED,
}


class FailureChoice(StrEnum):
    """What becomes of the others when one port is not completed."""

    STOP = "stop"
    GO_ON = "go-on"


_ON_FAILURE: dict[FailureChoice, OnFailure] = {FailureChoice.STOP: "stop", FailureChoice.GO_ON: "go_on"}
_Find = Callable[[TenantClient], Awaitable[UUID]]


@app.command("create")
def create_plan(
    context: typer.Context,
    *,
    demand: Annotated[
        Path | None, typer.Option(help="Expected demand, TOML or CSV: classes of VMs and how many are needed.")
    ] = None,
    moves: Annotated[Path | None, typer.Option(help="Instead: your own list, TOML or CSV with vm and to.")] = None,
    horizon: Annotated[str, typer.Option(help="How far --demand is planned ahead, such as 12m or 1y.")] = "12m",
    risk: Annotated[
        float,
        typer.Option(min=0, max=1, help="Weight of the worst scenarios' mean cost (CVaR): 0 none, 1 nothing else."),
    ] = 0.0,
    risk_level: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="Which scenarios are the worst: 0.95 is the dearest 5 %.")
    ] = 0.95,
    scenarios: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many futures are looked at.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="The same seed draws the same futures.")] = 1,
    name: Annotated[str, typer.Option(help="Of the plan, for you.")] = "",
) -> None:
    """Make a plan: which VMs run where, what to reserve for how long, and the expected cost. Nothing moves.

    Providers' price lists are known to the broker. 'vmport plan apply' carries a plan out. Exit code 3: there is no
    plan.

    JSON: a PlanShown.
    """
    session: Session = context.obj
    if (demand is None) == (moves is None):
        raise BadValue("", "--demand FILE or --moves FILE, one of them", option="plan create")
    months = value_of("--horizon", parse_months, horizon)
    plan_id = uuid4()

    async def create(client: TenantClient) -> PlanShown:
        vms = await client.vms()
        if moves is not None:
            providers = [each.name for each in await client.providers()]
            wanted = read_moves(moves, vms, providers)
            return await client.create_plan(CreatePlan(plan_id=plan_id, name=name or moves.stem, moves=wanted))
        if demand is None:
            raise ValueError("one of both files is given")
        options = {"risk": risk, "risk_level": risk_level, "scenarios": scenarios, "seed": seed}
        asked = read_demand(demand, vms, horizon_months=months, **options)
        return await client.create_plan(CreatePlan(plan_id=plan_id, name=name or demand.stem, demand=asked))

    shown = session.run(create)
    if shown.summary.state is PlanState.UNSOLVABLE and demand is not None and not session.as_json:
        session.say(f"vmport: {BadPlanFile(demand, '', shown.failure or 'there is no plan')}")
        raise typer.Exit(ExitCode.REFUSED)
    session.answer(shown, *plan_tables(shown))
    _exit_by(shown)
    if not session.as_json and shown.moves:
        session.say(f"'vmport plan apply {str(plan_id)[:8]}' carries it out")


def _exit_by(shown: PlanShown) -> None:
    code = _EXITS.get(shown.summary.state)
    if code is not None:
        raise typer.Exit(code)


async def _plan_id(client: TenantClient, plan: str) -> UUID:
    return whole_id(plan) or find_plan(plan, await client.plans(limit=1000))


@app.command("show")
def show_plan(context: typer.Context, plan: PlanArgument, *, follow: FollowOption = False) -> None:
    """Show a plan: what to reserve, what it costs, and how far each of its ports is.

    With --follow the exit code says how it ended: 4 where a port was not completed, 5 cancelled.

    JSON: a PlanShown; with --follow NDJSON, one PlanShown per change.
    """
    session: Session = context.obj
    if follow:
        _follow(session, lambda client: _plan_id(client, plan))
        return

    async def ask(client: TenantClient) -> PlanShown:
        return await client.plan_of(await _plan_id(client, plan))

    shown = session.run(ask)
    session.answer(shown, *plan_tables(shown))


@app.command("list")
def list_plans(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many, the newest first.")] = 100,
) -> None:
    """List your plans, the newest first.

    JSON: an array of PlanSummary.
    """
    session: Session = context.obj
    plans = session.run(lambda client: client.plans(limit=limit))
    session.answer(plans, plans_table(plans))


@app.command("apply")
def apply_plan(
    context: typer.Context,
    plan: PlanArgument,
    *,
    at_once: Annotated[int, typer.Option(min=1, max=MAX_AT_ONCE, help="Ports that may be under way at once.")] = 1,
    on_failure: Annotated[
        FailureChoice, typer.Option(help="When a port is not completed: begin no further one, or go on.")
    ] = FailureChoice.STOP,
    max_downtime: Annotated[str, typer.Option(help="Longest pause of each guest, such as 500ms.")] = "1s",
    max_price: Annotated[str | None, typer.Option(help="Highest price of each VM per month, such as 12.50.")] = None,
    bandwidth: Annotated[
        str | None, typer.Option(help="Highest rate of each transfer: 50Mbit/s in bits, 6MB/s in bytes.")
    ] = None,
    network_mode: NetworkModeOption = NetworkChoice.AUTO,
    follow: FollowOption = False,
) -> None:
    """Carry a plan out: file a port for each VM that is to move, each with an agreement of its own.

    A plan that was stopped or cancelled goes on with what is left, failures included. It goes on without you.

    JSON: a PlanShown; with --follow NDJSON, one PlanShown per change.
    """
    session: Session = context.obj
    limits = limits_of(
        max_downtime=max_downtime,
        max_price=max_price,
        bandwidth=bandwidth,
        network_mode=network_mode,
        now=session.now(),
    )

    async def apply(client: TenantClient) -> PlanShown:
        plan_id = await _plan_id(client, plan)
        return await client.apply_plan(plan_id, at_once=at_once, on_failure=_ON_FAILURE[on_failure], limits=limits)

    if not session.as_json:
        session.say(f"limits of each port: {limits_text(limits)}")
    if follow:

        async def applied(client: TenantClient) -> UUID:
            return (await apply(client)).summary.plan_id

        _follow(session, applied)
        return
    shown = session.run(apply)
    session.answer(shown, *plan_tables(shown))
    if not session.as_json:
        session.say(f"'vmport plan show {str(shown.summary.plan_id)[:8]} --follow' follows it")


@app.command("cancel")
def cancel_plan(
    context: typer.Context,
    plan: PlanArgument,
    reason: Annotated[str | None, typer.Option(help="For the record.")] = None,
) -> None:
    """Cancel a plan: no further port begins, those under way are cancelled. One past its switchover completes.

    JSON: a PlanShown.
    """
    session: Session = context.obj

    async def cancel(client: TenantClient) -> PlanShown:
        return await client.cancel_plan(await _plan_id(client, plan), reason=reason)

    shown = session.run(cancel)
    session.answer(shown, *plan_tables(shown))


def _follow(session: Session, find: _Find) -> None:
    """Tell what changes, then how it ended; the program's exit code says that, too."""

    async def work(client: TenantClient) -> PlanShown:
        last: PlanShown | None = None
        async for shown in client.watch_plan(await find(client)):
            if session.as_json:
                session.write(render.json_text(render.as_json(shown), compact=True))
            else:
                _say_changes(session, last, shown)
            last = shown
        if last is None:
            raise ValueError("a plan that is watched is told at least once")
        return last

    shown = session.run(work)
    if not session.as_json:
        session.answer(shown, *plan_tables(shown))
    _exit_by(shown)


def _say_changes(session: Session, before: PlanShown | None, now: PlanShown) -> None:
    known = {move.vm_uuid: move.state for move in before.moves} if before is not None else {}
    for move in now.moves:
        if move.state is not known.get(move.vm_uuid, MoveState.WAITING):
            detail = f": {move.detail}" if move.detail else ""
            session.say(f"{move.vm_name} {move.donor} -> {move.recipient}: {move.state.replace('_', ' ')}{detail}")
    if before is None or before.summary.state is not now.summary.state:
        reason = f": {now.failure}" if now.failure else ""
        session.say(f"plan {str(now.summary.plan_id)[:8]}: {now.summary.state}{reason}")
