"""How a port ends, and how a running transfer is stopped. Pure.

Every end tells the tenant and the donor, releases all reservations and closes the lanes. The functions here are the
only way into an end phase.
"""

from __future__ import annotations

from typing import Any

from services.broker.saga import networking, obligations, sla
from services.broker.saga.decision import Decision, Moment
from services.broker.saga.effects import Alarm, CloseLanes, Effect, RecordEnd, Send
from services.broker.saga.events import Heard
from services.broker.saga.state import Failure, SagaState
from shared.messages import Message, Refusal
from shared.messages.porting import (
    AbortTransfer,
    InboundFinished,
    ReleaseReservation,
    Side,
    SwitchoverDenied,
    TransferAborted,
    TransferFailed,
)
from shared.messages.service_change import (
    PortCancelled,
    PortCompleted,
    PortFailed,
    PortPhase,
    PortPlanned,
    PortRefused,
)
from shared.parties import BROKER, Name, Party, recipient

# Releasing quotes and reservations


def release(at: Moment, name: Name, reason: str) -> Send:
    """Tell one provider to release what it holds for this port; harmless if it holds nothing."""
    return Send(recipient(name), ReleaseReservation(port_id=at.state.port_id, reason=reason))


def release_all(at: Moment, reason: str, *, keep: Name | None = None) -> tuple[tuple[Effect, ...], tuple[Name, ...]]:
    """Effects that tell all holders (except ``keep``) to release, and the new value of ``released``."""
    holders = [name for name in at.state.holders if name != keep]
    return tuple(release(at, name, reason) for name in holders), (*at.state.released, *holders)


# The ends


def _close(at: Moment, phase: PortPhase, *effects: Effect, reason: str, record: RecordEnd, **changes: Any) -> Decision:
    at = obligations.ended(at, phase)
    releases, released = release_all(at, reason)
    kept = networking.kept_after(at, phase)
    keeps_lane = any(each.has_lanes for each in kept)
    lanes: tuple[Effect, ...] = (CloseLanes(at.lane_ends, keep_extension=keeps_lane),) if at.state.lanes_open else ()
    return at.go(
        phase,
        *effects,
        *releases,
        *lanes,
        *kept,
        record,
        note=record.detail,
        released=released,
        lanes_open=False,
        **changes,
    )


def _tell_all(state: SagaState, message: Message) -> tuple[Effect, ...]:
    """Send the message to everybody who holds the agreement; before there is one, to tenant and donor."""
    parties: list[Party] = [state.tenant_party, state.donor_party]
    if state.agreement is not None and state.recipient_party is not None:
        parties.append(state.recipient_party)
    return tuple(Send(party, message) for party in parties)


def refuse(at: Moment, by: Party, refusals: tuple[Refusal, ...], *, tell_donor: bool) -> Decision:
    """End as REFUSED: a rule of ``by`` forbids the port."""
    state = at.state
    effects: tuple[Effect, ...] = (
        Send(state.tenant_party, PortRefused(port_id=state.port_id, refused_by=str(by), refusals=refusals)),
    )
    if tell_donor:
        effects += (Send(state.donor_party, PortCancelled(port_id=state.port_id, phase=state.phase)),)
    detail = f"refused by {by}: " + "; ".join(map(str, refusals))
    return _close(
        at,
        PortPhase.REFUSED,
        *effects,
        reason="the port was refused",
        record=RecordEnd(PortPhase.REFUSED, refusals[0].code if refusals else "refused", detail),
        refusals=refusals,
    )


def refused_by_broker(at: Moment, refusals: tuple[Refusal, ...]) -> Decision:
    """End as REFUSED because no recipient is left to choose."""
    return refuse(at, BROKER, refusals, tell_donor=True)


def plan(at: Moment, planned: PortPlanned) -> Decision:
    """End a dry run: the tenant gets the offers, everybody else drops the port."""
    state = at.state
    return _close(
        at,
        PortPhase.PLANNED,
        Send(state.tenant_party, planned),
        Send(state.donor_party, PortCancelled(port_id=state.port_id, phase=state.phase)),
        reason="the port was a dry run",
        record=RecordEnd(PortPhase.PLANNED, "planned", f"offers: {len(planned.quotes)}"),
    )


def end_without_success(at: Moment, failure: Failure, warnings: tuple[str, ...] = ()) -> Decision:
    """End as FAILED or CANCELLED: the VM belongs to the donor, and nobody else holds anything of the port."""
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
        *_tell_all(state, message),
        reason=f"the port ended: {failure.code}",
        record=RecordEnd(failure.outcome, failure.code, failure.detail),
        failure=failure,
        warnings=(*state.warnings, *warnings),
    )


def complete(at: Moment) -> Decision:
    """End as COMPLETED: the VM is provisioned at the recipient and disconnected at the donor."""
    state = at.state
    measured = sla.measure(at)
    figures = state.outbound
    warnings = (*state.warnings, *measured.warnings)
    completed = PortCompleted(
        port_id=state.port_id,
        recipient=at.recipient,
        epoch=state.epoch,
        sla=measured.record,
        memory_bytes=figures.memory_bytes if figures else 0,
        disk_bytes=figures.disk_bytes if figures else 0,
        wire_bytes=figures.wire_bytes if figures else 0,
        seeded_bytes=figures.seeded_bytes if figures else 0,
        warnings=warnings,
    )
    runs = f"served by {at.recipient}, epoch {state.epoch}"
    # The recipient's reservation has become the VM itself, so the recipient gets PortCompleted instead of a release.
    return _close(
        at.with_(released=(*state.released, at.recipient)),
        PortPhase.COMPLETED,
        *_tell_all(state, completed),
        reason="the port completed at another provider",
        record=RecordEnd(PortPhase.COMPLETED, "completed", "; ".join((runs, *warnings)), measured.record),
        sla=measured.record,
        warnings=warnings,
    )


def fail(at: Moment, code: str, detail: str) -> Decision:
    """End as FAILED before a transfer exists, so there is nothing to stop."""
    return end_without_success(at, Failure(outcome=PortPhase.FAILED, phase=at.state.phase, code=code, detail=detail))


# The way into ABORTING


def abort(at: Moment, failure: Failure, *effects: Effect, note: str = "") -> Decision:
    """Stop the transfer on both sides; the port ends when both have confirmed. From now on switchover is denied, also
    to a node that has asked for it and waits.
    """
    at = at.with_(failure=failure, aborted=())
    denials: tuple[Effect, ...] = ()
    if at.state.switchover_requested_at is not None and not at.state.reverted:
        denied = SwitchoverDenied(port_id=at.state.port_id, code=failure.code, detail=at.failure.detail)
        denials = (Send(at.recipient_node, denied),)
    return at.go(
        PortPhase.ABORTING,
        *effects,
        *denials,
        *_abort_questions(at),
        note=note or f"{failure.code}: {failure.detail}",
        wake_at=at.now + at.timing.retry(0),
    )


def abort_failed(at: Moment, code: str, detail: str) -> Decision:
    """Abort because something failed during the transfer."""
    return abort(at, Failure(outcome=PortPhase.FAILED, phase=at.state.phase, code=code, detail=detail))


def _abort_questions(at: Moment) -> tuple[Effect, ...]:
    """AbortTransfer to each side that has not confirmed yet."""
    sides = {Side.OUTBOUND: at.state.donor_party, Side.INBOUND: at.recipient_party}
    return tuple(
        Send(party, AbortTransfer(port_id=at.state.port_id, side=side, reason=at.failure.detail, epoch=at.state.epoch))
        for side, party in sides.items()
        if side not in at.state.aborted
    )


# ABORTING: wait until both sides have confirmed that their transfer is stopped


def transfer_aborted(at: Moment, heard: Heard[TransferAborted]) -> Decision:
    """One side has stopped; when both have, the port ends."""
    answer = heard.message
    expected = Side.OUTBOUND if heard.sender == at.state.donor_party else Side.INBOUND
    if answer.side is not expected:
        return at.ignore(f"{heard.sender} cannot speak for the {answer.side} side")
    if at.state.contradiction and answer.guest_running is not (answer.side is Side.OUTBOUND):
        return at.stay(note=f"{answer.side} side stopped, but the guest is not where the ledger says")
    aborted = (*(side for side in at.state.aborted if side is not answer.side), answer.side)
    warnings = [*at.state.warnings, *([at.state.contradiction] if at.state.contradiction else [])]
    if answer.side is Side.OUTBOUND and not answer.guest_running:
        warnings.append("The donor reports that the VM does not run after the abort.")
    if answer.side is Side.INBOUND and answer.guest_running:
        warnings.append("The recipient reports that a copy of the VM runs after the abort.")
    if answer.left_overs:
        warnings.append(f"The {answer.side} side could not remove: {', '.join(answer.left_overs)}.")
    unique = tuple(dict.fromkeys(warnings))
    if len(aborted) < len(Side):
        return at.stay(note=f"{answer.side} side stopped", aborted=aborted, warnings=unique)
    return end_without_success(at.with_(aborted=aborted, warnings=()), at.failure, unique)


def contradicted(at: Moment, heard: Heard[Message]) -> Decision:
    """A side says that the guest left the donor or runs at the recipient, although the ledger gave the VM back.

    Perhaps the guest runs nowhere, perhaps at the recipient. The port does not end on any single word from now on: the
    donor must say that the guest runs there, and the recipient that it does not; or an operator settles it.
    """
    detail = _contradiction(at, heard)
    if at.state.contradiction:
        # The answer to our question, most likely. Asked again at once, it would be given again at once, without end.
        return at.stay(note=detail, aborted=())
    at = at.with_(contradiction=detail, aborted=())
    return at.stay(
        Alarm("words_contradict", detail),
        *_abort_questions(at),
        note=detail,
        retries=0,
        wake_at=at.now + at.timing.retry(0),
    )


def contradicted_late(at: Moment, heard: Heard[Message]) -> Decision:
    """The same after the end: nothing can be changed, but an operator must know."""
    detail = _contradiction(at, heard)
    return at.stay(Alarm("words_contradict", f"after the port's end: {detail}"), note=detail)


def _contradiction(at: Moment, heard: Heard[Message]) -> str:
    says = "that the guest runs there" if isinstance(heard.message, InboundFinished) else "that the guest left"
    return f"{heard.sender.owner} says {says}, but the VM is {at.state.owner}'s by epoch {at.state.epoch}"


def other_side_failed(at: Moment, heard: Heard[TransferFailed]) -> Decision:
    """Both sides failed. The second report may name the cause, so the tenant is given both."""
    report, failure = heard.message, at.failure
    reason = f"{heard.sender.owner}, {report.side} side: {report.code}: {report.detail}"
    if failure.outcome is PortPhase.CANCELLED or reason in failure.detail:
        return at.stay(note=reason)
    return at.stay(note=reason, failure=failure.with_(detail=f"{failure.detail}; {reason}"))


def ask_abort_again(at: Moment) -> Decision:
    """A side has not answered: repeat AbortTransfer, which is idempotent."""
    retries = at.state.retries + 1
    return at.stay(
        *_abort_questions(at),
        note="AbortTransfer repeated",
        retries=retries,
        wake_at=at.now + at.timing.retry(retries),
    )


def abort_deadline(at: Moment) -> Decision:
    """A side stays silent: end without it. When it is back, it asks who owns the VM, and then cleans up.

    Not after a contradiction: then nobody may be told where the VM runs before both sides say the same.
    """
    if at.state.contradiction:
        alarm = Alarm("words_contradict", at.state.contradiction)
        return at.stay(alarm, *_abort_questions(at), note="the words still contradict each other", rearm=True)
    silent = [side for side in Side if side not in at.state.aborted]
    warning = f"No confirmation came from the {' and '.join(silent)} side; it will clean up when it is back."
    return end_without_success(at.with_(warnings=()), at.failure, (*at.state.warnings, warning))
