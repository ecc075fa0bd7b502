"""``vmport port`` and ``vmport quote``: ask for a port, wait for it, list, show, watch and cancel ports."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID, uuid4

import typer

from shared.client import following, render
from shared.client.cost_tables import bill_tables, explained, question_of
from shared.client.limits import NetworkChoice, OverlaysChoice, PostCopyChoice, limits_of, limits_text
from shared.client.resolve import find_port, find_vm, whole_id
from shared.client.rules_tables import applied_table
from shared.client.sdk import TenantClient
from shared.client.session import Session
from shared.client.units import parse_duration, told_of, value_of
from shared.client.vm_commands import (
    PLAN_TIMEOUT_S,
    CurrencyOption,
    DowntimeCostOption,
    EjectOption,
    HorizonOption,
    NetworkModeOption,
    RequireOption,
    VmArgument,
)
from shared.exit_codes import ExitCode
from shared.messages.base import Value
from shared.messages.costs import Bill
from shared.messages.porting import ServiceChangeAgreement
from shared.messages.service_change import BEST, PortCancelled, PortLimits, PortPhase, PortPlanned, PortRequested

app = typer.Typer(help="Ports: moves of your VMs from one provider to another.", no_args_is_help=True)

CANCEL_TIMEOUT_S = 120.0

PortArgument = Annotated[str, typer.Argument(metavar="PORT", help="Id of the port, or the first 4 or more characters.")]

TellOption = Annotated[
    list[str] | None,
    typer.Option(help="FIELD=VALUE: tell a donor what it demands. Repeat it for more fields."),
]


class PortTaken(Value):
    """What ``port create`` answers with when it does not watch."""

    port_id: UUID
    outcome: str
    """``fixed``, or ``accepted`` with ``--no-wait``."""


async def _request(
    client: TenantClient, vm: str, to: str, limits: PortLimits, *, dry_run: bool, told: dict[str, str] | None = None
) -> PortRequested:
    found = find_vm(vm, await client.vms())
    return PortRequested(
        port_id=uuid4(),
        vm_uuid=found.uuid,
        donor=found.provider,
        recipient=to,
        limits=limits,
        dry_run=dry_run,
        told=told or {},
    )


def quote(
    context: typer.Context,
    vm: VmArgument,
    to: Annotated[str, typer.Option(help="A provider, or best: all are asked.")] = BEST,
    *,
    eject: EjectOption = None,
    require: RequireOption = None,
    network_mode: NetworkModeOption = NetworkChoice.AUTO,
    horizon: HorizonOption = "12",
    downtime_cost: DowntimeCostOption = "0",
    currency: CurrencyOption = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show each offer's costs line by line, and why each other one lost.")
    ] = False,
    tell: TellOption = None,
) -> None:
    """Ask what a port of this VM would cost, how long it would take and what becomes of the VM; nothing moves.

    Offers are compared by all that they cost over --horizon: the price, the port itself, and broken promises.

    JSON: a PortPlanned.
    """
    session: Session = context.obj

    now = datetime.now().astimezone()
    limits = limits_of(
        eject=eject or (),
        require=require or (),
        network_mode=network_mode,
        horizon=horizon,
        downtime_cost=downtime_cost,
        currency=currency,
        now=now,
    )
    _plan(session, vm, to, limits, told_of(tell), explain=explain)


def _plan(
    session: Session, vm: str, to: str, limits: PortLimits, told: dict[str, str], *, explain: bool = False
) -> None:
    """A dry run; its answer, and exit code 3 where nobody makes an offer."""

    async def ask(client: TenantClient) -> PortPlanned:
        request = await _request(client, vm, to, limits, dry_run=True, told=told)
        return await client.plan(request, timeout_s=max(PLAN_TIMEOUT_S, session.wait_s))

    _say_limits(session, limits)
    plan = session.run(ask)
    session.answer(plan, *render.plan_tables(plan), *(explained(plan) if explain else ()))
    if not session.as_json and (question := question_of(plan)):
        session.say(question)
    if not plan.quotes:
        raise typer.Exit(ExitCode.REFUSED)


def _say_limits(session: Session, limits: PortLimits) -> None:
    """Show how the options were understood, before anything is asked for."""
    if not session.as_json:
        session.say(f"limits: {limits_text(limits)}")


@app.command("create")
def create_port(
    context: typer.Context,
    vm: VmArgument,
    *,
    to: Annotated[str, typer.Option(help="The provider that takes the VM, or best: the broker chooses.")],
    max_downtime: Annotated[str, typer.Option(help="Longest pause of the guest, such as 500ms.")] = "1s",
    window: Annotated[
        str, typer.Option(help="now, START or START/END. A time is ISO 8601 or +2h; END is the deadline.")
    ] = "now",
    deadline: Annotated[
        str | None, typer.Option(help="Abandon the port if it is not switched over by then; ISO 8601 or +2h.")
    ] = None,
    max_price: Annotated[str | None, typer.Option(help="Highest price per month, such as 12.50.")] = None,
    bandwidth: Annotated[
        str | None, typer.Option(help="Highest rate of the transfer: 50Mbit/s or 50Mbps in bits, 6MB/s in bytes.")
    ] = None,
    post_copy: Annotated[
        PostCopyChoice,
        typer.Option(help="Let the guest run at the recipient before all of its memory is there."),
    ] = PostCopyChoice.NEVER,
    stop_and_copy: Annotated[
        bool,
        typer.Option(
            "--stop-and-copy", help="Stop a guest that writes too fast for --max-downtime; otherwise the port fails."
        ),
    ] = False,
    seed: Annotated[
        bool, typer.Option("--seed", help="Send what changes rarely before --window; the guest moves in the window.")
    ] = False,
    seed_bandwidth: Annotated[
        str | None, typer.Option(help="Highest rate of --seed: 10Mbit/s or 10Mbps in bits, 1MB/s in bytes.")
    ] = None,
    overlays: Annotated[
        OverlaysChoice,
        typer.Option(help="Keep a disk that is an overlay as one, on the recipient's own copy of its base image."),
    ] = OverlaysChoice.IF_KNOWN,
    eject: EjectOption = None,
    require: RequireOption = None,
    network_mode: NetworkModeOption = NetworkChoice.AUTO,
    horizon: HorizonOption = "12",
    downtime_cost: DowntimeCostOption = "0",
    currency: CurrencyOption = None,
    tell: TellOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Verify and quote only.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the port is fixed or refused.")] = True,
    wait_limit: Annotated[str, typer.Option(help="Longest time to wait for that, such as 30s or 5m.")] = "2m",
    watch: Annotated[bool, typer.Option("--watch", help="Follow the port until its end.")] = False,
) -> None:
    """Ask for a port of a running VM, and wait until it is fixed or refused.

    Exit code 0: fixed; with --no-wait: accepted, which a provider can still refuse; with --watch: completed.

    JSON: {port_id, outcome}; with --dry-run a PortPlanned; with --watch NDJSON as 'port watch' writes it.
    """
    session: Session = context.obj
    wait_s = value_of("--wait-limit", parse_duration, wait_limit).total_seconds()
    limits = limits_of(
        max_downtime=max_downtime,
        window=window,
        deadline=deadline,
        max_price=max_price,
        bandwidth=bandwidth,
        post_copy=post_copy,
        stop_and_copy=stop_and_copy,
        seed=seed,
        seed_bandwidth=seed_bandwidth,
        overlays=overlays,
        eject=eject or (),
        require=require or (),
        network_mode=network_mode,
        horizon=horizon,
        downtime_cost=downtime_cost,
        currency=currency,
        now=datetime.now().astimezone(),
    )
    told = told_of(tell)
    if dry_run:
        _plan(session, vm, to, limits, told)
        return

    async def create(client: TenantClient) -> UUID:
        request = await _request(client, vm, to, limits, dry_run=False, told=told)
        await client.create_port(request)
        return request.port_id

    _say_limits(session, limits)
    if watch:
        following.follow(session, create)
    elif wait:
        _create_and_wait(session, create, wait_s)
    else:
        _answer_accepted(session, session.run(create))


def _answer_accepted(session: Session, port_id: UUID) -> None:
    if session.as_json:
        session.write(render.json_text(render.as_json(PortTaken(port_id=port_id, outcome="accepted"))))
    else:
        session.write(str(port_id))
        session.say(f"accepted; 'vmport port watch {str(port_id)[:8]}' follows it")


def _create_and_wait(session: Session, create: following.FindPort, wait_s: float) -> None:
    """The port's id as soon as there is one, then whether the port is fixed; a refusal is raised."""
    created: list[UUID] = []

    async def work(client: TenantClient) -> ServiceChangeAgreement:
        port_id = await create(client)
        created.append(port_id)
        if not session.as_json:
            session.write(str(port_id))
        return await client.wait_fixed(port_id, timeout_s=wait_s)

    try:
        agreement = session.run(work)
    except KeyboardInterrupt:
        for port_id in created:
            following.say_detached(session, port_id)
        raise
    if session.as_json:
        session.write(render.json_text(render.as_json(PortTaken(port_id=agreement.port_id, outcome="fixed"))))
        return
    session.say(render.agreement_text(agreement))
    session.say(f"'vmport port watch {str(agreement.port_id)[:8]}' follows it")


@app.command("list")
def list_ports(
    context: typer.Context,
    *,
    active: Annotated[bool, typer.Option("--active", help="Only ports that have not ended.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many, the newest first.")] = 100,
) -> None:
    """List your ports, the newest first.

    JSON: an array of PortSummary.
    """
    session: Session = context.obj
    ports = session.run(lambda client: client.ports(limit=limit, active_only=active))
    session.answer(ports, render.ports_table(ports))


async def _port_id(client: TenantClient, port: str) -> UUID:
    return whole_id(port) or find_port(port, await client.ports(limit=1000))


@app.command("show")
def show_port(context: typer.Context, port: PortArgument) -> None:
    """Show a port's agreement and its record: every event, its time and its sender.

    JSON: a PortShown.
    """
    session: Session = context.obj

    async def ask(client: TenantClient) -> None:
        shown = await client.port(await _port_id(client, port))
        rules = (applied_table(shown.rules, title="rules that were applied"),) if shown.rules else ()
        session.answer(shown, *render.port_facts(shown), *rules)

    session.run(ask)


@app.command("bill")
def show_bill(context: typer.Context, port: PortArgument) -> None:
    """Show what a completed port has cost, as it was measured, beside its quote; and the credits given since.

    JSON: a Bill.
    """
    session: Session = context.obj
    bill = session.run(lambda client: _bill(client, port))
    session.answer(bill, *bill_tables(bill))


async def _bill(client: TenantClient, port: str) -> Bill:
    return await client.bill(await _port_id(client, port))


@app.command("watch")
def watch_port(context: typer.Context, port: PortArgument) -> None:
    """Follow a port until its end; the exit code says how it ended. Ctrl-C stops watching, not the port.

    JSON: NDJSON, one {time, type, data} per event, data being the message; the last line has type Outcome.
    """
    session: Session = context.obj
    following.follow(session, lambda client: _port_id(client, port))


@app.command("cancel")
def cancel_port(
    context: typer.Context,
    port: PortArgument,
    reason: Annotated[str | None, typer.Option(help="For the record.")] = None,
) -> None:
    """Cancel a port; possible until switchover. Returns when everything that the port made is removed.

    A port that is cancelled already is no error.

    JSON: a PortCancelled.
    """
    session: Session = context.obj

    async def cancel(client: TenantClient) -> None:
        port_id = await _port_id(client, port)
        done = await client.cancel(port_id, reason=reason, timeout_s=max(CANCEL_TIMEOUT_S, session.wait_s))
        if session.as_json:
            session.write(render.json_text(render.as_json(done)))
        else:
            session.say(_cancelled_text(done))

    session.run(cancel)


def _cancelled_text(done: PortCancelled) -> str:
    if done.phase is PortPhase.CANCELLED:
        return f"port {done.port_id} is already cancelled; the VM stays where it was"
    return f"port {done.port_id} is cancelled in phase {done.phase}; the VM stays where it was"
