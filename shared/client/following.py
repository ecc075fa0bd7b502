"""Following a port from the command line: its events as they come, then how it ended. Owns what is said, no command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID

import typer

from shared.bus import BusDown
from shared.client import outcome as outcomes
from shared.client import render
from shared.client.errors import NoAnswer, QuestionFailed
from shared.client.exits import exit_code_of_outcome
from shared.client.sdk import TenantClient
from shared.client.session import Session
from shared.client.watch_view import view_for
from shared.client.wire_rate import WireRate
from shared.messages import AnyEnvelope
from shared.messages.service_change import PortPhase

FindPort = Callable[[TenantClient], Awaitable[UUID]]


def follow(session: Session, find: FindPort) -> None:
    """Find or create the port and follow it, on one connection; ends the program with how the port ended."""
    found: list[UUID] = []

    async def work(client: TenantClient) -> outcomes.Outcome:
        found.append(await find(client))
        return await _followed(session, client, found[0])

    try:
        outcome = session.run(work)
    except KeyboardInterrupt:
        for port_id in found:
            say_detached(session, port_id)
        raise
    if session.as_json:
        line = {"type": "Outcome", "data": render.as_json(outcome)}
        session.write(render.json_text(line, compact=True))
    else:
        _say_outcome(session, outcome)
    raise typer.Exit(exit_code_of_outcome(outcome))


def say_detached(session: Session, port_id: UUID) -> None:
    """After Ctrl-C: the port goes on, and how to get back to it."""
    session.say(
        f"\nno longer watching; the port goes on.\n"
        f"  vmport port watch {port_id}    follows it again\n"
        f"  vmport port cancel {port_id}   cancels it, until switchover"
    )


async def _followed(session: Session, client: TenantClient, port_id: UUID) -> outcomes.Outcome:
    session.say(f"port {port_id}")
    outcome = outcomes.started(port_id)
    if session.as_json:
        async for envelope in client.watch(port_id):
            outcome = outcomes.with_event(outcome, envelope.data)
            session.write(render.json_text(_event(envelope), compact=True))
        return await _located(client, outcome)
    wire_rate = WireRate()
    with view_for(session.err) as view:
        async for envelope in client.watch(port_id):
            outcome = outcomes.with_event(outcome, envelope.data)
            view.show(envelope.data, wire_bytes_per_s=wire_rate.update(envelope.data, envelope.time))
    return await _located(client, outcome)


async def _located(client: TenantClient, outcome: outcomes.Outcome) -> outcomes.Outcome:
    """With the provider that runs the VM; for a port that had failed before it was watched, the registry says it."""
    if outcome.outcome is not PortPhase.FAILED or outcome.vm_runs_at is not None:
        return outcome
    # How the port ended is known already, and is shown even if the broker does not answer any more.
    with suppress(NoAnswer, BusDown, QuestionFailed):
        vm_uuid = (await client.port(outcome.port_id)).summary.vm_uuid
        provider = next((vm.provider for vm in await client.vms() if vm.uuid == vm_uuid), None)
        return outcome.model_copy(update={"vm_runs_at": provider})
    return outcome


def _event(envelope: AnyEnvelope) -> dict[str, object]:
    data = envelope.data
    return {"time": envelope.time.isoformat(), "type": type(data).__name__, "data": render.as_json(data)}


def _say_outcome(session: Session, outcome: outcomes.Outcome) -> None:
    session.show(render.outcome_table(outcome))
    if outcome.refusals:
        session.show(render.refusals_table(outcome.refusals, title=outcome.detail))
    elif outcome.detail:
        session.say(outcome.detail)
    for warning in outcome.warnings:
        session.say(f"warning: {warning}")
