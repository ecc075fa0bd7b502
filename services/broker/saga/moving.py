"""From the agreement to the request for switchover: the window opens, both sides start, disks and memory flow. Pure.

A port that is to be seeded opens its lanes and its two transfers earlier, by at most `Timing.seed_ahead`. The donor's
node then sends contents ahead, and begins to migrate when the window opens by its own clock. To the saga that is one
transfer.

Whatever goes wrong here, the VM goes on running at the donor: the port is aborted, and from then on switchover is
denied.
"""

from __future__ import annotations

from datetime import datetime

from services.broker.saga.decision import Decision, Moment, Timing
from services.broker.saga.effects import OpenLanes, Send
from services.broker.saga.ending import abort, abort_failed, fail
from services.broker.saga.events import Heard
from services.broker.saga.networking import is_extended
from services.broker.saga.state import Failure
from shared.messages.porting import (
    InboundOpened,
    OpenInbound,
    OutboundStarted,
    ServiceChangeAgreement,
    StartOutbound,
    TransferFailed,
)
from shared.messages.service_change import PortPhase

# SCHEDULED


def opens_at(agreement: ServiceChangeAgreement, timing: Timing) -> datetime:
    """When lanes and transfers are needed: when the window opens, or earlier to seed."""
    return agreement.window_start - timing.seed_ahead if agreement.limits.seed else agreement.window_start


def open_window(at: Moment) -> Decision:
    """The window is open, or near enough to seed. Lanes come first: both nodes use them as soon as they are asked.

    A broker that was away until the window opened comes to the same point; then nothing is seeded.
    """
    if at.now >= at.agreement.deadline:
        return window_missed(at)
    start = at.agreement.window_start
    return at.go(
        PortPhase.PREPARING,
        OpenLanes(at.lane_ends, extended=is_extended(at)),
        note="window opened" if start <= at.now else f"seeding before the window opens at {start.isoformat()}",
        lanes_open=True,
        moving_since=max(at.now, start),
    )


def window_missed(at: Moment) -> Decision:
    """The broker was away for the whole window."""
    return fail(at, "window_missed", "the deadline had passed before the broker could open the window")


# PREPARING


def lanes_opened(at: Moment) -> Decision:
    """The relay is ready: the recipient's node may create disks and sockets."""
    message = OpenInbound(port_id=at.state.port_id, agreement=at.agreement)
    return at.stay(Send(at.recipient_party, message, perishable=True), note="lanes opened, recipient told to get ready")


def inbound_opened(at: Moment, heard: Heard[InboundOpened]) -> Decision:
    """The recipient's node waits for the VM: let the donor start."""
    message = StartOutbound(port_id=at.state.port_id, agreement=at.agreement)
    return at.go(
        PortPhase.STARTING, Send(at.state.donor_party, message, perishable=True), note=f"{heard.sender.owner} is ready"
    )


def preparing_deadline(at: Moment) -> Decision:
    """The recipient did not get ready."""
    return _too_late(at, "inbound_silent", f"{at.recipient_party} did not get ready in time")


# STARTING


def outbound_started(at: Moment, heard: Heard[OutboundStarted]) -> Decision:
    """libvirt migrates, or the donor seeds until the window opens."""
    return at.go(PortPhase.TRANSFERRING, note=f"{heard.sender.owner} has started")


def starting_deadline(at: Moment) -> Decision:
    """The donor did not start."""
    return _too_late(at, "outbound_silent", f"{at.state.donor_party} did not start in time")


# TRANSFERRING


def transfer_deadline(at: Moment) -> Decision:
    """The port's deadline has passed, or the donor's node is silent. While it reports progress, go on waiting."""
    heard = max(at.state.phase_since, at.last_heard or at.state.phase_since)
    if heard + at.timing.silence > at.now and at.now < at.agreement.deadline:
        until = min(heard + at.timing.silence, at.agreement.deadline)
        return at.stay(note="the transfer makes progress", deadline=until)
    seconds = at.timing.silence.total_seconds()
    return _too_late(at, "donor_node_silent", f"no progress was reported for {seconds:.0f} s")


# In all of these phases but SCHEDULED


def transfer_failed(at: Moment, heard: Heard[TransferFailed]) -> Decision:
    """One side gave up before switchover."""
    report = heard.message
    return abort_failed(at, report.code, f"{heard.sender.owner}, {report.side} side: {report.detail}")


def cancel_moving(at: Moment, reason: str) -> Decision:
    """The tenant cancels while transfers exist: stop them first."""
    return abort(at, Failure(outcome=PortPhase.CANCELLED, phase=at.state.phase, code="cancelled", detail=reason))


def _too_late(at: Moment, code: str, detail: str) -> Decision:
    """Abort for the phase's own reason, unless the port's deadline has passed as well: then for that."""
    if at.now >= at.agreement.deadline:
        deadline = at.agreement.deadline.isoformat()
        return abort_failed(at, "deadline_passed", f"the port was not switched over by {deadline}")
    return abort_failed(at, code, detail)
