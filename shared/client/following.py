"""Following a port from the command line: its events as they come, then how it ended. Owns what is said, no command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from uuid import UUID

import typer

from shared.client import outcome as outcomes
from shared.client import render
from shared.client.exits import exit_code_of_outcome
from shared.client.sdk import TenantClient
from shared.client.session import Session
from shared.client.watch_view import view_for
from shared.client.wire_rate import WireRate
from shared.messages import AnyEnvelope

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
            outcome = outcomes.heard(outcome, envelope.data)
            session.write(render.json_text(_event(envelope), compact=True))
        return outcome
    wire_rate = WireRate()
    with view_for(session.err) as view:
        async for envelope in client.watch(port_id):
            outcome = outcomes.heard(outcome, envelope.data)
            view.show(envelope.data, wire_bytes_per_s=wire_rate.update(envelope.data, envelope.time))
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
