"""The rule of belief: no message is acted on without its sender's proof and its sender's right."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from uuid import UUID

import pytest

from shared.bus import believe
from shared.messages import MESSAGE_TYPES, AnyEnvelope, Message, MessageError, seal
from shared.messages.nodes import DescribeVm
from shared.messages.porting import RequestSwitchover, SwitchoverGranted
from shared.messages.queries import ListVms
from shared.parties import BROKER, Party, Role, donor, node, recipient, tenant

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PORT_ID = UUID(int=1)
ACME = tenant("acme")


def said(message: Message, by: Party) -> AnyEnvelope:
    return seal(message, source=by, message_id=UUID(int=9), now=NOW)


def disbelief(envelope: AnyEnvelope, *, verified_user: str | None, receiver: Party) -> str:
    with pytest.raises(MessageError) as caught:
        believe(envelope, verified_user=verified_user, receiver=receiver)
    return caught.value.code


def test_proven_sender_is_believed() -> None:
    """A tenant's question, verified by the bus, is heard by the broker."""
    believe(said(ListVms(), ACME), verified_user="tenant.acme", receiver=BROKER)


@pytest.mark.parametrize("user", [None, ""])
def test_unproven_sender_is_not_believed(user: str | None) -> None:
    """Without a user that the bus verified there is no proof at all."""
    assert disbelief(said(ListVms(), ACME), verified_user=user, receiver=BROKER) == "unproven_sender"


@pytest.mark.parametrize("user", ["tenant.evil", "broker", "tenant.acme "])
def test_forged_sender_is_not_believed(user: str) -> None:
    """Who signs with another's name is found out by the bus's own word."""
    assert disbelief(said(ListVms(), ACME), verified_user=user, receiver=BROKER) == "forged_sender"


def test_tenant_cannot_grant_switchover() -> None:
    """A proven tenant still may not say what only the broker may say."""
    envelope = said(SwitchoverGranted(port_id=PORT_ID, epoch=2), ACME)

    assert disbelief(envelope, verified_user="tenant.acme", receiver=node("beta", "beta-1")) == "wrong_role"


def test_message_to_the_wrong_role_is_not_believed() -> None:
    """A switchover request is the broker's to hear; an agent that gets one refuses it."""
    sender = node("beta", "beta-1")
    envelope = said(RequestSwitchover(port_id=PORT_ID, vm_uuid=UUID(int=2), epoch=2), sender)

    believe(envelope, verified_user=str(sender), receiver=BROKER)
    assert disbelief(envelope, verified_user=str(sender), receiver=recipient("beta")) == "wrong_role"


def test_one_provider_cannot_command_another() -> None:
    """A donor agent commands nodes of its own provider only."""
    command = said(DescribeVm(port_id=PORT_ID, vm_uuid=UUID(int=2)), donor("alpha"))

    believe(command, verified_user="donor.alpha", receiver=node("alpha", "alpha-1"))
    assert disbelief(command, verified_user="donor.alpha", receiver=node("beta", "beta-1")) == "wrong_provider"


PARTY_OF = {
    Role.TENANT: ACME,
    Role.BROKER: BROKER,
    Role.DONOR: donor("alpha"),
    Role.RECIPIENT: recipient("alpha"),
    Role.NODE: node("alpha", "alpha-1"),
}


KINDS = sorted(MESSAGE_TYPES.values(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_pair_of_roles_is_judged_by_the_type(kind: type[Message]) -> None:
    """For each type exactly the pairs of roles that it names are believed, whatever the body says."""
    body = kind.model_construct()
    for sender_role, receiver_role in product(Role, Role):
        sender, receiver = PARTY_OF[sender_role], PARTY_OF[receiver_role]
        envelope = said(ListVms(), sender).model_copy(update={"data": body})
        if sender_role in kind.SENDERS and receiver_role in kind.RECEIVERS:
            believe(envelope, verified_user=str(sender), receiver=receiver)
        else:
            assert disbelief(envelope, verified_user=str(sender), receiver=receiver) == "wrong_role"
