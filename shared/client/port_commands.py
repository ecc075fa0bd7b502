"""``vmport port`` and ``vmport quote``: ask for a port, follow it, take it back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID, uuid4

import typer

from shared.client import outcome as outcomes
from shared.client import render
from shared.client.errors import CancelNotPossible
from shared.client.resolve import find_port, find_vm, whole_id
from shared.client.sdk import TenantClient
from shared.client.session import EXIT_OF_PHASE, Session
from shared.client.units import (
    BadValue,
    parse_downtime_ms,
    parse_price,
    parse_rate_bytes_per_s,
    parse_time,
    parse_window,
)
from shared.client.vm_commands import VmArgument
from shared.client.watch_view import view_for
from shared.exit_codes import ExitCode
from shared.messages import AnyEnvelope
from shared.messages.base import Value
from shared.messages.service_change import BEST, PortCancelled, PortLimits, PortPhase, PortPlanned, PortRequested

app = typer.Typer(help="Ports: VMs on their way from one provider to another.", no_args_is_help=True)

PLAN_TIMEOUT_S = 60.0
CANCEL_TIMEOUT_S = 120.0
FIXED_TIMEOUT_S = 120.0
"""Longer than the broker's own limits for approval, quotes and reservation take together."""

PortArgument = Annotated[str, typer.Argument(metavar="PORT", help="Id of the port, or its beginning.")]


class PostCopyChoice(StrEnum):
    """May the guest run at the recipient before all of its memory is there?"""

    NEVER = "never"
    IF_NEEDED = "if-needed"
    ALWAYS = "always"


class OverlaysChoice(StrEnum):
    """May a disk be an overlay on a base image of the recipient's?"""

    NEVER = "never"
    IF_KNOWN = "if-known"


class PortTaken(Value):
    """What ``port create`` answers with when it does not watch: ``fixed``, or with --no-wait ``accepted``."""

    port_id: UUID
    outcome: str


def limits_of(
    *,
    max_downtime: str = "1s",
    window: str = "now",
    deadline: str | None = None,
    max_price: str | None = None,
    bandwidth: str | None = None,
    post_copy: PostCopyChoice = PostCopyChoice.NEVER,
    stop_and_copy: bool = False,
    seed: bool = False,
    seed_bandwidth: str | None = None,
    overlays: OverlaysChoice = OverlaysChoice.IF_KNOWN,
    now: datetime,
) -> PortLimits:
    """A tenant's limits from what was typed; raises `BadValue`."""
    start, end = parse_window(window, now=now)
    until = parse_time(deadline, now=now) if deadline else None
    if end is not None and until is not None:
        raise BadValue(deadline or "", "either an end in --window or a --deadline, not both")
    last = end or until
    if last is not None and last <= (start or now):
        raise BadValue(deadline or window, "a deadline after the window's start and after now")
    if seed and start is None:
        raise BadValue(window, "a --window that starts later, for there to be time to --seed")
    if seed_bandwidth and not seed:
        raise BadValue(seed_bandwidth, "--seed with --seed-bandwidth")
    return PortLimits(
        max_downtime_ms=parse_downtime_ms(max_downtime),
        window_start=start,
        deadline=last,
        max_price_per_month=parse_price(max_price) if max_price else None,
        bandwidth_bytes_per_s=parse_rate_bytes_per_s(bandwidth) if bandwidth else None,
        post_copy={"never": "never", "if-needed": "if_needed", "always": "always"}[post_copy],
        stop_and_copy=stop_and_copy,
        seed=seed,
        seed_bandwidth_bytes_per_s=parse_rate_bytes_per_s(seed_bandwidth) if seed_bandwidth else None,
        overlays={"never": "never", "if-known": "if_known"}[overlays],
    )


async def _request(client: TenantClient, vm: str, to: str, limits: PortLimits, *, dry_run: bool) -> PortRequested:
    found = find_vm(vm, await client.vms())
    return PortRequested(
        port_id=uuid4(), vm_uuid=found.uuid, donor=found.provider, recipient=to, limits=limits, dry_run=dry_run
    )


def quote(
    context: typer.Context,
    vm: VmArgument,
    to: Annotated[str, typer.Option(help="A provider, or best: all are asked.")] = BEST,
) -> None:
    """Ask what a port of this VM would cost and take; nothing moves.

    JSON: a PortPlanned.
    """
    session: Session = context.obj

    async def ask(client: TenantClient) -> PortPlanned:
        request = await _request(client, vm, to, PortLimits(), dry_run=True)
        return await client.plan(request, timeout_s=max(PLAN_TIMEOUT_S, session.wait_s))

    _answer_plan(session, session.run(ask))


def _answer_plan(session: Session, plan: PortPlanned) -> None:
    session.answer(plan, *render.plan_tables(plan))
    if not plan.quotes:
        raise typer.Exit(ExitCode.REFUSED)


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
        str | None, typer.Option(help="Give the port up when it is not switched over by then; ISO 8601 or +2h.")
    ] = None,
    max_price: Annotated[str | None, typer.Option(help="Highest price per month, such as 12.50.")] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(help="Most that the transfer may use: 50mbit or 50Mbps (bits), 6MB (bytes) per second."),
    ] = None,
    post_copy: Annotated[
        PostCopyChoice,
        typer.Option(
            help="Let the guest run at the recipient before all of its memory is there; it is lost if the link is."
        ),
    ] = PostCopyChoice.NEVER,
    stop_and_copy: Annotated[
        bool,
        typer.Option(
            "--stop-and-copy", help="Stop a guest that writes too fast for --max-downtime; else the port fails."
        ),
    ] = False,
    seed: Annotated[
        bool, typer.Option("--seed", help="Send ahead of --window what changes rarely; the guest moves in the window.")
    ] = False,
    seed_bandwidth: Annotated[
        str | None, typer.Option(help="Most that --seed may use: 10mbit (bits) or 1MB (bytes) per second.")
    ] = None,
    overlays: Annotated[
        OverlaysChoice,
        typer.Option(help="Let disks that are overlays be so again, on the recipient's own copy of their base image."),
    ] = OverlaysChoice.IF_KNOWN,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Verify and quote only.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the port until its end.")] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Return when the broker has recorded the request, before it is decided.")
    ] = False,
) -> None:
    """Ask for a port of a running VM; returns when it is fixed or refused, which the exit code says.

    JSON: {port_id, outcome}, outcome being fixed, or accepted with --no-wait; with --dry-run a PortPlanned; with
    --watch NDJSON as 'port watch' writes it.
    """
    session: Session = context.obj
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
        now=datetime.now().astimezone(),
    )

    async def plan(client: TenantClient) -> PortPlanned:
        request = await _request(client, vm, to, limits, dry_run=True)
        return await client.plan(request, timeout_s=max(PLAN_TIMEOUT_S, session.wait_s))

    async def create(client: TenantClient) -> UUID:
        request = await _request(client, vm, to, limits, dry_run=False)
        _say_limits(session, limits)
        await client.create_port(request)
        return request.port_id

    async def create_and_wait(client: TenantClient) -> UUID:
        port_id = await create(client)
        await client.wait_fixed(port_id, timeout_s=max(FIXED_TIMEOUT_S, session.wait_s))
        return port_id

    if watch and no_wait:
        raise BadValue("--no-wait", "either --watch or --no-wait, not both")
    if dry_run:
        _say_limits(session, limits)
        _answer_plan(session, session.run(plan))
    elif watch:
        _watch(session, create)
    elif no_wait:
        _answer_taken(session, session.run(create), "accepted")
    else:
        _answer_taken(session, session.run(create_and_wait), "fixed")


def _say_limits(session: Session, limits: PortLimits) -> None:
    """What was understood, before anything is done; a program finds it in the port's record."""
    if not session.as_json:
        session.say(f"limits: {render.limits_text(limits)}")


def _answer_taken(session: Session, port_id: UUID, outcome: str) -> None:
    if session.as_json:
        session.write(render.json_text(render.as_json(PortTaken(port_id=port_id, outcome=outcome))))
    else:
        session.write(str(port_id))
        session.say(f"{outcome}; 'vmport port watch {str(port_id)[:8]}' follows it")


@app.command("list")
def list_ports(
    context: typer.Context,
    *,
    active: Annotated[bool, typer.Option("--active", help="Only ports that are under way.")] = False,
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
    """Show a port's agreement and its record: every event, when, and by whom.

    JSON: a PortShown.
    """
    session: Session = context.obj

    async def ask(client: TenantClient) -> None:
        shown = await client.port(await _port_id(client, port))
        session.answer(shown, *render.port_facts(shown))

    session.run(ask)


@app.command("watch")
def watch_port(context: typer.Context, port: PortArgument) -> None:
    """Follow a port until its end; the exit code says how it ended. Ctrl-C stops watching, not the port.

    JSON: NDJSON, one {time, type, data} per event, data being the message; the last line has type Outcome.
    """
    session: Session = context.obj
    _watch(session, lambda client: _port_id(client, port))


def _watch(session: Session, which: Callable[[TenantClient], Awaitable[UUID]]) -> None:
    """Find or make the port, and follow it, in one conversation; ends the program with how the port ended."""
    found: list[UUID] = []

    async def follow(client: TenantClient) -> outcomes.Outcome:
        found.append(await which(client))
        return await _followed(session, client, found[0])

    try:
        outcome = session.run(follow)
    except KeyboardInterrupt:
        for port_id in found:
            _say_detached(session, port_id)
        raise
    if session.as_json:
        line = {"type": "Outcome", "data": render.as_json(outcome)}
        session.write(render.json_text(line, compact=True))
    else:
        _say_outcome(session, outcome)
    raise typer.Exit(EXIT_OF_PHASE.get(outcome.outcome, ExitCode.CRASHED))


def _say_detached(session: Session, port_id: UUID) -> None:
    session.say(
        f"\nno longer watching; the port goes on.\n"
        f"  vmport port watch {port_id}    looks again\n"
        f"  vmport port cancel {port_id}   takes it back, until switchover"
    )


async def _followed(session: Session, client: TenantClient, port_id: UUID) -> outcomes.Outcome:
    session.say(f"port {port_id}")
    outcome = outcomes.started(port_id)
    if session.as_json:
        async for envelope in client.watch(port_id):
            outcome = outcomes.heard(outcome, envelope.data)
            session.write(render.json_text(_event(envelope), compact=True))
        return outcome
    with view_for(session.err) as view:
        async for envelope in client.watch(port_id):
            outcome = outcomes.heard(outcome, envelope.data)
            view.show(envelope.data)
    return outcome


def _event(envelope: AnyEnvelope) -> dict[str, object]:
    data = envelope.data
    return {"time": envelope.time.isoformat(), "type": type(data).__name__, "data": render.as_json(data)}


def _say_outcome(session: Session, outcome: outcomes.Outcome) -> None:
    render.show(session.out, render.outcome_table(outcome))
    if outcome.refusals:
        render.show(session.out, render.refusals_table(outcome.refusals, title=outcome.detail))
    elif outcome.detail:
        session.say(outcome.detail)
    for warning in outcome.warnings:
        session.say(f"warning: {warning}")


@app.command("cancel")
def cancel_port(
    context: typer.Context,
    port: PortArgument,
    reason: Annotated[str | None, typer.Option(help="For the record.")] = None,
) -> None:
    """Take a port back; possible until switchover. Returns when everything that it made is removed.

    JSON: a PortCancelled.
    """
    session: Session = context.obj

    async def cancel(client: TenantClient) -> None:
        port_id = await _port_id(client, port)
        try:
            done = await client.cancel(port_id, reason=reason, timeout_s=max(CANCEL_TIMEOUT_S, session.wait_s))
            said = f"port {port_id} is cancelled in phase {done.phase}; the VM stays where it was"
        except CancelNotPossible as error:
            # Cancelling twice is no error: what was wanted is so.
            if error.code != "already_ended" or (await client.port(port_id)).summary.phase is not PortPhase.CANCELLED:
                raise
            done = PortCancelled(port_id=port_id, phase=PortPhase.CANCELLED)
            said = f"port {port_id} is already cancelled"
        if session.as_json:
            session.write(render.json_text(render.as_json(done)))
        else:
            session.say(said)

    session.run(cancel)
