"""How a port ends, and how a transfer under way is stopped. Pure.

Every end tells the tenant and the donor, lets go of whatever recipients hold, and closes the lanes; these functions
are the only way into an end phase.
"""

from __future__ import annotations

from services.broker.saga import sla
from services.broker.saga.decision import Decision, Moment
from services.broker.saga.effects import CloseLanes, Effect, RecordEnd, Send
from services.broker.saga.events import Heard
from services.broker.saga.state import Failure, SagaState
from shared.messages import Message, Refusal
from shared.messages.porting import AbortTransfer, ReleaseReservation, Side, TransferAborted, TransferFailed
from shared.messages.service_change import (
    PortCancelled,
    PortCompleted,
    PortFailed,
    PortPhase,
    PortPlanned,
    PortRefused,
)
from shared.parties import BROKER, Name, Party, recipient


def release(state: SagaState, reason: str, *, keep: Name | None = None) -> tuple[tuple[Effect, ...], tuple[Name, ...]]:
    """Effects that tell all holders (but ``keep``) to let go, and the new value of ``released``."""
    holders = [name for name in state.holders if name != keep]
    message = ReleaseReservation(port_id=state.port_id, reason=reason)
    effects: tuple[Effect, ...] = tuple(Send(recipient(name), message) for name in holders)
    return effects, (*state.released, *holders)


def _close(
    at: Moment, phase: PortPhase, *effects: Effect, reason: str, record: RecordEnd, **changes: object
) -> Decision:
    letting_go, released = release(at.state, reason)
    lanes: tuple[Effect, ...] = ()
    if at.state.lanes_open and at.state.lane_ends is not None:
        lanes = (CloseLanes(at.state.lane_ends),)
    return at.go(
        phase, *effects, *letting_go, *lanes, record, note=record.detail, released=released, lanes_open=False, **changes
    )


def _told(state: SagaState, message: Message) -> tuple[Effect, ...]:
    """The message to everybody who holds the agreement; before there is one, to tenant and donor."""
    parties: list[Party] = [state.tenant_party, state.donor_party]
    if state.agreement is not None and state.recipient_party is not None:
        parties.append(state.recipient_party)
    return tuple(Send(party, message) for party in parties)


def refuse(at: Moment, by: Party, refusals: tuple[Refusal, ...], *, tell_donor: bool) -> Decision:
    """The port does not happen, by somebody's rules."""
    state = at.state
    told: tuple[Effect, ...] = (
        Send(state.tenant_party, PortRefused(port_id=state.port_id, refused_by=str(by), refusals=refusals)),
    )
    if tell_donor:
        told += (Send(state.donor_party, PortCancelled(port_id=state.port_id, phase=state.phase)),)
    detail = f"refused by {by}: " + "; ".join(map(str, refusals))
    return _close(
        at,
        PortPhase.REFUSED,
        *told,
        reason="the port was refused",
        record=RecordEnd(PortPhase.REFUSED, refusals[0].code if refusals else "refused", detail),
        refusals=refusals,
    )


def refused_by_broker(at: Moment, refusals: tuple[Refusal, ...]) -> Decision:
    """No recipient is left to choose."""
    return refuse(at, BROKER, refusals, tell_donor=True)


def plan(at: Moment, planned: PortPlanned) -> Decision:
    """A dry run ends: the tenant has its offers, everybody else forgets."""
    state = at.state
    return _close(
        at,
        PortPhase.PLANNED,
        Send(state.tenant_party, planned),
        Send(state.donor_party, PortCancelled(port_id=state.port_id, phase=state.phase)),
        reason="the port was a dry run",
        record=RecordEnd(PortPhase.PLANNED, "planned", f"{len(planned.quotes)} offers"),
    )


def end_without_success(at: Moment, failure: Failure, warnings: tuple[str, ...] = ()) -> Decision:
    """FAILED or CANCELLED: the VM is the donor's, and nothing is left of the port."""
    state = at.state
    message: Message
    if failure.outcome is PortPhase.CANCELLED:
        message = PortCancelled(port_id=state.port_id, phase=failure.phase)
    else:
        detail = " ".join((failure.detail, *warnings))
        message = PortFailed(
            port_id=state.port_id, phase=failure.phase, code=failure.code, detail=detail, vm_runs_at=state.owner
        )
    return _close(
        at,
        failure.outcome,
        *_told(state, message),
        reason=f"the port ended: {failure.code}",
        record=RecordEnd(failure.outcome, failure.code, failure.detail),
        failure=failure,
        warnings=(*state.warnings, *warnings),
    )


def complete(at: Moment, state: SagaState) -> Decision:
    """The VM is provisioned at the recipient and disconnected at the donor. ``state`` has the last news in it."""
    at = Moment(state, at.now, at.timing)
    if state.agreement is None or state.recipient is None:
        raise ValueError("a port without an agreement cannot complete")
    measured = sla.measure(state)
    figures = state.outbound
    warnings = (*state.warnings, *measured.warnings)
    completed = PortCompleted(
        port_id=state.port_id,
        recipient=state.recipient,
        epoch=state.epoch,
        sla=measured.record,
        memory_bytes=figures.memory_bytes if figures else 0,
        disk_bytes=figures.disk_bytes if figures else 0,
        wire_bytes=figures.wire_bytes if figures else 0,
        seeded_bytes=figures.seeded_bytes if figures else 0,
        warnings=warnings,
    )
    runs = f"served by {state.recipient}, epoch {state.epoch}"
    # The chosen recipient's reservation has become the VM itself: PortCompleted is what it gets instead of a release.
    settled = Moment(state.but(released=(*state.released, state.recipient)), at.now, at.timing)
    return _close(
        settled,
        PortPhase.COMPLETED,
        *_told(state, completed),
        reason="the port completed elsewhere",
        record=RecordEnd(PortPhase.COMPLETED, "completed", "; ".join((runs, *warnings)), measured.record),
        sla=measured.record,
        warnings=warnings,
    )


def fail(at: Moment, code: str, detail: str) -> Decision:
    """Give up before anything has begun to move: nobody has anything to stop."""
    return end_without_success(at, Failure(outcome=PortPhase.FAILED, phase=at.state.phase, code=code, detail=detail))


def abort(at: Moment, failure: Failure, *effects: Effect, note: str = "", **changes: object) -> Decision:
    """Stop both halves; the port ends when they have confirmed it. From now on switchover is denied."""
    decision = at.go(
        PortPhase.ABORTING,
        *effects,
        note=note or f"{failure.code}: {failure.detail}",
        failure=failure,
        wake_at=at.now + at.timing.retry(0),
        aborted=(),
        **changes,
    )
    return Decision(
        decision.state, (*effects, *abort_questions(decision.state)), decision.note, decision.verdict, decision.rearm
    )


def abort_failed(at: Moment, code: str, detail: str) -> Decision:
    """A failure while the transfer is under way."""
    return abort(at, Failure(outcome=PortPhase.FAILED, phase=at.state.phase, code=code, detail=detail))


def abort_questions(state: SagaState) -> tuple[Effect, ...]:
    """AbortTransfer to each half that has not confirmed yet."""
    reason = str(state.failure.detail if state.failure else "aborted")
    effects: list[Effect] = []
    if Side.OUTBOUND not in state.aborted:
        effects.append(Send(state.donor_party, AbortTransfer(port_id=state.port_id, side=Side.OUTBOUND, reason=reason)))
    if Side.INBOUND not in state.aborted and state.recipient_party is not None:
        effects.append(
            Send(state.recipient_party, AbortTransfer(port_id=state.port_id, side=Side.INBOUND, reason=reason))
        )
    return tuple(effects)


# ABORTING: wait until both halves have confirmed that they are stopped and clean.


def transfer_aborted(at: Moment, event: Heard) -> Decision:
    """One half is stopped; with both, the port ends."""
    answer = event.message
    if not isinstance(answer, TransferAborted):
        raise TypeError(type(answer))
    expected = Side.OUTBOUND if event.sender == at.state.donor_party else Side.INBOUND
    if answer.side is not expected:
        return at.ignore(f"{event.sender} cannot speak for the {answer.side} half")
    aborted = (*(side for side in at.state.aborted if side is not answer.side), answer.side)
    warnings = list(at.state.warnings)
    if answer.side is Side.OUTBOUND and not answer.guest_running:
        warnings.append("The donor reports that the VM does not run after the abort.")
    if answer.side is Side.INBOUND and answer.guest_running:
        warnings.append("The recipient reports that a copy of the VM runs after the abort.")
    if answer.left_overs:
        warnings.append(f"The {answer.side} half could not remove: {', '.join(answer.left_overs)}.")
    if len(aborted) < len(Side):
        return at.stay(note=f"{answer.side} half stopped", aborted=aborted, warnings=tuple(dict.fromkeys(warnings)))
    state = at.state.but(aborted=aborted, warnings=())
    return _end_aborted(Moment(state, at.now, at.timing), tuple(dict.fromkeys(warnings)))


def other_half_failed(at: Moment, event: Heard) -> Decision:
    """Both halves failed: what the second one says may be the cause, so the tenant reads both."""
    report, failure = event.message, at.state.failure
    if not isinstance(report, TransferFailed) or failure is None:
        raise TypeError(type(report))
    reason = f"{event.sender.owner}, {report.side} half: {report.code}: {report.detail}"
    if failure.outcome is PortPhase.CANCELLED or reason in failure.detail:
        return at.stay(note=reason)
    detail = f"{failure.detail}; {reason}"
    return at.stay(note=reason, failure=failure.model_copy(update={"detail": detail}))


def ask_abort_again(at: Moment) -> Decision:
    """Not both halves have answered: repeat AbortTransfer, which is idempotent."""
    retries = at.state.retries + 1
    return at.stay(
        *abort_questions(at.state), note="asked again", retries=retries, wake_at=at.now + at.timing.retry(retries)
    )


def abort_deadline(at: Moment) -> Decision:
    """A half stays silent: end anyway. It asks who owns the VM when it comes back, and removes its left-overs then."""
    silent = [side for side in Side if side not in at.state.aborted]
    warning = f"No confirmation came from the {' and '.join(silent)} half; it will clean up when it is back."
    state = at.state.but(warnings=())
    return _end_aborted(Moment(state, at.now, at.timing), (*at.state.warnings, warning))


def _end_aborted(at: Moment, warnings: tuple[str, ...]) -> Decision:
    if at.state.failure is None:
        raise ValueError("a port cannot be aborting without a reason")
    return end_without_success(at, at.state.failure, warnings)
