"""What the broker knows of money before it asks anybody. Read once when a port begins, and kept with it. Pure.

So the quote, the choice and the bill of one port rest on the same rates, the same record and the same rules.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from services.broker.costs.exchange import Rates
from services.broker.costs.promises import Kept
from shared.messages.base import Price, Value
from shared.messages.costs import Currency, Percent, SwitchingCharge
from shared.parties import Name


class PriceNow(Value):
    """What the tenant pays for the VM today, by the ledger's record of its last port."""

    per_month: Price
    currency: Currency


class Basis(Value):
    """Rates, records and rules as they were when the port began."""

    rates: Rates = Rates()
    promises: dict[Name, Kept] = Field(default_factory=dict, description="By provider; one that is not there is new.")
    price_now: PriceNow | None = None
    switching: Annotated[tuple[SwitchingCharge, ...], Field(max_length=1024)] = ()
    broken_promise_percent: Percent = Field(
        default=Decimal(10), description="Of a month's price: what a broken promise counts in the choice."
    )

    def kept_by(self, provider: Name) -> Kept:
        """The provider's record; an empty one for a new provider."""
        return self.promises.get(provider, Kept())


NO_BASIS = Basis()
