"""FINISHING: the recipient makes the VM permanent, then the donor takes it off its host. Pure.

* First `ProvisionVm`, then `DisconnectVm`: while the recipient has no lasting VM, the donor's disks stay where they
  are.
* `DisconnectVm` is sent only after the donor's own word that the guest no longer runs there (`OutboundFinished`, or a
  failure that says so), or an operator's. A donor that says nothing is asked: its node is told who owns the VM and that
  it has arrived, and answers with its word.
* A donor that says that its copy runs is told the same, and an operator is called.
* After an operator has settled the port (`settling`), the deadline ends it: what is not confirmed then is a debt that
  the tenant's message names. Who comes back later pays it.
"""

from __future__ import annotations

from datetime import datetime

from services.broker.saga import obligations
from services.broker.saga.decision import Decision, Moment
from services.broker.saga.effects import Alarm, Effect, Send
from services.broker.saga.ending import complete
from services.broker.saga.events import Heard
from services.broker.saga.switching import state_to_donor
from shared.messages.porting import (
    CompletionFailed,
    DisconnectVm,
    DisksErased,
    InboundFinished,
    OutboundFinished,
    ProvisionVm,
    Side,
    TransferFailed,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import PortPhase


def finish(at: Moment, note: str) -> Decision:
    """Enter the phase. A donor whose word is missing is asked until it speaks, and an operator is called."""
    at, _, alarms = obligations.judge(at, switched_at=at.state.arrived_at or at.now)
    if not at.state.may_disconnect and not at.state.donor_runs:
        detail = "the VM has arrived, and the donor does not say that it let it go"
        alarms = (*alarms, Alarm("donor_silent", detail))
    return at.go(PortPhase.FINISHING, *alarms, *_questions(at), note=note, wake_at=_wake_at(at, 0))


def _questions(at: Moment) -> tuple[Effect, ...]:
    """What is asked now: provisioning first, then the disconnection; and the donor's word, if it is missing."""
    state = at.state
    effects: list[Effect] = []
    if state.provisioned is None:
        provision = ProvisionVm(
            port_id=state.port_id,
            vm_uuid=at.agreement.vm_uuid,
            autostart=at.identity.vm.autostart,
            donor_xml=at.identity.domain_xml,
        )
        effects.append(Send(at.recipient_party, provision))
    elif state.disconnected is None and state.may_disconnect:
        effects.append(_disconnect(at))
    if _word_missing(at):
        effects.append(state_to_donor(at))
    return tuple(effects)


def _disconnect(at: Moment) -> Effect:
    command = DisconnectVm(port_id=at.state.port_id, vm_uuid=at.agreement.vm_uuid, keep_until=at.state.rules.keep_until)
    return Send(at.state.donor_party, command)


def ask_all(at: Moment, note: str) -> Decision:
    """Ask for whatever is open, and start the phase's time again."""
    return at.stay(*_questions(at), note=note, rearm=True, wake_at=None)


def _word_missing(at: Moment) -> bool:
    return at.state.disconnected is None and not at.state.may_disconnect


def _wake_at(at: Moment, retries: int) -> datetime | None:
    """While the donor's word is missing it is asked for again and again."""
    return at.now + at.timing.retry(retries) if _word_missing(at) else None


# The donor's word


def donor_failed(at: Moment, report: TransferFailed) -> tuple[Moment, tuple[Effect, ...], str]:
    """The donor's side failed although ownership has passed: what is known then, what is done at once, and a note."""
    trouble = f"{report.code}: {report.detail}"
    known = at.with_(outbound_trouble=trouble, donor_stopped=not report.guest_running, donor_runs=report.guest_running)
    if not report.guest_running:
        return known, (), f"donor: {trouble}"
    alarm = Alarm("runs_at_donor_after_commit", f"the donor reports that its copy of the VM runs: {trouble}")
    return known, (alarm, state_to_donor(known)), f"donor: {trouble}"


def late_figures(at: Moment, heard: Heard[OutboundFinished]) -> Decision:
    """The donor's word and its figures come while the port finishes."""
    return _go_on(at.with_(outbound=heard.message, donor_runs=False), note="the donor's figures")


def failed_while_finishing(at: Moment, heard: Heard[TransferFailed]) -> Decision:
    """The donor's word comes as a failure; or the recipient reports trouble with a VM that had arrived."""
    report = heard.message
    if heard.sender == at.state.donor_party:
        known, effects, note = donor_failed(at, report)
        if report.guest_running:
            return known.stay(*effects, note=note, wake_at=_wake_at(known, at.state.retries))
        return _go_on(known, note=note)
    trouble = f"recipient: {report.code}: {report.detail}"
    if report.guest_running:
        return at.stay(note=trouble)
    return at.stay(Alarm("lost_after_arrival", f"the VM had arrived, and does not run; {trouble}"), note=trouble)


def arrival_known(at: Moment, heard: Heard[InboundFinished]) -> Decision:
    """The recipient repeats that the VM runs."""
    return at.stay(note=f"runs at {heard.sender.owner}, as known")


def _go_on(at: Moment, *, note: str) -> Decision:
    """The donor has spoken: disconnect it, if the recipient is ready."""
    effects = _questions(at) if at.state.provisioned is not None else ()
    return at.stay(*effects, note=note)


# What is done


def vm_disconnected(at: Moment, heard: Heard[VmDisconnected]) -> Decision:
    """The donor no longer has the VM."""
    at = at.with_(disconnected=heard.message, donor_runs=False)
    return _complete_when_done(at, f"disconnected at {heard.sender.owner}")


def vm_provisioned(at: Moment, heard: Heard[VmProvisioned]) -> Decision:
    """The recipient serves the VM for good: now the donor may take it off."""
    repeated = at.state.provisioned is not None
    at = at.with_(provisioned=heard.message)
    note = f"provisioned at {heard.sender.owner}"
    return _complete_when_done(at, note, *(() if repeated else _questions(at)))


def _complete_when_done(at: Moment, note: str, *questions: Effect) -> Decision:
    if at.state.disconnected is not None and at.state.provisioned is not None:
        return complete(at)
    return at.stay(*questions, note=note)


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
    retries = at.state.retries + 1
    return at.stay(*_questions(at), note="questions repeated", retries=retries, wake_at=_wake_at(at, retries))


def finishing_deadline(at: Moment) -> Decision:
    """The completion is late: go on asking, and call an operator. Once one has settled the port, it ends so."""
    if at.state.settled is not None:
        debts = tuple(f"Not confirmed: {what}." for what in missing(at))
        return complete(at.with_(warnings=(*at.state.warnings, *debts)))
    alarm = Alarm("completion_late", f"still missing: {' and '.join(missing(at))}")
    return at.stay(alarm, *_questions(at), note=alarm.detail, rearm=True)


def missing(at: Moment) -> tuple[str, ...]:
    """What is not confirmed yet, in words."""
    state = at.state
    facts = (
        (f"the word of {state.request.donor} that the guest left", _word_missing(at)),
        (f"the disconnection at {state.request.donor}", state.disconnected is None),
        (f"the provisioning at {at.recipient}", state.provisioned is None),
    )
    return tuple(what for what, is_missing in facts if is_missing)


# COMPLETED


def disks_erased(at: Moment, heard: Heard[DisksErased]) -> Decision:
    """The donor's quarantine is over; only recorded."""
    after, _, broken = obligations.judge(at, erased_at=at.now)
    return after.stay(*broken, note=f"{heard.sender.owner} erased the VM's disks")


def provisioned_late(at: Moment, heard: Heard[VmProvisioned]) -> Decision:
    """A debt of the recipient is paid; now the donor may pay its own."""
    note = f"provisioned at {heard.sender.owner}, after the end"
    if at.state.provisioned is None and at.state.disconnected is None:
        return at.stay(_disconnect(at), note=note)
    return at.stay(note=note)


def disconnected_late(at: Moment, heard: Heard[VmDisconnected]) -> Decision:
    """A debt of the donor is paid, or its answer comes again."""
    return at.stay(note=f"disconnected at {heard.sender.owner}, after the end")


def failed_late(at: Moment, heard: Heard[TransferFailed]) -> Decision:
    """A word about the guest after the end: an alarm, if it is not where the record says."""
    report = heard.message
    note = f"{heard.sender.owner}: {report.code}: {report.detail}"
    is_donor = heard.sender == at.state.donor_party
    if report.guest_running is not is_donor:
        return at.stay(note=note)
    code = "runs_at_donor_after_commit" if is_donor else "lost_after_arrival"
    return at.stay(Alarm(code, f"after the port's end: {note}"), state_to_donor(at), note=note)
