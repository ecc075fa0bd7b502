"""Runs the table: one step from a state and an event to a decision. Pure.

It adds what all handlers have in common: who may send what, the tenant's cancel, the deadline of the new phase, and
the check that the table has the edge that a handler took.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from services.broker.saga import choosing, moving, obligations
from services.broker.saga.decision import Decision, Moment, SagaBug, Timing, Verdict
from services.broker.saga.effects import Effect, Send
from services.broker.saga.events import DeadlinePassed, Event, Heard, LanesOpened, RuleDue, Settled, WakeUp
from services.broker.saga.state import ENDS, SagaState
from services.broker.saga.table import ANYWHERE, CANCEL_LEADS_TO, SPEAKERS, TABLE, Cancel, Phase, Then
from shared.messages import Message
from shared.messages.service_change import CancelPort, CancelRefused, PortPhase

Reached = tuple[Decision, tuple[PortPhase, ...]]
"""A handler's decision, and the phases to which the table lets it lead."""


def step(state: SagaState, event: Event, now: datetime, timing: Timing) -> Decision:
    """One step of a port. Raises only `SagaBug`, when a handler does what the table does not allow."""
    at = Moment(state, now, timing)
    row = TABLE[state.phase]
    match event:
        case Heard():
            decision, allowed = _hear(at, row, event)
        case DeadlinePassed():
            at = replace(at, last_heard=event.last_heard)
            decision, allowed = _timed(at, row.on_deadline, due=state.deadline, what="deadline")
        case WakeUp():
            decision, allowed = _timed(at, row.on_wake, due=state.wake_at, what="wake-up")
        case RuleDue():
            decision, allowed = obligations.time_passed(at, event), ()
        case Settled():
            decision, allowed = _settle(at, row, event)
        case LanesOpened():
            decision, allowed = _timed(at, row.on_lanes, due=now, what="opening of lanes")
    return _checked(at, decision, allowed)


# Messages


def _hear(at: Moment, row: Phase, heard: Heard[Message]) -> Reached:
    kind = type(heard.message)
    speakers = SPEAKERS.get(kind)
    if speakers is None:
        return Decision(at.state, (), f"{kind.__name__} is not part of a port's saga", Verdict.REFUSED), ()
    if heard.sender not in speakers(at.state):
        return _refuse_sender(at, heard), ()
    if isinstance(heard.message, CancelPort):
        return _cancel(at, row.cancel, heard.message), CANCEL_LEADS_TO[row.cancel]
    line = next((line for line in (*row.hears, *ANYWHERE) if line.message is kind), None)
    if line is None:
        return at.ignore(f"not expected in phase {at.state.phase}"), ()
    return line.do(at, heard), line.to


def _refuse_sender(at: Moment, heard: Heard[Message]) -> Decision:
    effects: tuple[Effect, ...] = ()
    if isinstance(heard.message, CancelPort):
        # Another tenant must not learn that the port exists: the service answers in the same words if there is none.
        refused = CancelRefused(port_id=at.state.port_id, code="unknown_port", detail="there is no such port of yours")
        effects = (Send(heard.sender, refused),)
    note = f"{heard.sender} may not send {type(heard.message).__name__} for this port"
    return Decision(at.state, effects, note, Verdict.REFUSED)


def _cancel(at: Moment, rule: Cancel, message: CancelPort) -> Decision:
    port_id = at.state.port_id
    match rule:
        case Cancel.ENDS:
            return choosing.cancel_before_moving(at, message.reason)
        case Cancel.ABORTS:
            return moving.cancel_moving(at, message.reason)
        case Cancel.UNDER_WAY if not at.state.reverted:
            return at.ignore("the port is already being aborted")
        case Cancel.UNDER_WAY | Cancel.TOO_LATE:
            refused = CancelRefused(port_id=port_id, code="too_late", detail="the switchover is already committed")
        case Cancel.ENDED:
            refused = CancelRefused(port_id=port_id, code="already_ended", detail=f"the port is {at.state.phase}")
    return at.stay(Send(at.state.tenant_party, refused), note=f"cancel refused: {refused.code}")


# Times


def _timed(at: Moment, line: Then | None, *, due: datetime | None, what: str) -> Reached:
    if line is None or due is None or at.now < due:
        return at.ignore(f"no {what} was expected"), ()
    return line.do(at), line.to


# An operator


def _settle(at: Moment, row: Phase, event: Settled) -> Reached:
    if row.on_settled is None:
        return at.ignore(f"a port in phase {at.state.phase} is not settled by hand"), ()
    return row.on_settled.do(at, event), row.on_settled.to


# Every decision


def _checked(at: Moment, decision: Decision, allowed: tuple[PortPhase, ...]) -> Decision:
    """Check the decision against the table, and set the deadlines of the new phase and of perishable messages."""
    before, after = at.state, decision.state
    if after.phase is not before.phase and after.phase not in allowed:
        raise SagaBug(f"the table has no edge from {before.phase} to {after.phase} for this event")
    if after.epoch < before.epoch:
        raise SagaBug(f"epoch {after.epoch} is older than {before.epoch}")
    if after.phase in ENDS:
        after = after.with_(deadline=None)
    elif after.phase is not before.phase or decision.rearm:
        limit = TABLE[after.phase].limit
        if limit is None:
            raise SagaBug(f"{after.phase} has no deadline")
        after = after.with_(deadline=limit(replace(at, state=after)))
    effects = tuple(
        replace(effect, deadline=after.deadline) if isinstance(effect, Send) and effect.perishable else effect
        for effect in decision.effects
    )
    return replace(decision, state=after, effects=effects)
