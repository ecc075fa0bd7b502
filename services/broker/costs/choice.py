"""Which acceptable offer is the best, and why each other one is not. Pure.

Offers are compared by their total cost over the tenant's horizon, in one currency. A line that is not known for every
offer of the comparison counts for none of them: otherwise what is not known would be the cheapest. Where the totals are
equal it is, in turn, the better record of kept promises, the shorter promised time, the shorter promised downtime, and
the provider's name.

Where no rate of exchange leads from one currency to another, offers are not compared: each currency has its own best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from services.broker.costs.exchange import Money
from services.broker.costs.offer import Costing, costs_of
from shared.messages.costs import CostKind, CostLine, Costs, LineDifference, LostOffer
from shared.messages.service_change import Quote

CRITERIA = (
    "has the better record",
    "promises a shorter time",
    "promises a shorter downtime",
    "comes first by name",
)
"""Where totals are equal."""
NAMED_LINES = 3
"""So many lines are named in the sentence; all are in the list."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Acceptable offers with their costs, best first; currencies that are not compared follow each other by name."""

    quotes: tuple[Quote, ...]
    lost: tuple[LostOffer, ...]
    currencies: tuple[str, ...]
    """In which offers were compared, each among its own. More than one: there is no best offer of all."""


@dataclass(frozen=True, slots=True)
class _Priced:
    quote: Quote
    costs: Costs
    compared: Decimal
    """The total without the lines that are not known for every offer."""

    @property
    def rank(self) -> tuple[Decimal, float, float, int, str]:
        share = self.costs.record.share if self.costs.record is not None else 0.0
        quote = self.quote
        return (self.compared, -share, quote.promised_total_s, quote.promised_downtime_ms, quote.provider)


def rank(offers: Iterable[Quote], costing: Costing) -> Ranking:
    """Rank acceptable offers by the rule above."""
    groups = _by_currency(sorted(offers, key=lambda offer: offer.provider), costing)
    ranked: list[Quote] = []
    lost: list[LostOffer] = []
    for currency, members in sorted(groups.items()):
        priced, unknown = _priced(members, costing, currency)
        best = priced[0]
        if ranked:
            lost.append(_not_compared(best, ranked[0], costing))
        lost += [_lost(other, best, unknown) for other in priced[1:]]
        ranked += [each.quote.model_copy(update={"costs": each.costs}) for each in priced]
    return Ranking(tuple(ranked), tuple(lost), tuple(sorted(groups)))


# Currencies


def _by_currency(offers: list[Quote], costing: Costing) -> Mapping[str, list[Quote]]:
    """As few groups as the rates allow. One that the tenant names is the only one that is looked at first."""
    leaving, named = costing.leaving, costing.limits.currency
    today = [leaving.currency] if leaving is not None and leaving.price_per_month is not None else []
    preferred = [named] if named is not None else list(dict.fromkeys([*today, *sorted({o.currency for o in offers})]))
    groups: dict[str, list[Quote]] = {}
    left = offers
    while left:
        reached = {currency: [offer for offer in left if _reaches(offer, currency, costing)] for currency in preferred}
        target = max(preferred, key=lambda currency: len(reached[currency]))
        if not reached[target]:  # only where the tenant names a currency to which some offers do not lead
            preferred = sorted({offer.currency for offer in left})
            continue
        groups[target] = reached[target]
        left = [offer for offer in left if offer not in reached[target]]
        preferred = [each for each in preferred if each != target] or sorted({offer.currency for offer in left})
    return groups


def _reaches(offer: Quote, currency: str, costing: Costing) -> bool:
    money = Money(offer.price_per_month, offer.currency)
    return costing.basis.rates.convert(money, currency, costing.today) is not None


# Totals


def _priced(offers: list[Quote], costing: Costing, currency: str) -> tuple[list[_Priced], frozenset[CostKind]]:
    costs = [(offer, costs_of(offer, costing, currency)) for offer in offers]
    unknown = frozenset(line.kind for _, each in costs for line in each.lines if line.amount is None)
    priced = [_Priced(offer, each, _compared(each, unknown)) for offer, each in costs]
    return sorted(priced, key=lambda each: each.rank), unknown


def _compared(costs: Costs, unknown: frozenset[CostKind]) -> Decimal:
    return sum(_known(costs, unknown).values(), Decimal("0.00"))


def _known(costs: Costs, unknown: frozenset[CostKind]) -> dict[CostKind, Decimal]:
    return {line.kind: line.amount for line in costs.lines if line.amount is not None and line.kind not in unknown}


# Reasons


def _lost(other: _Priced, best: _Priced, unknown: frozenset[CostKind]) -> LostOffer:
    theirs, mine = _known(other.costs, unknown), _known(best.costs, unknown)
    found = {kind: theirs.get(kind, Decimal(0)) - mine.get(kind, Decimal(0)) for kind in CostKind}
    lines = sorted(
        (LineDifference(kind=kind, amount=amount) for kind, amount in found.items() if amount),
        key=lambda line: -line.amount,
    )
    difference = other.compared - best.compared
    reason = _costs_more(difference, lines, best.costs) if difference else _tie(other, best)
    return LostOffer(
        provider=other.quote.provider,
        against=best.quote.provider,
        difference=difference,
        currency=best.costs.currency,
        lines=tuple(lines),
        reason=reason + _left_out((*other.costs.lines, *best.costs.lines), unknown),
    )


def _costs_more(difference: Decimal, lines: list[LineDifference], best: Costs) -> str:
    months = best.horizon_months
    named = ", ".join(f"{in_words(line.kind)} {line.amount:+}" for line in lines[:NAMED_LINES])
    return f"costs {difference} {best.currency} more over {months} month{'s' if months > 1 else ''}: {named}"


def _tie(other: _Priced, best: _Priced) -> str:
    ranks = zip(CRITERIA, best.rank[1:], other.rank[1:], strict=True)
    decided = next((word for word, mine, theirs in ranks if mine != theirs), CRITERIA[-1])
    return f"costs the same; {best.quote.provider} {decided}"


def _left_out(lines: Iterable[CostLine], unknown: frozenset[CostKind]) -> str:
    stated = {line.kind for line in lines} & unknown
    return f"; not compared, since not known: {', '.join(in_words(kind) for kind in sorted(stated))}" if stated else ""


def _not_compared(best: _Priced, first: Quote, costing: Costing) -> LostOffer:
    return LostOffer(
        provider=best.quote.provider,
        against=first.provider,
        currency=best.costs.currency,
        reason=f"the best offer in {best.costs.currency}, not compared with {first.provider}'s: no rate of exchange "
        f"between {best.costs.currency} and {first.currency} of the last {costing.basis.rates.hold_days} days; "
        "name the currency that you pay in",
    )


def in_words(kind: CostKind) -> str:
    """``leaving fee``."""
    return kind.value.replace("_", " ")
