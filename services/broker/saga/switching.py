"""Switchover and what follows it: the commit of the epoch, the arrival, the completion; and giving a VM back. Pure.

* The commit is the instant at which ownership passes. The step that grants switchover writes the new epoch to the
  ledger and the grant to the outbox, in one transaction: there is no grant without a commit.
* After the commit the port can only go forward, unless the recipient itself says that its transfer failed *and* that
  no guest runs there. That answer is final: a node that has given it never runs this guest, even if a grant reaches it
  later. Only then does the next epoch give the VM back to the donor, and only then is the donor told to abort.
* If the donor has already confirmed that the guest left, there is nothing to give back; then the port waits and calls
  an operator.
"""

from __future__ import annotations

from services.broker.saga.decision import Decision, Moment
from services.broker.saga.effects import Alarm, CommitEpoch, Effect, Send
from services.broker.saga.ending import abort, complete
from services.broker.saga.events import Heard
from services.broker.saga.state import Failure, SagaState
from shared.messages import Message
from shared.messages.porting import (
    CompletionFailed,
    DisconnectVm,
    DisksErased,
    InboundFinished,
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

# The request


def grant_switchover(at: Moment, heard: Heard[RequestSwitchover]) -> Decision:
    """Commit the epoch, then grant."""
    agreed, asked = at.agreement, heard.message
    if (asked.vm_uuid, asked.epoch) != (agreed.vm_uuid, agreed.epoch):
        return _deny(at, heard, "not_agreed", f"the agreement is about VM {agreed.vm_uuid} and epoch {agreed.epoch}")
    if at.now >= agreed.deadline:
        return deny_switchover(at, heard)  # the deadline's own event aborts the port
    if at.now < agreed.window_start - at.timing.clock_difference:
        return _deny(at, heard, "window_closed", f"the window opens at {agreed.window_start.isoformat()}")
    return at.go(
        PortPhase.SWITCHING,
        CommitEpoch(agreed.vm_uuid, agreed.epoch, agreed.recipient, agreed.recipient_node),
        Send(heard.sender, SwitchoverGranted(port_id=at.state.port_id, epoch=agreed.epoch)),
        note=f"epoch {agreed.epoch} committed to {agreed.recipient}",
        owner=agreed.recipient,
        epoch=agreed.epoch,
        committed=True,
        switchover_requested_at=at.now,
    )


def grant_again(at: Moment, heard: Heard[RequestSwitchover]) -> Decision:
    """The node has not received the grant, or has forgotten it: it is still valid."""
    grant = SwitchoverGranted(port_id=at.state.port_id, epoch=at.state.epoch)
    return at.stay(Send(heard.sender, grant), note="grant repeated")


def deny_switchover(at: Moment, heard: Heard[RequestSwitchover]) -> Decision:
    """The VM stays at the donor."""
    failure = at.state.failure
    if failure is not None:
        return _deny(at, heard, failure.code, failure.detail)
    return _deny(at, heard, "not_now", f"the port is in phase {at.state.phase}")


def _deny(at: Moment, heard: Heard[RequestSwitchover], code: str, detail: str) -> Decision:
    denial = SwitchoverDenied(port_id=at.state.port_id, code=code, detail=detail)
    return at.stay(Send(heard.sender, denial), note=f"switchover denied: {detail}")


def tell_owner(at: Moment, heard: Heard[Message]) -> Decision:
    """Tell a node who owns the VM.

    After the end this also answers a request for switchover: a grant would be wrong, and a denial would make the node
    destroy a VM that may be running.
    """
    return at.stay(Send(heard.sender, _ownership(at.state)), note=f"told that {at.state.owner} owns the VM")


def _ownership(state: SagaState) -> SwitchoverState:
    return SwitchoverState(
        port_id=state.port_id,
        committed=state.committed,
        owner=state.owner,
        epoch=state.epoch,
        ended=state.ended,
        arrived=state.arrived_at is not None,
    )


# SWITCHING and RESOLVING: the VM belongs to the recipient; has it arrived?


def inbound_finished(at: Moment, heard: Heard[InboundFinished]) -> Decision:
    """The VM runs at the recipient."""
    return _finish_when_settled(_arrived(at), f"runs at {heard.sender.owner}")


def outbound_finished(at: Moment, heard: Heard[OutboundFinished]) -> Decision:
    """The donor has seen the guest leave, and reports its figures."""
    return _finish_when_settled(at.with_(outbound=heard.message), f"left {heard.sender.owner}")


def failed_after_commit(at: Moment, heard: Heard[TransferFailed]) -> Decision:
    """One side failed although ownership has passed."""
    report = heard.message
    if heard.sender == at.state.donor_party:
        return _donor_failed_after_commit(at, report)
    if report.guest_running:
        warning = f"The recipient reported a failure, but the VM runs there: {report.code}: {report.detail}"
        return _finish_when_settled(_arrived(at).with_(warnings=(*at.state.warnings, warning)), warning)
    if at.state.arrived_at is not None or at.state.outbound is not None:
        detail = f"{report.code}: {report.detail}; the VM had already left the donor, so it cannot be given back"
        return at.stay(Alarm("lost_after_arrival", detail), note=detail)
    return _revert(at, report)


def _donor_failed_after_commit(at: Moment, report: TransferFailed) -> Decision:
    trouble = f"{report.code}: {report.detail}"
    decision = _finish_when_settled(at.with_(outbound_trouble=trouble), f"donor: {trouble}")
    if not report.guest_running:
        return decision
    alarm = Alarm("runs_at_donor_after_commit", f"the donor reports that its copy of the VM runs: {trouble}")
    return decision.after(alarm, note=decision.note)


def _revert(at: Moment, report: TransferFailed) -> Decision:
    """No guest runs at the recipient, and never will: the next epoch gives the VM back to the donor."""
    agreed, epoch = at.agreement, at.state.epoch + 1
    reverted = at.with_(owner=agreed.donor, epoch=epoch, committed=False, reverted=True)
    detail = f"the recipient's hypervisor could not take the VM: {report.code}: {report.detail}"
    return abort(
        reverted,
        Failure(outcome=PortPhase.FAILED, phase=at.state.phase, code=report.code, detail=detail),
        CommitEpoch(agreed.vm_uuid, epoch, agreed.donor, agreed.donor_node),
        Send(at.donor_node, _ownership(reverted.state)),
        note=f"epoch {epoch} committed back to {agreed.donor}: {detail}",
    )


def _arrived(at: Moment) -> Moment:
    """The VM runs at the recipient; the first report of it gives the time."""
    return at.with_(arrived_at=at.state.arrived_at or at.now)


def _finish_when_settled(at: Moment, note: str) -> Decision:
    """Once the VM has arrived, and the donor's transfer has succeeded or failed, the port can be finished."""
    state = at.state
    if state.arrived_at is not None and (state.outbound is not None or state.outbound_trouble):
        return _finish(at, note)
    return at.stay(note=note)


def switching_deadline(at: Moment) -> Decision:
    """The VM has arrived, but the donor's figures have not: finish without them. If not even the VM: ask."""
    if at.state.arrived_at is not None:
        return _finish(at, "the donor's figures are missing")
    return at.go(
        PortPhase.RESOLVING,
        _grant_to_recipient(at),
        Alarm("arrival_unknown", "the recipient was granted the VM and does not report whether it runs"),
        note="granted, but nobody reports that the VM runs",
        wake_at=at.now + at.timing.retry(0),
    )


def ask_arrival_again(at: Moment) -> Decision:
    """Repeat the grant: a node that runs the VM answers with its arrival, one that cannot with its failure."""
    retries = at.state.retries + 1
    return at.stay(
        _grant_to_recipient(at), note="grant repeated", retries=retries, wake_at=at.now + at.timing.retry(retries)
    )


def resolving_deadline(at: Moment) -> Decision:
    """Go on asking: the VM is the recipient's, and only the recipient knows. Call an operator each time."""
    if at.state.arrived_at is not None:
        return _finish(at, "the donor's figures are missing")
    since = at.state.switchover_requested_at
    alarm = Alarm("arrival_unknown", f"the recipient has not reported since {since} whether the VM runs")
    return at.stay(alarm, _grant_to_recipient(at), note="arrival still unknown", rearm=True)


def _grant_to_recipient(at: Moment) -> Effect:
    return Send(at.recipient_node, SwitchoverGranted(port_id=at.state.port_id, epoch=at.state.epoch))


# FINISHING: the donor disconnects and the recipient provisions; both are asked until they have done it


def _finish(at: Moment, note: str) -> Decision:
    return at.go(PortPhase.FINISHING, *_completion_questions(at), note=note)


def _completion_questions(at: Moment) -> tuple[Effect, ...]:
    """DisconnectVm and ProvisionVm, whichever is not done yet."""
    state, vm_uuid = at.state, at.agreement.vm_uuid
    effects: list[Effect] = []
    if state.disconnected is None:
        effects.append(Send(state.donor_party, DisconnectVm(port_id=state.port_id, vm_uuid=vm_uuid)))
    if state.provisioned is None:
        provision = ProvisionVm(
            port_id=state.port_id,
            vm_uuid=vm_uuid,
            autostart=at.identity.vm.autostart,
            donor_xml=at.identity.domain_xml,
        )
        effects.append(Send(at.recipient_party, provision))
    return tuple(effects)


def late_figures(at: Moment, heard: Heard[OutboundFinished]) -> Decision:
    """The donor's figures come while the port finishes."""
    return at.stay(note="the donor's figures", outbound=heard.message)


def vm_disconnected(at: Moment, heard: Heard[VmDisconnected]) -> Decision:
    """The donor no longer has the VM."""
    return _complete_when_done(at.with_(disconnected=heard.message), f"disconnected at {heard.sender.owner}")


def vm_provisioned(at: Moment, heard: Heard[VmProvisioned]) -> Decision:
    """The recipient serves the VM for good."""
    return _complete_when_done(at.with_(provisioned=heard.message), f"provisioned at {heard.sender.owner}")


def _complete_when_done(at: Moment, note: str) -> Decision:
    if at.state.disconnected is not None and at.state.provisioned is not None:
        return complete(at)
    return at.stay(note=note)


def completion_failed(at: Moment, heard: Heard[CompletionFailed]) -> Decision:
    """It could not be done yet: ask again after a pause."""
    report = heard.message
    expected = Side.OUTBOUND if heard.sender == at.state.donor_party else Side.INBOUND
    if report.side is not expected:
        return at.ignore(f"{heard.sender} cannot speak for the {report.side} side")
    done = at.state.disconnected if expected is Side.OUTBOUND else at.state.provisioned
    if done is not None:
        return at.ignore("it is already done")
    pause = at.timing.retry(at.state.retries)
    note = f"{heard.sender.owner}: {report.code}: {report.detail}"
    return at.stay(note=note, retries=at.state.retries + 1, wake_at=at.now + pause)


def ask_completion_again(at: Moment) -> Decision:
    """Repeat the questions that are still open."""
    return at.stay(*_completion_questions(at), note="questions repeated", wake_at=None)


def finishing_deadline(at: Moment) -> Decision:
    """The VM runs at the recipient, only the completion is late: go on asking, and call an operator."""
    missing = [
        what
        for what, done in (("disconnection", at.state.disconnected), ("provisioning", at.state.provisioned))
        if done is None
    ]
    alarm = Alarm("completion_late", f"still missing: {' and '.join(missing)}")
    return at.stay(alarm, *_completion_questions(at), note=alarm.detail, rearm=True)


# COMPLETED


def disks_erased(at: Moment, heard: Heard[DisksErased]) -> Decision:
    """The donor's quarantine is over; only recorded."""
    return at.stay(note=f"{heard.sender.owner} erased the VM's disks")
