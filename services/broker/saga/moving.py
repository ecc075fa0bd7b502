"""From the fixed porting to the request for switchover: the window opens, both halves start, memory and disk flow.
Pure.

A port that is to be seeded opens its lanes and halves earlier, by `Timing.seed_ahead` at most: the donor's node then
sends contents ahead, and begins to migrate when the window opens by its own clock. To the saga that is one transfer.

Whatever goes wrong here, the VM goes on running at the donor: the port is aborted, and switchover is denied from
that instant.
"""

from __future__ import annotations

from datetime import datetime

from services.broker.saga.decision import Decision, Moment, Timing
from services.broker.saga.effects import OpenLanes, Send
from services.broker.saga.ending import abort, abort_failed, fail
from services.broker.saga.events import Heard
from services.broker.saga.state import Failure
from shared.messages.porting import OpenInbound, ServiceChangeAgreement, StartOutbound, TransferFailed
from shared.messages.service_change import PortPhase
from shared.parties import recipient

# SCHEDULED


def opens_at(agreement: ServiceChangeAgreement, timing: Timing) -> datetime:
    """When lanes and halves are wanted: at the window, or ahead of it to seed."""
    return agreement.window_start - timing.seed_ahead if agreement.limits.seed else agreement.window_start


def open_window(at: Moment) -> Decision:
    """The window is open, or near enough to seed: lanes first, because both nodes use them as soon as they are asked.

    A broker that was away until the window opened comes to the same point; then there is nothing to send ahead.
    """
    state = at.state
    if state.agreement is None or state.lane_ends is None:
        raise ValueError("nothing was fixed")
    if at.now >= state.agreement.deadline:
        return window_missed(at)
    start = state.agreement.window_start
    note = "window opened" if start <= at.now else f"contents go ahead of the window of {start.isoformat()}"
    return at.go(
        PortPhase.PREPARING, OpenLanes(state.lane_ends), note=note, lanes_open=True, moving_since=max(at.now, start)
    )


def window_missed(at: Moment) -> Decision:
    """The broker was away for the whole window."""
    return fail(at, "window_missed", "the deadline had passed when the window could have been opened")


# PREPARING


def lanes_opened(at: Moment) -> Decision:
    """The relay is ready: the recipient's node may make disks and sockets."""
    if at.state.agreement is None:
        raise ValueError("nothing was fixed")
    message = OpenInbound(port_id=at.state.port_id, agreement=at.state.agreement)
    return at.stay(
        Send(recipient(at.state.agreement.recipient), message, perishable=True),
        note="lanes declared, inbound asked for",
    )


def inbound_opened(at: Moment, event: Heard) -> Decision:
    """The recipient's node waits for the VM: let the donor start."""
    if at.state.agreement is None:
        raise ValueError("nothing was fixed")
    message = StartOutbound(port_id=at.state.port_id, agreement=at.state.agreement)
    return at.go(
        PortPhase.STARTING, Send(at.state.donor_party, message, perishable=True), note=f"{event.sender.owner} is ready"
    )


# STARTING


def outbound_started(at: Moment, event: Heard) -> Decision:
    """libvirt migrates, or contents go ahead of the window."""
    return at.go(PortPhase.TRANSFERRING, note=f"{event.sender.owner} has started")


# TRANSFERRING, and failures in all of these phases


def transfer_failed(at: Moment, event: Heard) -> Decision:
    """One half gave up before switchover."""
    report = event.message
    if not isinstance(report, TransferFailed):
        raise TypeError(type(report))
    return abort_failed(at, report.code, f"{event.sender.owner}, {report.side} half: {report.detail}")


def late_or(code: str, detail: str, at: Moment) -> Decision:
    """A deadline passed: the port's own, or that of the phase."""
    if at.state.agreement is not None and at.now >= at.state.agreement.deadline:
        deadline = at.state.agreement.deadline.isoformat()
        return abort_failed(at, "deadline_passed", f"the port was not switched over by {deadline}")
    return abort_failed(at, code, detail)


def preparing_deadline(at: Moment) -> Decision:
    """The recipient's half did not open."""
    return late_or("inbound_silent", f"{at.state.recipient_party} did not open its half in time", at)


def starting_deadline(at: Moment) -> Decision:
    """The donor's half did not start."""
    return late_or("outbound_silent", f"{at.state.donor_party} did not start its half in time", at)


def cancel_moving(at: Moment, reason: str) -> Decision:
    """The tenant takes the request back while halves exist: stop them first."""
    return abort(at, Failure(outcome=PortPhase.CANCELLED, phase=at.state.phase, code="cancelled", detail=reason))
