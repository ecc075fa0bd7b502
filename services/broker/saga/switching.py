"""Switchover and what follows it: the commit of the epoch, arrival, completion; and the one way back. Pure.

* The commit is the instant at which ownership passes. The effects of the step that grants switchover are the new
epoch in the
  ledger and the grant in the outbox, in one transaction: there is no grant without a commit.
* After the commit the port has one way forward, and nothing but the recipient's own word leads back: its half says
that it failed
  *and* that no guest runs there. That half is then final: a node that has said so never runs this guest, whatever grant
  reaches it later. Only then the next epoch goes back to the donor, and only then the donor's half is told to abort.
* If the donor has already confirmed that the guest left, there is nothing to go back to; then the port waits, and
calls for help.
"""

from __future__ import annotations

from services.broker.saga.decision import Decision, Moment
from services.broker.saga.effects import Alarm, CommitEpoch, Effect, Send
from services.broker.saga.ending import abort, complete
from services.broker.saga.events import Heard
from services.broker.saga.state import Failure, SagaState
from shared.messages.porting import (
    CompletionFailed,
    DisconnectVm,
    OutboundFinished,
    ProvisionVm,
    RequestSwitchover,
    Side,
    SwitchoverDenied,
    SwitchoverGranted,
    SwitchoverState,
    TransferFailed,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import PortPhase
from shared.parties import recipient

# The request


def grant_switchover(at: Moment, event: Heard) -> Decision:
    """Commit the epoch, then grant."""
    state, request = at.state, event.message
    if not isinstance(request, RequestSwitchover) or state.agreement is None:
        raise TypeError(type(request))
    agreed = state.agreement
    if (request.vm_uuid, request.epoch) != (agreed.vm_uuid, agreed.epoch):
        detail = f"agreed are VM {agreed.vm_uuid} and epoch {agreed.epoch}"
        return at.stay(_denied(state, event, "not_agreed", detail), note=f"switchover denied: {detail}")
    if at.now >= agreed.deadline:
        return deny_switchover(at, event)  # the deadline's own event aborts the port
    if at.now < agreed.window_start - at.timing.clock_difference:
        detail = f"the window opens {agreed.window_start.isoformat()}"
        return at.stay(_denied(state, event, "window_closed", detail), note=f"switchover denied: {detail}")
    return at.go(
        PortPhase.SWITCHING,
        CommitEpoch(agreed.vm_uuid, agreed.epoch, agreed.recipient, agreed.recipient_node),
        Send(event.sender, SwitchoverGranted(port_id=state.port_id, epoch=agreed.epoch)),
        note=f"epoch {agreed.epoch} committed to {agreed.recipient}",
        owner=agreed.recipient,
        epoch=agreed.epoch,
        committed=True,
        switchover_requested_at=at.now,
    )


def grant_again(at: Moment, event: Heard) -> Decision:
    """The node has not heard the grant, or has forgotten it: it still holds."""
    grant = SwitchoverGranted(port_id=at.state.port_id, epoch=at.state.epoch)
    return at.stay(Send(event.sender, grant), note="granted before; said again")


def deny_switchover(at: Moment, event: Heard) -> Decision:
    """The VM stays where it is."""
    failure = at.state.failure
    code, detail = (failure.code, failure.detail) if failure else ("not_now", f"the port is {at.state.phase}")
    return at.stay(_denied(at.state, event, code[:64], detail), note="switchover denied")


def _denied(state: SagaState, event: Heard, code: str, detail: str) -> Effect:
    return Send(event.sender, SwitchoverDenied(port_id=state.port_id, code=code, detail=detail))


def tell_owner(at: Moment, event: Heard) -> Decision:
    """A node asks who owns the VM; so does, after the end, one that asks for switchover: neither grant nor denial
    fits.
    """
    return at.stay(Send(event.sender, switchover_state(at.state)), note=f"told the owner: {at.state.owner}")


def switchover_state(state: SagaState) -> SwitchoverState:
    """Who owns the VM, as far as this port decides it."""
    return SwitchoverState(
        port_id=state.port_id,
        committed=state.committed,
        owner=state.owner,
        epoch=state.epoch,
        ended=state.ended,
        arrived=state.arrived_at is not None,
    )


# SWITCHING and RESOLVING: the VM belongs to the recipient; has it arrived?


def inbound_finished(at: Moment, event: Heard) -> Decision:
    """The VM runs at the recipient."""
    state = at.state.but(arrived_at=at.state.arrived_at or at.now)
    return _when_settled(Moment(state, at.now, at.timing), f"runs at {event.sender.owner}")


def outbound_finished(at: Moment, event: Heard) -> Decision:
    """The donor has seen the guest leave; its figures."""
    return _when_settled(Moment(_with_figures(at, event), at.now, at.timing), f"left {event.sender.owner}")


def late_figures(at: Moment, event: Heard) -> Decision:
    """The donor's figures come while the port finishes."""
    return Decision(_with_figures(at, event), (), "the donor's figures")


def _with_figures(at: Moment, event: Heard) -> SagaState:
    if not isinstance(event.message, OutboundFinished):
        raise TypeError(type(event.message))
    return at.state.but(outbound=event.message)


def failed_after_commit(at: Moment, event: Heard) -> Decision:
    """One half failed although ownership has passed."""
    report = event.message
    if not isinstance(report, TransferFailed):
        raise TypeError(type(report))
    if event.sender == at.state.donor_party:
        return _donor_failed_after_commit(at, report)
    if report.guest_running:
        warning = f"The recipient reported a failure, and that the VM runs: {report.code}: {report.detail}"
        state = at.state.but(arrived_at=at.state.arrived_at or at.now, warnings=(*at.state.warnings, warning))
        return _when_settled(Moment(state, at.now, at.timing), warning)
    if at.state.arrived_at is not None or at.state.outbound is not None:
        detail = f"{report.code}: {report.detail}; but the VM had left the donor, so there is no way back"
        return at.stay(Alarm("lost_after_arrival", detail), note=detail)
    return _revert(at, report)


def _donor_failed_after_commit(at: Moment, report: TransferFailed) -> Decision:
    trouble = f"{report.code}: {report.detail}"
    effects: tuple[Effect, ...] = ()
    if report.guest_running:
        effects = (Alarm("runs_at_donor_after_commit", f"the donor says that its copy runs: {trouble}"),)
    decision = _when_settled(Moment(at.state.but(outbound_trouble=trouble), at.now, at.timing), f"donor: {trouble}")
    return Decision(decision.state, (*effects, *decision.effects), decision.note)


def _revert(at: Moment, report: TransferFailed) -> Decision:
    """No guest runs at the recipient, by its own word, and it is final: the VM goes back to the donor with a new
    epoch.
    """
    state = at.state
    if state.agreement is None or state.donor_node is None:
        raise ValueError("nothing was fixed")
    epoch, owner = state.epoch + 1, state.agreement.donor
    changes = {"owner": owner, "epoch": epoch, "committed": False, "reverted": True}
    detail = f"the recipient's hypervisor could not take the VM: {report.code}: {report.detail}"
    return abort(
        at,
        Failure(outcome=PortPhase.FAILED, phase=state.phase, code=report.code, detail=detail),
        CommitEpoch(state.agreement.vm_uuid, epoch, owner, state.agreement.donor_node),
        Send(state.donor_node, switchover_state(state.but(**changes))),
        note=f"epoch {epoch} committed back to {owner}: {detail}",
        **changes,
    )


def _when_settled(at: Moment, note: str) -> Decision:
    """With the VM arrived, and the donor's half over one way or the other, the port can be finished."""
    state = at.state
    if state.arrived_at is not None and (state.outbound is not None or state.outbound_trouble):
        return _finish(at, note)
    return at.stay(note=note)


def switching_deadline(at: Moment) -> Decision:
    """Arrived, but no figures: finish without them. Not even arrived: ask."""
    if at.state.arrived_at is not None:
        return _finish(at, "the donor's figures are missing")
    return at.go(
        PortPhase.RESOLVING,
        *_ask_recipient(at.state),
        Alarm("arrival_unknown", "the recipient has been granted the VM and does not say whether it runs"),
        note="granted, but nobody says that the VM runs",
        wake_at=at.now + at.timing.retry(0),
    )


def ask_arrival_again(at: Moment) -> Decision:
    """Repeat the grant: a node that runs the VM answers with the news, one that cannot with its failure."""
    retries = at.state.retries + 1
    return at.stay(
        *_ask_recipient(at.state), note="asked again", retries=retries, wake_at=at.now + at.timing.retry(retries)
    )


def resolving_deadline(at: Moment) -> Decision:
    """Go on asking: only the recipient can say, and the VM is its own. An operator hears of it each time."""
    if at.state.arrived_at is not None:
        return _finish(at, "the donor's figures are missing")
    since = at.state.switchover_requested_at
    alarm = Alarm("arrival_unknown", f"the recipient has not said since {since} whether the VM runs")
    return at.stay(alarm, *_ask_recipient(at.state), note="still unresolved", rearm=True)


def _ask_recipient(state: SagaState) -> tuple[Effect, ...]:
    if state.recipient_node is None:
        raise ValueError("nothing was fixed")
    return (Send(state.recipient_node, SwitchoverGranted(port_id=state.port_id, epoch=state.epoch)),)


# FINISHING: the donor disconnects, the recipient provisions; both are asked until they have done it


def _finish(at: Moment, note: str) -> Decision:
    decision = at.go(PortPhase.FINISHING, note=note)
    return Decision(decision.state, _completion_questions(decision.state), note)


def _completion_questions(state: SagaState) -> tuple[Effect, ...]:
    if state.agreement is None or state.identity is None:
        raise ValueError("nothing was fixed")
    uuid = state.agreement.vm_uuid
    effects: list[Effect] = []
    if state.disconnected is None:
        effects.append(Send(state.donor_party, DisconnectVm(port_id=state.port_id, vm_uuid=uuid)))
    if state.provisioned is None:
        provision = ProvisionVm(
            port_id=state.port_id,
            vm_uuid=uuid,
            autostart=state.identity.vm.autostart,
            donor_xml=state.identity.domain_xml,
        )
        effects.append(Send(recipient(state.agreement.recipient), provision))
    return tuple(effects)


def vm_disconnected(at: Moment, event: Heard) -> Decision:
    """The donor no longer has the VM."""
    if not isinstance(event.message, VmDisconnected):
        raise TypeError(type(event.message))
    return _when_complete(at, at.state.but(disconnected=event.message), f"disconnected at {event.sender.owner}")


def vm_provisioned(at: Moment, event: Heard) -> Decision:
    """The recipient serves the VM for good."""
    if not isinstance(event.message, VmProvisioned):
        raise TypeError(type(event.message))
    return _when_complete(at, at.state.but(provisioned=event.message), f"provisioned at {event.sender.owner}")


def _when_complete(at: Moment, state: SagaState, note: str) -> Decision:
    if state.disconnected is not None and state.provisioned is not None:
        return complete(at, state)
    return Decision(state, (), note)


def completion_failed(at: Moment, event: Heard) -> Decision:
    """Not yet: ask again after a pause."""
    report = event.message
    if not isinstance(report, CompletionFailed):
        raise TypeError(type(report))
    expected = Side.OUTBOUND if event.sender == at.state.donor_party else Side.INBOUND
    if report.side is not expected:
        return at.ignore(f"{event.sender} cannot speak for the {report.side} half")
    done = at.state.disconnected if expected is Side.OUTBOUND else at.state.provisioned
    if done is not None:
        return at.ignore("it was done already")
    pause = at.timing.retry(at.state.retries)
    note = f"{event.sender.owner}: {report.code}: {report.detail}"
    return at.stay(note=note, retries=at.state.retries + 1, wake_at=at.now + pause)


def ask_completion_again(at: Moment) -> Decision:
    """Repeat what is not done."""
    return at.stay(*_completion_questions(at.state), note="asked again", wake_at=None)


def finishing_deadline(at: Moment) -> Decision:
    """The VM runs at the recipient, whatever is late here: go on asking, and call an operator."""
    missing = [
        what
        for what, done in (("disconnection", at.state.disconnected), ("provisioning", at.state.provisioned))
        if done is None
    ]
    alarm = Alarm("completion_late", f"still missing: {' and '.join(missing)}")
    return at.stay(alarm, *_completion_questions(at.state), note=alarm.detail, rearm=True)


def disks_erased(at: Moment, event: Heard) -> Decision:
    """The donor's quarantine is over; for the record."""
    return at.stay(note=f"{event.sender.owner} erased the VM's disks")
