"""A whole port, from the request to its completion."""

from __future__ import annotations

from datetime import timedelta

from shared.messages.approval import DonorApproved
from shared.messages.porting import (
    InboundFinished,
    InboundOpened,
    OutboundStarted,
    QuoteOffered,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import PortCompleted, PortPhase
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    BETA,
    BETA_NODE,
    PORT,
    Conversation,
    guest_paused,
    identity,
    outbound_finished,
    quote,
    request,
    request_switchover,
    reserved,
)

P = PortPhase


def test_whole_conversation() -> None:
    """Each party is asked in its turn, the epoch is committed once, and every party is told the end."""
    talk = Conversation.begin(request())
    talk.expect(P.APPROVAL, "tenant.acme <- PortAccepted", "donor.alpha <- ApprovalRequested")
    talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))
    talk.expect(P.QUOTING, "recipient.beta <- QuoteRequested")
    talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote()))
    talk.expect(P.RESERVING, "recipient.beta <- ReservationRequested")
    talk.hear(BETA, reserved())
    talk.expect(
        P.PREPARING,
        "tenant.acme <- PortingFixed",
        "donor.alpha <- PortingFixed",
        "recipient.beta <- PortingFixed",
        "open lanes",
    )
    talk.lanes_opened().expect(P.PREPARING, "recipient.beta <- OpenInbound")
    talk.hear(BETA, InboundOpened(port_id=PORT)).expect(P.STARTING, "donor.alpha <- StartOutbound")
    talk.hear(ALPHA, OutboundStarted(port_id=PORT)).expect(P.TRANSFERRING)
    talk.hear(ALPHA_NODE, guest_paused()).expect(P.TRANSFERRING, "node.alpha.alpha-1 <- SwitchoverState")
    talk.hear(BETA_NODE, request_switchover())
    talk.expect(
        P.SWITCHING,
        "commit epoch 2 to beta",
        "node.beta.beta-1 <- SwitchoverGranted",
        "node.alpha.alpha-1 <- SwitchoverState",
    )
    talk.hear(BETA, InboundFinished(port_id=PORT, epoch=2)).expect(P.SWITCHING)
    talk.hear(ALPHA, outbound_finished())
    talk.expect(P.FINISHING, "recipient.beta <- ProvisionVm")
    talk.hear(BETA, VmProvisioned(port_id=PORT)).expect(P.FINISHING, "donor.alpha <- DisconnectVm")
    talk.pass_time(timedelta(seconds=30)).hear(ALPHA, VmDisconnected(port_id=PORT))
    talk.expect(
        P.COMPLETED,
        "tenant.acme <- PortCompleted",
        "donor.alpha <- PortCompleted",
        "recipient.beta <- PortCompleted",
        "close lanes",
        "end: completed completed",
    )
    assert (talk.state.owner, talk.state.epoch, talk.state.released) == ("beta", 2, ("beta",))


def test_sla_record_compares() -> None:
    """The end says what was promised and what was measured, by the donor's clock for the downtime."""
    talk = Conversation.begin(request()).completed()
    completed = talk.sent(PortCompleted, to=ACME)
    assert completed.sla.measured_downtime_ms == 120
    assert completed.sla.kept
    assert (completed.memory_bytes, completed.disk_bytes, completed.wire_bytes) == (500, 600, 700)
