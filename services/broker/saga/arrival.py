"""After the commit: has the VM arrived? And how it is given back while it has not. Pure.

* After the commit the port can only go forward, unless the recipient itself says that its transfer failed *and* that
  no guest runs there or has run there. That answer is final: a node that has given it never runs this guest, even if a
  grant reaches it later. Then the donor's node is asked whether it has let the guest go, for it may have heard of an
  arrival and killed its copy. Only if it has not does the next epoch give the VM back, and only then is the donor told
  to abort. A donor whose host died meanwhile gets it back, too: its disks are the newest, and it can start the VM.
* Where there is nothing to give back (the donor has let the guest go, or the guest may have run at the recipient before
  its host died), the VM is the recipient's: it has the newest disks, and makes a lasting VM of it that is off.
"""

from __future__ import annotations

from services.broker.saga.decision import Decision, Moment
from services.broker.saga.effects import Alarm, CommitEpoch, Effect
from services.broker.saga.ending import abort
from services.broker.saga.events import Heard
from services.broker.saga.finishing import donor_failed, finish
from services.broker.saga.networking import serve_addresses
from services.broker.saga.state import Failure
from services.broker.saga.switching import copy_question, grant_to_recipient, state_to_donor
from shared.messages.porting import InboundFinished, OutboundFinished, TransferFailed
from shared.messages.service_change import PortPhase
from shared.messages.switchover import CopyState


def inbound_finished(at: Moment, heard: Heard[InboundFinished]) -> Decision:
    """The VM runs at the recipient."""
    return _finish_when_settled(_arrived(at), f"runs at {heard.sender.owner}")


def outbound_finished(at: Moment, heard: Heard[OutboundFinished]) -> Decision:
    """The donor has seen the guest leave, and reports its figures."""
    left = at.with_(outbound=heard.message, donor_runs=False)
    if at.state.not_there is not None and at.state.arrived_at is None:
        return _gone(left, at.state.not_there, "the donor has let it go")
    return _finish_when_settled(left, f"left {heard.sender.owner}")


def failed_after_commit(at: Moment, heard: Heard[TransferFailed]) -> Decision:
    """One side failed although ownership has passed."""
    report = heard.message
    if heard.sender == at.state.donor_party:
        told, effects, note = donor_failed(at, report)
        return _finish_when_settled(told, note).after(*effects, note=note)
    if report.guest_running:
        warning = f"The recipient reported a failure, but the VM runs there: {report.code}: {report.detail}"
        return _finish_when_settled(_arrived(at).with_(warnings=(*at.state.warnings, warning)), warning)
    failure = Failure(outcome=PortPhase.FAILED, phase=at.state.phase, code=report.code, detail=report.detail)
    if at.state.arrived_at is not None or at.state.outbound is not None:
        return _gone(at, failure, "the VM had already left the donor, so it cannot be given back")
    if report.may_have_run:
        return _gone(at, failure, "it may have run there, so the donor's copy may be older")
    return _ask_for_copy(at, failure)


def _gone(at: Moment, failure: Failure, why: str) -> Decision:
    """The guest ran at the recipient, or may have, and is gone: it crashed, or its host did.

    Its disks are there, so the port goes on: the recipient makes it a lasting VM that is off.
    """
    went, alarm = _lost(at, failure, why)
    if at.state.arrived_at is not None:
        return at.stay(alarm, note=alarm.detail)
    return _finish_when_settled(went, alarm.detail).after(alarm, note=alarm.detail)


def _lost(at: Moment, failure: Failure, why: str) -> tuple[Moment, Alarm]:
    detail = f"{failure.code}: {failure.detail}; {why}"
    warning = f"The VM does not run at the recipient: {detail}"
    return _arrived(at).with_(warnings=(*at.state.warnings, warning)), Alarm("lost_after_arrival", detail)


# The donor's copy


def _ask_for_copy(at: Moment, failure: Failure) -> Decision:
    """No guest runs at the recipient, and never will. The donor's node may know more than it has told."""
    if at.state.not_there is not None:
        return at.stay(note="known; the donor's node is asked for its copy", quiet=True)
    detail = f"the recipient's hypervisor could not take the VM: {failure.code}: {failure.detail}"
    asking = at.with_(not_there=failure.with_(detail=detail))
    note = f"{detail}; asking the donor's node whether it has let the guest go"
    wake_at = at.now + at.timing.retry(0)
    if at.state.phase is PortPhase.RESOLVING:
        return asking.stay(copy_question(at), note=note, retries=0, wake_at=wake_at)
    return asking.go(PortPhase.RESOLVING, copy_question(at), note=note, wake_at=wake_at)


def copy_known(at: Moment, heard: Heard[CopyState]) -> Decision:
    """A donor that has not let the guest go gets it back. Else the guest ran at the recipient, whose VM it is."""
    failure = at.state.not_there
    if failure is None or at.state.arrived_at is not None:
        return at.ignore("the donor's copy does not matter any more")
    if not heard.message.let_go:
        return give_back(at, failure)
    went, alarm = _lost(at, failure, "it ran there, for the donor's node has let it go")
    return finish(went, alarm.detail).after(alarm, note=alarm.detail)


def give_back(at: Moment, failure: Failure) -> Decision:
    """Commit the next epoch to the donor, and abort the port."""
    agreed, epoch = at.agreement, at.state.epoch + 1
    reverted = at.with_(owner=agreed.donor, epoch=epoch, committed=False, reverted=True)
    return abort(
        reverted,
        failure,
        CommitEpoch(agreed.vm_uuid, epoch, agreed.donor, agreed.donor_node),
        state_to_donor(reverted),
        *serve_addresses(reverted),
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
    """Repeat the grant: a node that runs the VM answers with its arrival, one that cannot with its failure. Once it has
    failed, the question for the donor's copy is repeated."""
    retries = at.state.retries + 1
    question, note = _question(at)
    return at.stay(question, note=note, retries=retries, wake_at=at.now + at.timing.retry(retries))


def _question(at: Moment) -> tuple[Effect, str]:
    if at.state.not_there is not None:
        return copy_question(at), "question for the donor's copy repeated"
    return grant_to_recipient(at), "grant repeated"


def resolving_deadline(at: Moment) -> Decision:
    """Go on asking: the VM is the recipient's, and only the recipient knows. Call an operator each time."""
    if at.state.arrived_at is not None:
        return finish(at, "the donor says nothing")
    since = at.state.switchover_requested_at
    alarm = Alarm("arrival_unknown", f"the recipient has not reported since {since} whether the VM runs")
    if at.state.not_there is not None:
        detail = "no guest runs at the recipient, and the donor's node does not say whether it has let it go"
        alarm = Alarm("copy_unknown", detail)
    return at.stay(alarm, _question(at)[0], note="arrival still unknown", rearm=True)
