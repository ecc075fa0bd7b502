"""From the agreement to the request for switchover: window, seeding, deadlines."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.broker.saga import OpenLanes, Send
from shared.bus import LaneEnds
from shared.messages.base import MAX_TEXT
from shared.messages.porting import InboundOpened, Side
from shared.messages.service_change import CancelPort, PortPhase
from tests.support.broker_samples import (
    ACME,
    ALPHA_NODE,
    BETA,
    BETA_NODE,
    LONG,
    NOW,
    PORT,
    Conversation,
    request,
    transfer_failed,
)

P = PortPhase


def test_waits_for_the_window() -> None:
    """Nothing moves and no lanes exist before the window opens."""
    talk = Conversation.begin(request(window_start=NOW + timedelta(hours=1))).fixed()
    talk.expect(
        P.SCHEDULED, "tenant.acme <- PortingFixed", "donor.alpha <- PortingFixed", "recipient.beta <- PortingFixed"
    )
    talk.wake().expect(P.PREPARING, "open lanes")
    assert talk.now == NOW + timedelta(hours=1)


def test_seeding_begins_ahead_of_the_window() -> None:
    """Lanes and transfers are needed six hours before; total time counts from the window, which does not change."""
    start = NOW + timedelta(hours=10)
    talk = Conversation.begin(request(window_start=start, seed=True)).fixed()
    talk.expect(
        P.SCHEDULED, "tenant.acme <- PortingFixed", "donor.alpha <- PortingFixed", "recipient.beta <- PortingFixed"
    )
    talk.wake().expect(P.PREPARING, "open lanes")
    assert talk.now == NOW + timedelta(hours=4)
    assert talk.state.moving_since == start
    assert talk.state.agreement is not None
    assert talk.state.agreement.window_start == start


@pytest.mark.parametrize(
    ("ahead", "since"), [(timedelta(hours=1), timedelta(hours=1)), (timedelta(minutes=-1), timedelta())]
)
def test_seeding_never_begins_in_the_past(ahead: timedelta, since: timedelta) -> None:
    """A window that is nearer than the time to seed, or open, leads on at once."""
    talk = Conversation.begin(request(window_start=NOW + ahead, seed=True)).fixed()
    assert talk.state.phase is P.PREPARING
    assert talk.state.moving_since == NOW + since


def test_a_late_broker_skips_the_seeding() -> None:
    """Total time then counts from when the broker came to it."""
    talk = Conversation.begin(request(window_start=NOW + timedelta(hours=10), seed=True)).fixed()
    talk.pass_time(timedelta(hours=11)).wake().expect(P.PREPARING, "open lanes")
    assert talk.state.moving_since == NOW + timedelta(hours=11)


def test_a_seeding_that_is_cancelled_is_undone() -> None:
    """It is a transfer like any other: both sides are stopped."""
    talk = Conversation.begin(request(window_start=NOW + timedelta(hours=1), seed=True)).transferring()
    talk.hear(ACME, CancelPort(port_id=PORT))
    talk.expect(P.ABORTING, "donor.alpha <- AbortTransfer", "recipient.beta <- AbortTransfer")


def test_window_missed() -> None:
    """A broker that was away past the deadline does not start any more."""
    deadline = NOW + timedelta(hours=2)
    talk = Conversation.begin(request(window_start=NOW + timedelta(hours=1), deadline=deadline)).fixed()
    talk.pass_time(timedelta(hours=3)).wake()
    talk.expect(
        P.FAILED,
        "tenant.acme <- PortFailed",
        "donor.alpha <- PortFailed",
        "recipient.beta <- PortFailed",
        "recipient.beta <- ReleaseReservation",
        "end: failed window_missed",
    )


def test_a_window_that_opens_at_the_deadline_is_missed() -> None:
    """There is no instant left."""
    deadline = NOW + timedelta(hours=2)
    talk = Conversation.begin(request(window_start=NOW + timedelta(hours=1), deadline=deadline)).fixed()
    talk.pass_time(timedelta(hours=2)).wake()
    assert talk.state.phase is P.FAILED


def test_lanes_run_between_the_agreed_nodes() -> None:
    """And the donor's command to start is useless after its phase, as all commands are."""
    talk = Conversation.begin(request()).fixed()
    assert talk.effect(OpenLanes) == OpenLanes(LaneEnds(PORT, ALPHA_NODE, BETA_NODE))
    talk.lanes_opened().hear(BETA, InboundOpened(port_id=PORT))
    assert talk.last is not None
    (start,) = talk.last.effects
    assert isinstance(start, Send)
    assert start.deadline == talk.state.deadline


def test_silent_donor_node() -> None:
    """While progress is reported the transfer may take its time; without, it is aborted."""
    talk = Conversation.begin(request()).transferring()
    talk.pass_time(talk.timing.silence).deadline(last_heard=talk.now - timedelta(seconds=5))
    talk.expect(P.TRANSFERRING)
    assert talk.state.deadline == talk.now - timedelta(seconds=5) + talk.timing.silence
    talk.deadline(last_heard=talk.now - timedelta(seconds=5))
    talk.expect(P.ABORTING, "donor.alpha <- AbortTransfer", "recipient.beta <- AbortTransfer")
    assert talk.state.failure is not None
    assert talk.state.failure.code == "donor_node_silent"


def test_port_deadline() -> None:
    """A port that is not switched over by its deadline is abandoned, however much progress there is."""
    talk = Conversation.begin(request(deadline=NOW + timedelta(seconds=90))).transferring()
    talk.deadline(last_heard=NOW + timedelta(seconds=89))
    assert talk.state.failure is not None
    assert (talk.state.phase, talk.state.failure.code) == (P.ABORTING, "deadline_passed")
    assert (NOW + timedelta(seconds=90)).isoformat() in talk.state.failure.detail


@pytest.mark.parametrize("steps", [0, 1])
def test_silent_side(steps: int) -> None:
    """A side that does not get ready in time ends the port."""
    talk = Conversation.begin(request()).fixed().lanes_opened()
    if steps:
        talk.hear(BETA, InboundOpened(port_id=PORT))
    talk.deadline()
    assert talk.state.failure is not None
    assert talk.state.failure.code == ("outbound_silent" if steps else "inbound_silent")


def test_long_reason_of_a_failure() -> None:
    """The failure's detail, with the side's name before it, is clipped to what can be saved."""
    talk = Conversation.begin(request()).transferring()
    talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False, detail=LONG)).expect(
        P.ABORTING, "donor.alpha <- AbortTransfer", "recipient.beta <- AbortTransfer"
    )
    assert talk.state.failure is not None
    assert talk.state.failure.detail.startswith("beta, inbound side: xxx")
    assert len(talk.state.failure.detail) == MAX_TEXT
