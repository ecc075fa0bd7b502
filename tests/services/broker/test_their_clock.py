"""An offer holds for as long as its provider said, whatever its clock shows."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from services.broker.their_clock import on_our_clock
from shared.messages import seal
from shared.messages.porting import InboundOpened, QuoteOffered, Reserved
from tests.support.broker_samples import BETA, NOW, PORT, quote, reserved

HOLDS = timedelta(minutes=5)


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), -timedelta(minutes=10)])
def test_an_offer_holds_from_when_it_came(ahead: timedelta) -> None:
    """Ten minutes off expire nothing, and prolong nothing."""
    theirs = NOW + ahead
    offer = QuoteOffered(port_id=PORT, quote=quote("beta", valid_until=theirs + HOLDS))
    held = reserved("beta", reserved_until=theirs + HOLDS)
    moved = on_our_clock(seal(offer, source=BETA, message_id=uuid4(), now=theirs), NOW).data
    assert isinstance(moved, QuoteOffered)
    assert moved.quote.valid_until == NOW + HOLDS
    kept = on_our_clock(seal(held, source=BETA, message_id=uuid4(), now=theirs), NOW).data
    assert isinstance(kept, Reserved)
    assert kept.reserved_until == NOW + HOLDS


def test_clocks_that_agree_change_nothing() -> None:
    """Nor is a message changed that names no time."""
    offer = QuoteOffered(port_id=PORT, quote=quote("beta", valid_until=NOW + HOLDS))
    sealed = seal(offer, source=BETA, message_id=uuid4(), now=NOW)
    assert on_our_clock(sealed, NOW + timedelta(seconds=1)) is sealed
    opened = seal(InboundOpened(port_id=PORT), source=BETA, message_id=uuid4(), now=NOW)
    assert on_our_clock(opened, NOW + timedelta(minutes=10)) is opened
