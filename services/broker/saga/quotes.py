"""The choice among recipients' offers. Pure.

An offer is acceptable when it keeps every limit of the tenant: price, downtime, and arrival before the deadline.
Compatibility is not compared here: a recipient that cannot run the VM as it is declines. Acceptable offers are ranked
by:

1. the lowest price per month. Prices in different currencies cannot be compared: currencies come in the order of
   their names;
2. then the shortest promised total time;
3. then the shortest promised downtime;
4. then the provider's name, so that the choice does not depend on the order of the answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from shared.messages import Refusal
from shared.messages.network import NetworkMode, NetworkTerms, WantedMode
from shared.messages.service_change import PortLimits, Quote
from shared.parties import Name

CODES = frozenset({"quote_expired", "too_expensive", "downtime_too_long", "too_slow", "network_mode_differs"})
"""The codes of `unmet_limits`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The acceptable offers, best first; and for every other provider why its offer is not acceptable."""

    ranked: tuple[Quote, ...]
    unacceptable: dict[Name, tuple[Refusal, ...]]


def choose(quotes: Iterable[Quote], limits: PortLimits, now: datetime) -> Choice:
    """Rank the offers by the rule above."""
    acceptable: list[Quote] = []
    unacceptable: dict[Name, tuple[Refusal, ...]] = {}
    for quote in quotes:
        refusals = unmet_limits(quote, limits, now)
        if refusals:
            unacceptable[quote.provider] = refusals
        else:
            acceptable.append(quote)
    return Choice(tuple(sorted(acceptable, key=_rank)), unacceptable)


def _rank(quote: Quote) -> tuple[str, Decimal, float, int, str]:
    return (
        quote.currency,
        quote.price_per_month,
        quote.promised_total_s,
        quote.promised_downtime_ms,
        quote.provider,
    )


def unmet_limits(quote: Quote, limits: PortLimits, now: datetime) -> tuple[Refusal, ...]:
    """Every limit of the tenant that this offer breaks."""
    found: list[Refusal] = []
    if quote.valid_until <= now:
        found.append(
            Refusal(
                code="quote_expired",
                rule="a quote must be valid when it is chosen",
                evidence=f"it was valid until {quote.valid_until.isoformat()}",
            )
        )
    if limits.max_price_per_month is not None and quote.price_per_month > limits.max_price_per_month:
        found.append(
            Refusal(
                code="too_expensive",
                rule=f"the price must be at most {limits.max_price_per_month} per month",
                evidence=f"{quote.provider} asks {quote.price_per_month} {quote.currency}",
            )
        )
    if quote.promised_downtime_ms > limits.max_downtime_ms:
        found.append(
            Refusal(
                code="downtime_too_long",
                rule=f"the downtime must be at most {limits.max_downtime_ms} ms",
                evidence=f"{quote.provider} promises {quote.promised_downtime_ms} ms",
            )
        )
    if not _keeps_addresses(quote.network, limits.network_mode):
        offered = "nothing" if quote.network is None else str(quote.network.carry)
        found.append(
            Refusal(
                code="network_mode_differs",
                rule=f"the VM's addresses must be kept in the way that was asked for: {limits.network_mode}",
                evidence=f"{quote.provider} offers {offered}",
            )
        )
    start = max(now, limits.window_start or now)
    arrival = start + timedelta(seconds=quote.promised_total_s)
    if limits.deadline is not None and arrival > limits.deadline:
        found.append(
            Refusal(
                code="too_slow",
                rule=f"the VM must arrive before {limits.deadline.isoformat()}",
                evidence=f"{quote.provider} promises {quote.promised_total_s:.0f} s: arrival at {arrival.isoformat()}",
            )
        )
    return tuple(found)


def _keeps_addresses(offered: NetworkTerms | None, wanted: WantedMode) -> bool:
    if wanted == "auto":
        return True
    if offered is None:
        return False
    return offered.then_announce if wanted is NetworkMode.ANNOUNCE else offered.carry == wanted
