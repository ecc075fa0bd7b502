"""Every message type survives the wire unchanged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.messages import MESSAGE_TYPES, Message, PortMessage, open_envelope, seal
from shared.parties import BROKER, Party, Role, donor, node, recipient, tenant

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ID = UUID(int=7)
KINDS = sorted(MESSAGE_TYPES.values(), key=lambda kind: kind.__name__)
PARTIES: dict[Role, Party] = {
    Role.TENANT: tenant("acme"),
    Role.BROKER: BROKER,
    Role.DONOR: donor("alpha"),
    Role.RECIPIENT: recipient("beta"),
    Role.NODE: node("alpha", "alpha-1"),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_roundtrip(
    kind: type[Message], any_message: Callable[[type[Message]], st.SearchStrategy[Message]], data: st.DataObject
) -> None:
    """What is sealed and written is read back equal, body and envelope."""
    message = data.draw(any_message(kind))
    sender = PARTIES[min(kind.SENDERS)]
    envelope = seal(message, source=sender, message_id=ID, now=NOW)

    assert envelope == open_envelope(envelope.to_json())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_type_knows_its_speakers(kind: type[Message]) -> None:
    """Each type names who may send it and to whom, and says in a sentence what it means."""
    assert kind.SENDERS
    assert kind.RECEIVERS
    assert kind.__doc__


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_messages_are_frozen(kind: type[Message]) -> None:
    """A message that was sent cannot be changed, and a field that nobody knows is refused."""
    assert kind.model_config.get("frozen") is True
    assert kind.model_config.get("extra") == "forbid"


def test_port_messages_carry_the_port_as_subject() -> None:
    """Who filters by subject sees every message of one port."""
    port_id = UUID(int=1)
    for kind in KINDS:
        if issubclass(kind, PortMessage) and set(kind.model_fields) == {"port_id"}:
            envelope = seal(
                kind.model_validate({"port_id": port_id}), source=PARTIES[min(kind.SENDERS)], message_id=ID, now=NOW
            )
            assert str(port_id) == envelope.subject
            assert port_id == envelope.correlationid
