"""The choice among offers: the tenant's limits, then price, time, downtime, name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.broker.saga.quotes import CODES, choose, unmet_limits
from shared.messages.network import NetworkTerms
from shared.messages.service_change import PortLimits, Quote
from tests.support.broker_samples import NOW, quote


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
    """Price first, then total time, then downtime, then name."""
    offers = [
        quote("e", price="2.00"),
        quote("d", price="1.00", promised_total_s=90.0),
        quote("c", price="1.00", promised_downtime_ms=600),
        quote("b", price="1.00"),
        quote("a", price="1.00"),
    ]
    assert [offer.provider for offer in choose(offers, PortLimits(), NOW).ranked] == ["a", "b", "c", "d", "e"]


def test_currencies_are_not_mixed() -> None:
    """A number in another currency is not compared with this one."""
    offers = [quote("a", price="1.00", currency="USD"), quote("b", price="9.00", currency="EUR")]
    assert [offer.provider for offer in choose(offers, PortLimits(), NOW).ranked] == ["b", "a"]


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
    limits = PortLimits(max_downtime_ms=150)
    choice = choose(found, limits, NOW)
    shuffled = list(found)
    chance.shuffle(shuffled)
    assert choose(shuffled, limits, NOW) == choice
    assert {offer.provider for offer in choice.ranked} | set(choice.unacceptable) == {offer.provider for offer in found}
