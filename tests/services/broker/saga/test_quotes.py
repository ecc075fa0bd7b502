"""The choice among offers: the tenant's limits, then total cost, time, downtime, name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.broker.saga.quotes import CODES, choose, in_short, name_a_currency, unmet_limits
from shared.messages.network import NetworkTerms
from shared.messages.service_change import PortLimits, Quote
from tests.support.broker_samples import NOW, quote
from tests.support.money_samples import costing, rates


@pytest.mark.parametrize(
    ("offer", "limits", "expected"),
    [
        ({"valid_until": NOW}, {}, "quote_expired"),
        ({"price": "5.01"}, {"max_price_per_month": "5.00"}, "too_expensive"),
        ({"promised_downtime_ms": 301}, {"max_downtime_ms": 300}, "downtime_too_long"),
        ({"promised_total_s": 61.0}, {"deadline": NOW + timedelta(seconds=60)}, "too_slow"),
        (
            {"promised_total_s": 61.0},
            {"window_start": NOW + timedelta(hours=1), "deadline": NOW + timedelta(hours=1, seconds=60)},
            "too_slow",
        ),
        ({}, {"network_mode": "extend"}, "network_mode_differs"),
        (
            {"network": NetworkTerms.model_validate({"carry": "extend"})},
            {"network_mode": "anchor"},
            "network_mode_differs",
        ),
        (
            {"network": NetworkTerms.model_validate({"carry": "extend"})},
            {"network_mode": "announce"},
            "network_mode_differs",
        ),
    ],
)
def test_limits(offer: dict[str, Any], limits: dict[str, Any], expected: str) -> None:
    """Each limit of the tenant that an offer breaks has its own code."""
    assert [refusal.code for refusal in unmet_limits(quote(**offer), PortLimits(**limits), NOW)] == [expected]
    assert expected in CODES


def test_exactly_at_the_limit_is_good() -> None:
    """At most means at most."""
    offer = quote(price="5.00", promised_downtime_ms=300, promised_total_s=60.0)
    limits = PortLimits(max_price_per_month="5.00", max_downtime_ms=300, deadline=NOW + timedelta(seconds=60))
    assert unmet_limits(offer, limits, NOW) == ()


@pytest.mark.parametrize(
    ("wanted", "announced"), [("auto", False), ("extend", False), ("extend", True), ("announce", True)]
)
def test_addresses_that_are_kept_as_asked(wanted: str, *, announced: bool) -> None:
    """What carries them, or what follows it."""
    terms = NetworkTerms.model_validate({"carry": "extend", "then_announce": announced})
    limits = PortLimits.model_validate({"network_mode": wanted})
    assert unmet_limits(quote(network=terms), limits, NOW) == ()


def test_order() -> None:
    """Cost first, then total time, then downtime, then name."""
    offers = [
        quote("e", price="2.00"),
        quote("d", price="1.00", promised_total_s=90.0),
        quote("c", price="1.00", promised_downtime_ms=600),
        quote("b", price="1.00"),
        quote("a", price="1.00"),
    ]
    assert [offer.provider for offer in choose(offers, costing()).ranked] == ["a", "b", "c", "d", "e"]


def test_currencies_are_not_mixed() -> None:
    """A number in another currency is not compared with this one."""
    offers = [quote("a", price="1.00", currency="USD"), quote("b", price="9.00", currency="EUR")]
    choice = choose(offers, costing({"horizon_months": 2}, broken_promise_percent=0))
    assert [offer.provider for offer in choice.ranked] == ["b", "a"]
    asked = name_a_currency(choice)
    assert asked.code == "currency_needed"
    assert asked.evidence == "the best in each: b, 18.00 EUR over 2 months; a, 2.00 USD over 2 months"


def test_the_tenants_currency_is_a_limit() -> None:
    """Without a rate to it an offer is not acceptable; with one, the price's limit is in it."""
    offer = quote(price="9.00", currency="USD")
    limits = PortLimits(currency="EUR", max_price_per_month="8.00")
    (refusal,) = unmet_limits(offer, limits, NOW)
    assert refusal.code in CODES
    assert refusal.code == "currency_not_converted"
    (refusal,) = unmet_limits(offer, limits, NOW, rates(USD_EUR="0.9"))
    assert (refusal.code, refusal.evidence) == ("too_expensive", "beta asks 9.00 USD, 8.10 EUR")
    assert unmet_limits(offer, limits, NOW, rates(USD_EUR="0.8")) == ()


def test_in_short() -> None:
    """The record says what was chosen, and by how much each other one lost."""
    choice = choose([quote("b", price="1.00"), quote("c", price="2.00")], costing(broken_promise_percent=0))
    assert in_short(choice).startswith(
        "b: 1.00 EUR per month, 12.00 EUR over 12 months, 60 s; c costs 12.00 EUR more over 12 months: price +12.00"
    )


offers = st.builds(
    lambda name, price, total_s, downtime_ms: quote(
        name, price=str(price), promised_total_s=total_s, promised_downtime_ms=downtime_ms
    ),
    st.sampled_from("abcdef"),
    st.integers(0, 5),
    st.sampled_from([10.0, 20.0]),
    st.sampled_from([100, 200]),
)


@given(st.lists(offers, unique_by=lambda offer: offer.provider), st.randoms())
def test_same_choice_in_any_order(found: list[Quote], chance: Any) -> None:
    """The order in which offers arrive does not matter, and none is lost."""
    known = costing({"max_downtime_ms": 150})
    choice = choose(found, known)
    shuffled = list(found)
    chance.shuffle(shuffled)
    assert choose(shuffled, known) == choice
    assert {offer.provider for offer in choice.ranked} | set(choice.unacceptable) == {offer.provider for offer in found}
