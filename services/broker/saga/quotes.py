"""The choice among recipients' offers. Pure.

An offer is acceptable when it keeps every limit of the tenant: price, currency, downtime, and arrival before the
deadline. Compatibility is not compared here: a recipient that cannot run the VM as it is declines. Acceptable offers
are ranked by their total cost over the tenant's horizon; `services.broker.costs.choice` has the rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.broker.costs.choice import rank
from services.broker.costs.exchange import Money, Rates, cents
from services.broker.costs.offer import Costing
from services.broker.saga.decision import Moment
from shared.messages import Refusal
from shared.messages.costs import LostOffer
from shared.messages.network import NetworkMode, NetworkTerms, WantedMode
from shared.messages.service_change import PortLimits, Quote
from shared.parties import Name

NO_RATES = Rates()
CODES = frozenset(
    {
        "quote_expired",
        "too_expensive",
        "currency_not_converted",
        "downtime_too_long",
        "too_slow",
        "network_mode_differs",
    }
)
"""The codes of `unmet_limits`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The acceptable offers, best first; why each other one of them lost; and why the rest is not acceptable."""

    ranked: tuple[Quote, ...]
    unacceptable: dict[Name, tuple[Refusal, ...]]
    lost: tuple[LostOffer, ...] = ()
    currencies: tuple[str, ...] = ()
    """More than one: offers in these are not compared, and there is no best one."""


def costing(at: Moment) -> Costing:
    """All by which the offers of this port are compared."""
    state = at.state
    return Costing(
        donor=state.request.donor,
        limits=state.request.limits,
        now=at.now,
        leaving=state.leaving,
        basis=state.basis,
    )


def choose(quotes: Iterable[Quote], costing: Costing) -> Choice:
    """Rank the offers by the rule above."""
    acceptable: list[Quote] = []
    unacceptable: dict[Name, tuple[Refusal, ...]] = {}
    for quote in quotes:
        refusals = unmet_limits(quote, costing.limits, costing.now, costing.basis.rates)
        if refusals:
            unacceptable[quote.provider] = refusals
        else:
            acceptable.append(quote)
    ranking = rank(acceptable, costing)
    return Choice(ranking.quotes, unacceptable, ranking.lost, ranking.currencies)


def name_a_currency(choice: Choice) -> Refusal:
    """What the tenant is asked where its offers are in currencies that are not compared."""
    best = {}
    for quote in choice.ranked:
        if quote.costs is not None and quote.costs.currency not in best:
            total = f"{quote.costs.total} {quote.costs.currency} over {quote.costs.horizon_months} months"
            best[quote.costs.currency] = f"{quote.provider}, {total}"
    return Refusal(
        code="currency_needed",
        rule="without a rate of exchange offers are not compared across currencies: name the one that you pay in",
        evidence=f"the best in each: {'; '.join(best.values())}",
    )


def in_short(choice: Choice) -> str:
    """Why the first offer was chosen, for the port's record."""
    best = choice.ranked[0]
    costs = best.costs
    total = f", {costs.total} {costs.currency} over {costs.horizon_months} months" if costs is not None else ""
    price = f"{best.price_per_month} {best.currency} per month"
    reasons = (f"{each.provider} {each.reason}" for each in choice.lost if each.against == best.provider)
    return "; ".join((f"{best.provider}: {price}{total}, {best.promised_total_s:.0f} s", *reasons))


def unmet_limits(quote: Quote, limits: PortLimits, now: datetime, rates: Rates = NO_RATES) -> tuple[Refusal, ...]:
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
    found += _price_refusals(quote, limits, now, rates)
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


def _price_refusals(quote: Quote, limits: PortLimits, now: datetime, rates: Rates) -> Iterator[Refusal]:
    """In the tenant's currency, if it names one; else the number is that of the quote's own."""
    currency = limits.currency or quote.currency
    converted = rates.convert(Money(quote.price_per_month, quote.currency), currency, now.date())
    if converted is None:
        yield Refusal(
            code="currency_not_converted",
            rule=f"the price must be in {currency}, in which the tenant pays, or convertible to it",
            evidence=f"{quote.provider} asks {quote.price_per_month} {quote.currency}; there is no rate of exchange "
            f"of the last {rates.hold_days} days",
        )
        return
    price, most = cents(converted.amount), limits.max_price_per_month
    if most is not None and price > most:
        own = f"{quote.price_per_month} {quote.currency}"
        yield Refusal(
            code="too_expensive",
            rule=f"the price must be at most {most} per month",
            evidence=f"{quote.provider} asks {own}" + (f", {price} {currency}" if converted.rate is not None else ""),
        )
