"""What settles a port for its tenant."""

from __future__ import annotations

from uuid import UUID

import pytest

from shared.client.errors import CancelNotPossible, NotUnderstood, PortEndedOtherwise, PortNotAllowed
from shared.client.port_ends import agreement_in, is_end, settled
from shared.messages import Message
from shared.messages.porting import PortingFixed
from shared.messages.service_change import (
    CancelRefused,
    MessageRejected,
    PortAccepted,
    PortCancelled,
    PortPhase,
    PortRefused,
)
from tests.support.scripted_broker import REFUSAL, agreement_of, shown_port

PORT = UUID(int=1)
REFUSED = PortRefused(port_id=PORT, refused_by="donor.alpha", refusals=(REFUSAL,))
CANCELLED = PortCancelled(port_id=PORT, phase=PortPhase.APPROVAL)


def test_ends() -> None:
    """An end, and a record of one; nothing else."""
    assert is_end(REFUSED)
    assert is_end(shown_port(PORT, PortPhase.FAILED))
    assert not is_end(shown_port(PORT, PortPhase.SWITCHING))
    assert not is_end(PortAccepted(port_id=PORT))


def test_agreement_in_an_event_and_in_a_record() -> None:
    """Whichever comes; a port that has ended without one raises why."""
    agreement = agreement_of(PORT)
    assert agreement_in(PortingFixed(port_id=PORT, agreement=agreement)) == agreement
    assert agreement_in(shown_port(PORT, PortPhase.PREPARING, agreement=agreement)) == agreement
    assert agreement_in(PortAccepted(port_id=PORT)) is None
    with pytest.raises(PortNotAllowed):
        agreement_in(shown_port(PORT, PortPhase.REFUSED, refusals=(REFUSAL,)))
    with pytest.raises(PortEndedOtherwise):
        agreement_in(CANCELLED)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (REFUSED, PortNotAllowed),
        (CANCELLED, PortEndedOtherwise),
        (CancelRefused(port_id=PORT, code="too_late", detail="it moves"), CancelNotPossible),
        (MessageRejected(code="invalid_body", reason="?"), NotUnderstood),
    ],
)
def test_what_settles_it_otherwise(message: Message, error: type[Exception]) -> None:
    """Is raised, with what was said."""
    with pytest.raises(error):
        settled(message, PortAccepted)
    assert settled(message, type(message)) is message
    assert settled(shown_port(PORT), PortAccepted) is None
