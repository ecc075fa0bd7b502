"""After the commit: has the VM arrived? And how it is given back while it has not. Pure.

* After the commit the port can only go forward, unless the recipient itself says that its transfer failed *and* that
  no guest runs there. That answer is final: a node that has given it never runs this guest, even if a grant reaches it
  later. Only then does the next epoch give the VM back to the donor, and only then is the donor told to abort.
* If the donor has already said that the guest left, there is nothing to give back; then the port waits and calls an
  operator, who settles it (`settling`).
"""

from __future__ import annotations

from services.broker.saga.decision import Decision, Moment
from services.broker.saga.effects import Alarm, CommitEpoch
from services.broker.saga.ending import abort
from services.broker.saga.events import Heard
from services.broker.saga.finishing import donor_failed, finish
from services.broker.saga.state import Failure
from services.broker.saga.switching import grant_to_recipient, state_to_donor
from shared.messages.porting import InboundFinished, OutboundFinished, TransferFailed
from shared.messages.service_change import PortPhase


def inbound_finished(at: Moment, heard: Heard[InboundFinished]) -> Decision:
    """The VM runs at the recipient."""
    return _finish_when_settled(_arrived(at), f"runs at {heard.sender.owner}")


def outbound_finished(at: Moment, heard: Heard[OutboundFinished]) -> Decision:
    """The donor has seen the guest leave, and reports its figures."""
    return _finish_when_settled(at.with_(outbound=heard.message, donor_runs=False), f"left {heard.sender.owner}")


def failed_after_commit(at: Moment, heard: Heard[TransferFailed]) -> Decision:
    """One side failed although ownership has passed."""
    report = heard.message
    if heard.sender == at.state.donor_party:
        told, effects, note = donor_failed(at, report)
        return _finish_when_settled(told, note).after(*effects, note=note)
    if report.guest_running:
        warning = f"The recipient reported a failure, but the VM runs there: {report.code}: {report.detail}"
        return _finish_when_settled(_arrived(at).with_(warnings=(*at.state.warnings, warning)), warning)
    if at.state.arrived_at is not None or at.state.outbound is not None:
        return _gone_after_arrival(at, report)
    return _revert(at, report)


def _gone_after_arrival(at: Moment, report: TransferFailed) -> Decision:
    """The guest ran at the recipient, or the donor would not have let it go, and is gone: it crashed, or its host did.

    Its disks are there, so the port goes on: the recipient makes it a lasting VM that is off.
    """
    detail = f"{report.code}: {report.detail}; the VM had already left the donor, so it cannot be given back"
    alarm = Alarm("lost_after_arrival", detail)
    if at.state.arrived_at is not None:
        return at.stay(alarm, note=detail)
    went = _arrived(at).with_(warnings=(*at.state.warnings, f"The VM does not run at the recipient: {detail}"))
    return _finish_when_settled(went, detail).after(alarm, note=detail)


def _revert(at: Moment, report: TransferFailed) -> Decision:
    """No guest runs at the recipient, and never will: the next epoch gives the VM back to the donor."""
    detail = f"the recipient's hypervisor could not take the VM: {report.code}: {report.detail}"
    failure = Failure(outcome=PortPhase.FAILED, phase=at.state.phase, code=report.code, detail=detail)
    return give_back(at, failure)


def give_back(at: Moment, failure: Failure) -> Decision:
    """Commit the next epoch to the donor, and abort the port."""
    agreed, epoch = at.agreement, at.state.epoch + 1
    reverted = at.with_(owner=agreed.donor, epoch=epoch, committed=False, reverted=True)
    return abort(
        reverted,
        failure,
        CommitEpoch(agreed.vm_uuid, epoch, agreed.donor, agreed.donor_node),
        state_to_donor(reverted),
        note=f"epoch {epoch} committed back to {agreed.donor}: {failure.detail}",
    )


def _arrived(at: Moment) -> Moment:
    """The VM runs at the recipient; the first report of it gives the time."""
    return at.with_(arrived_at=at.state.arrived_at or at.now)


def _finish_when_settled(at: Moment, note: str) -> Decision:
    """Once the VM has arrived, and the donor's transfer has succeeded or failed, the port can be finished."""
    state = at.state
    if state.arrived_at is not None and (state.outbound is not None or state.outbound_trouble):
        return finish(at, note)
    return at.stay(note=note)


def switching_deadline(at: Moment) -> Decision:
    """The VM has arrived, but the donor says nothing: finish what the recipient can. If not even the VM: ask."""
    if at.state.arrived_at is not None:
        return finish(at, "the donor says nothing")
    return at.go(
        PortPhase.RESOLVING,
        grant_to_recipient(at),
        Alarm("arrival_unknown", "the recipient was granted the VM and does not report whether it runs"),
        note="granted, but nobody reports that the VM runs",
        wake_at=at.now + at.timing.retry(0),
    )


# RESOLVING


def ask_arrival_again(at: Moment) -> Decision:
    """Repeat the grant: a node that runs the VM answers with its arrival, one that cannot with its failure."""
    retries = at.state.retries + 1
    return at.stay(
        grant_to_recipient(at), note="grant repeated", retries=retries, wake_at=at.now + at.timing.retry(retries)
    )


def resolving_deadline(at: Moment) -> Decision:
    """Go on asking: the VM is the recipient's, and only the recipient knows. Call an operator each time."""
    if at.state.arrived_at is not None:
        return finish(at, "the donor says nothing")
    since = at.state.switchover_requested_at
    alarm = Alarm("arrival_unknown", f"the recipient has not reported since {since} whether the VM runs")
    return at.stay(alarm, grant_to_recipient(at), note="arrival still unknown", rearm=True)
