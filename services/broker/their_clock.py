"""Times that providers name, put on the broker's clock. Pure.

A provider says until when an offer holds by its own clock. What it means is for how long: that is counted from when it
said so. Where both clocks agree, nothing is changed.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from shared.clocks import NOTICED
from shared.messages import AnyEnvelope
from shared.messages.porting import QuoteOffered, Reserved

E = TypeVar("E", bound=AnyEnvelope)


def on_our_clock(envelope: E, now: datetime) -> E:
    """The message with the times in it on the clock that shows `now`."""
    shift = now - envelope.time
    if abs(shift) < NOTICED:
        return envelope
    match envelope.data:
        case QuoteOffered(quote=quote) as offered:
            moved = quote.model_copy(update={"valid_until": quote.valid_until + shift})
            return envelope.model_copy(update={"data": offered.model_copy(update={"quote": moved})})
        case Reserved(reserved_until=until) as reserved:
            return envelope.model_copy(update={"data": reserved.model_copy(update={"reserved_until": until + shift})})
        case _:
            return envelope
