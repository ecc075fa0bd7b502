"""The choice by total cost, and why each other offer lost."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.broker.costs.choice import rank
from shared.messages.costs import CostKind, JoiningTerms, LostOffer
from shared.messages.service_change import Quote
from tests.support.broker_samples import quote
from tests.support.money_samples import costing, estimate, leaving, rates


def names(offers: tuple[Quote, ...]) -> list[str]:
    """Providers in order."""
    return [offer.provider for offer in offers]


def fee(amount: str) -> JoiningTerms:
    """A recipient that asks this for coming."""
    return JoiningTerms(fee=Decimal(amount))


def test_a_low_price_can_cost_more() -> None:
    """Over a year a fee of 20.00 outweighs a price that is 1.00 lower per month; over ten years it does not."""
    offers = (quote("low", price="9.00", joining=fee("20.00")), quote("high", price="10.00"))
    year = rank(offers, costing(broken_promise_percent=0))
    assert names(year.quotes) == ["high", "low"]
    (lost,) = year.lost
    assert (lost.provider, lost.against, lost.difference) == ("low", "high", Decimal("8.00"))
    assert [(line.kind, line.amount) for line in lost.lines] == [
        (CostKind.JOINING_FEE, Decimal("20.00")),
        (CostKind.PRICE, Decimal("-12.00")),
    ]
    assert lost.reason == "costs 8.00 EUR more over 12 months: joining fee +20.00, price -12.00" + UNSTATED
    assert names(rank(offers, costing({"horizon_months": 120})).quotes) == ["low", "high"]


UNSTATED = "; not compared, since not known: donor energy, egress, recipient energy"


def test_downtime_at_the_tenants_value() -> None:
    """A long outage counts for who says so."""
    offers = (
        quote("slow", price="9.00", estimate=estimate(outage_ms=60_000)),
        quote("fast", price="9.50", estimate=estimate(outage_ms=100)),
    )
    assert names(rank(offers, costing()).quotes) == ["slow", "fast"]
    assert names(rank(offers, costing({"downtime_cost_per_hour": "1000.00"})).quotes) == ["fast", "slow"]


def test_the_record_of_kept_promises_counts() -> None:
    """Of the same price the provider that keeps its promises; and a credit makes good what it covers, not more."""
    offers = (quote("a"), quote("b"))
    known = {"a": (0, 8), "b": (8, 8)}
    ranking = rank(offers, costing(promises=known))
    assert names(ranking.quotes) == ["b", "a"]
    assert ranking.lost[0].lines[0].kind is CostKind.BROKEN_PROMISES
    generous = quote("a", joining=JoiningTerms(credit_percent=Decimal(100)))
    assert names(rank((generous, quote("b")), costing(promises=known)).quotes) == ["a", "b"]
    more = rank((generous, quote("b")), costing(promises=known)).lost[0].difference
    assert more == Decimal("0.09")
    assert names(rank(offers, costing(promises=known, broken_promise_percent=0)).quotes) == ["b", "a"]


@pytest.mark.parametrize(
    ("better", "worse", "word"),
    [
        ({}, {"promised_total_s": 61.0}, "beta promises a shorter time"),
        ({}, {"promised_downtime_ms": 501}, "beta promises a shorter downtime"),
        ({}, {}, "beta comes first by name"),
    ],
)
def test_ties(better: dict[str, Any], worse: dict[str, Any], word: str) -> None:
    """What decides between equal costs is said."""
    ranking = rank((quote("gamma", **worse), quote("beta", **better)), costing())
    assert names(ranking.quotes) == ["beta", "gamma"]
    assert ranking.lost[0].difference == 0
    assert ranking.lost[0].reason.startswith(f"costs the same; {word}")


def test_what_is_not_known_is_not_the_cheapest() -> None:
    """An offer whose egress is not known does not win by that: then egress counts for nobody."""
    known = quote("known", price="9.00", estimate=estimate(1000))
    unknown = quote("unknown", price="9.50")
    ranking = rank((known, unknown), costing(terms=leaving()))
    assert names(ranking.quotes) == ["known", "unknown"]
    assert "not compared, since not known: donor energy, egress" in ranking.lost[0].reason


class TestCurrencies:
    """Offers in several currencies."""

    OFFERS = (quote("a", price="9.00", currency="EUR"), quote("b", price="9.50", currency="USD"))

    def test_without_a_rate_each_has_its_own_best(self) -> None:
        """They are not compared, and that is said."""
        ranking = rank(self.OFFERS, costing())
        assert (names(ranking.quotes), ranking.currencies) == (["a", "b"], ("EUR", "USD"))
        (lost,) = ranking.lost
        assert (lost.provider, lost.against, lost.difference) == ("b", "a", None)
        assert "no rate of exchange between USD and EUR of the last 7 days" in lost.reason

    def test_with_a_rate_they_are_compared(self) -> None:
        """9.50 USD are 8.55 EUR."""
        ranking = rank(self.OFFERS, costing(rates=rates(USD_EUR="0.9")))
        assert (names(ranking.quotes), ranking.currencies) == (["b", "a"], ("EUR",))
        assert [quote.costs.currency for quote in ranking.quotes if quote.costs] == ["EUR", "EUR"]

    def test_in_the_currency_that_the_tenant_names(self) -> None:
        """Else in that of today's price, if all lead there."""
        both = rates(USD_EUR="0.9", EUR_CHF="0.95", USD_CHF="0.85")
        assert rank(self.OFFERS, costing({"currency": "CHF"}, rates=both)).currencies == ("CHF",)
        assert rank(self.OFFERS, costing(terms=leaving(currency="USD"), rates=both)).currencies == ("USD",)

    def test_as_few_groups_as_the_rates_allow(self) -> None:
        """Two of three currencies are joined by a rate."""
        offers = (*self.OFFERS, quote("c", currency="GBP"))
        assert rank(offers, costing(rates=rates(GBP_USD="1.3"))).currencies == ("EUR", "GBP")


OFFERS = st.lists(
    st.builds(
        lambda name, price, currency, fees, gigabytes: quote(
            name,
            price=str(price),
            currency=currency,
            joining=fee(str(fees)),
            estimate=estimate(gigabytes) if gigabytes else None,
        ),
        st.sampled_from("abcdefgh"),
        st.decimals(0, 50, places=2),
        st.sampled_from(["EUR", "USD", "GBP", "JPY"]),
        st.decimals(0, 20, places=2),
        st.sampled_from([0, 1, 50]),
    ),
    unique_by=lambda offer: offer.provider,
    max_size=8,
)


@given(OFFERS, st.randoms())
def test_every_offer_is_ranked_and_every_loser_explained(offers: list[Quote], chance: Any) -> None:
    """In any order of arrival; the lines of a difference add up to it, and nobody lost by less than nothing."""
    known = costing(terms=leaving(), rates=rates(USD_EUR="0.9"), promises={"a": (1, 9), "b": (9, 9)})
    ranking = rank(offers, known)
    shuffled = list(offers)
    chance.shuffle(shuffled)
    assert rank(shuffled, known) == ranking
    assert sorted(names(ranking.quotes)) == sorted(offer.provider for offer in offers)
    assert {each.provider for each in ranking.lost} == set(names(ranking.quotes)[1:])
    assert all(_adds_up(each) for each in ranking.lost)


def _adds_up(lost: LostOffer) -> bool:
    if lost.difference is None:
        return not lost.lines
    return lost.difference >= 0 and sum(line.amount for line in lost.lines) == lost.difference
