"""What the saga says and checks about the VM's addresses, along whole ports."""

from __future__ import annotations

from typing import Any

import pytest

from services.broker.saga import CloseLanes, KeepExtension, OpenLanes, Send
from services.broker.saga.networking import PLAN_DIFFERS
from shared.messages.addresses import ServeAddresses
from shared.messages.approval import DonorApproved
from shared.messages.network import CardNetwork, NetworkPlan
from shared.messages.porting import InboundFinished, QuoteOffered, QuoteRequested, ReservationRequested, Side
from shared.messages.service_change import CancelPort, PortPhase, PortRefused
from shared.messages.switchover import CopyState
from tests.support.broker_samples import (
    ACME,
    ALPHA,
    ALPHA_NODE,
    ANCHOR,
    BETA,
    GATEWAYS,
    PORT,
    VM,
    Conversation,
    guest_paused,
    networked_identity,
    plan,
    quote,
    request,
    request_switchover,
    transfer_aborted,
    transfer_failed,
)

P = PortPhase


def served(talk: Conversation) -> list[ServeAddresses]:
    """What the gateways were told in the last step."""
    assert talk.last is not None
    sends = [each for each in talk.last.effects if isinstance(each, Send) and isinstance(each.message, ServeAddresses)]
    assert [str(each.to) for each in sends] in ([], list(GATEWAYS))
    return [each.message for each in sends if isinstance(each.message, ServeAddresses)]


def test_what_was_reserved_is_agreed() -> None:
    """The plan is part of the agreement that all parties hold."""
    planned = plan("extend", ends_after_s=60)
    talk = Conversation.begin(request()).fixed_with(planned)
    assert talk.state.agreement is not None
    assert talk.state.agreement.network == planned


def changed(planned: NetworkPlan, **card: Any) -> NetworkPlan:
    """A plan whose card is another."""
    return planned.model_copy(update={"cards": (planned.cards[0].model_copy(update=card),)})


EXTEND = plan("extend")
STRANGER = CardNetwork(mac="52:54:00:00:00:99")


@pytest.mark.parametrize(
    ("quoted", "planned", "says"),
    [
        (EXTEND, None, "reserved nothing"),
        (plan("extend", ends_after_s=60), EXTEND, "quoted"),
        (EXTEND, EXTEND.model_copy(update={"cards": ()}), "the plan has 0 network cards, the VM 1"),
        (EXTEND, changed(EXTEND, card=STRANGER), "is not as the donor described it"),
        (EXTEND, changed(EXTEND, bridge=""), "has no bridge of its own"),
        (EXTEND, changed(EXTEND, care_of=plan("anchor").cards[0].care_of, card=STRANGER), "has no address 192.0.2.7"),
        (plan("translate"), changed(plan("translate"), care_of=()), "has no care-of address"),
    ],
)
def test_a_plan_that_is_not_what_was_quoted_is_not_taken(
    quoted: NetworkPlan, planned: NetworkPlan | None, says: str
) -> None:
    """The recipient is released, and the port refused, by the broker."""
    talk = Conversation.begin(request()).fixed_with(planned, quoted=quoted)
    assert talk.state.phase is P.REFUSED
    refused = talk.sent(PortRefused)
    assert {each.code for each in refused.refusals} == {PLAN_DIFFERS}
    assert any(says in each.evidence for each in refused.refusals)
    assert refused.refused_by == "broker"


def test_recipients_know_the_neutral_prefixes() -> None:
    """With the question for a quote and with that for a reservation."""
    talk = Conversation.begin(request(), anchor=ANCHOR)
    talk.hear(ALPHA, DonorApproved(port_id=PORT, identity=networked_identity()))
    assert talk.sent(QuoteRequested).anchor == ANCHOR.prefixes
    talk.hear(BETA, QuoteOffered(port_id=PORT, quote=quote()))
    assert talk.sent(ReservationRequested).anchor == ANCHOR.prefixes


@pytest.mark.parametrize(("planned", "extended"), [(EXTEND, True), (plan("translate"), False)])
def test_an_extension_has_a_lane_of_its_own(planned: NetworkPlan, *, extended: bool) -> None:
    """Opened with the port's; translation needs none."""
    talk = Conversation.begin(request()).fixed_with(planned)
    assert talk.effect(OpenLanes).extended is extended


def test_at_the_good_end_the_extension_lives_on() -> None:
    """The port's own lanes are closed; the component for extensions takes the others over."""
    talk = Conversation.begin(request()).completed(plan("extend", ends_after_s=60))
    talk.expect(
        P.COMPLETED,
        "tenant.acme <- PortCompleted",
        "donor.alpha <- PortCompleted",
        "recipient.beta <- PortCompleted",
        "close lanes but the extension",
        "keep extension",
        "end: completed completed",
    )
    kept = talk.effect(KeepExtension)
    assert (kept.vm_uuid, kept.epoch, kept.has_lanes, kept.ends_after_s) == (VM, 2, True, 60)
    assert kept.ends.port_id == PORT


@pytest.mark.parametrize(
    ("planned", "keeps"), [(plan("translate"), [False]), (plan("anchor"), []), (plan("joined"), [])]
)
def test_what_lives_on_needs_the_donor(planned: NetworkPlan, keeps: list[bool]) -> None:
    """A translation is the donor's help without lanes; joined networks and gateways need none of it."""
    talk = Conversation.begin(request(), anchor=ANCHOR).completed(planned)
    assert talk.last is not None
    assert [each.has_lanes for each in talk.last.effects if isinstance(each, KeepExtension)] == keeps


def test_every_other_end_closes_the_extension() -> None:
    """Cancelled in the transfer, or given back after the commit."""
    talk = Conversation.begin(request()).transferring(EXTEND).hear(ACME, CancelPort(port_id=PORT))
    talk.hear(ALPHA, transfer_aborted(Side.OUTBOUND)).hear(BETA, transfer_aborted(Side.INBOUND))
    assert talk.effect(CloseLanes).keep_extension is False

    back = Conversation.begin(request()).switching(EXTEND)
    back.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
    back.hear(ALPHA_NODE, CopyState(port_id=PORT, let_go=False))
    back.hear(ALPHA, transfer_aborted(Side.OUTBOUND)).hear(BETA, transfer_aborted(Side.INBOUND))
    assert back.state.phase is P.FAILED
    assert back.effect(CloseLanes).keep_extension is False


def test_gateways_are_told_in_the_step_that_commits() -> None:
    """All of them, with the new epoch, the owner, and where each address is served."""
    talk = Conversation.begin(request(), anchor=ANCHOR).switching(plan("anchor"))
    talk.expect(
        P.SWITCHING,
        "commit epoch 2 to beta",
        "node.beta.beta-1 <- SwitchoverGranted",
        "node.alpha.alpha-1 <- SwitchoverState",
        "node.exchange.gw-1 <- ServeAddresses",
        "node.exchange.gw-2 <- ServeAddresses",
    )
    (told, _) = served(talk)
    assert (told.vm_uuid, told.epoch, told.owner) == (VM, 2, "beta")
    assert {pair.address: pair.real for pair in told.care_of} == {
        "192.0.2.7": "198.51.100.7",
        "2001:db8::7": "2001:db8:1::7",
    }


def test_gateways_are_told_when_the_vm_is_given_back() -> None:
    """By the next epoch, so that the older one is refused; they undo what they did for the port."""
    talk = Conversation.begin(request(), anchor=ANCHOR).switching(plan("anchor"))
    talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
    talk.hear(ALPHA_NODE, CopyState(port_id=PORT, let_go=False))
    (told, _) = served(talk)
    assert (told.epoch, told.owner, told.care_of) == (3, "alpha", ())


def test_gateways_hear_an_operators_word() -> None:
    """Given back, contradicted, and settled for the recipient: by the third epoch it is served there again."""
    talk = Conversation.begin(request(), anchor=ANCHOR).switching(plan("anchor"))
    talk.hear(BETA, transfer_failed(Side.INBOUND, guest_running=False))
    talk.hear(ALPHA_NODE, CopyState(port_id=PORT, let_go=False))
    talk.hear(BETA, InboundFinished(port_id=PORT, epoch=2)).settle("recipient")
    (told, _) = served(talk)
    assert (told.epoch, told.owner, len(told.care_of)) == (4, "beta", 2)


@pytest.mark.parametrize("planned", [None, plan("extend"), plan("joined")])
def test_gateways_are_told_of_nothing_else(planned: NetworkPlan | None) -> None:
    """Nor where there is no plan."""
    talk = Conversation.begin(request(), anchor=ANCHOR).transferring(planned)
    talk.hear(ALPHA_NODE, guest_paused())
    assert talk.state.recipient_node is not None
    talk.hear(talk.state.recipient_node, request_switchover())
    assert (talk.state.phase, served(talk)) == (P.SWITCHING, [])
