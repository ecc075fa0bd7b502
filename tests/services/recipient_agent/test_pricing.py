"""Instance types and prices."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import ValidationError

from services.recipient_agent.capacity import MIB
from services.recipient_agent.pricing import NO_JOINING, InstanceType, Joining, cheapest
from services.recipient_agent.testing import LARGE, SMALL, make_vm
from shared.messages.base import Refusal
from shared.messages.costs import EnergyModel


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, SMALL),
        ({"vcpus": 2}, LARGE),
        ({"vcpus": 1, "vcpus_max": 64}, SMALL),
        ({"memory_bytes": 1024 * MIB}, SMALL),
        ({"memory_bytes": 1025 * MIB}, LARGE),
    ],
)
def test_the_cheapest_type_that_fits(change: dict[str, int], expected: InstanceType) -> None:
    """A VM is billed as the cheapest type that is no smaller than it."""
    assert cheapest(make_vm(**change), [LARGE, SMALL]) == expected


def test_same_price_is_decided_by_name() -> None:
    """Deterministic, whatever the order of the list."""
    twin = SMALL.model_copy(update={"name": "a-small"})

    assert cheapest(make_vm(), [SMALL, twin]) == twin


@pytest.mark.parametrize("types", [[], [SMALL]])
def test_a_vm_that_fits_no_type_is_refused(types: list[InstanceType]) -> None:
    """The refusal names the price list."""
    refusal = cheapest(make_vm(vcpus=64), types)

    assert isinstance(refusal, Refusal)
    assert refusal.code == "no_instance_type"
    assert ("small" in refusal.rule) == bool(types)


def test_disk_counts_by_virtual_size() -> None:
    """The type must hold the full disk."""
    tiny = InstanceType(name="t", vcpus=1, memory_mib=512, disk_gib=0, price_per_month=Decimal(1))

    assert isinstance(cheapest(make_vm(), [tiny]), Refusal)
    assert cheapest(make_vm(disks=()), [tiny]) == tiny


def test_what_joining_costs() -> None:
    """Nothing is said where there is nothing to say; energy is stated where the host has a model of it."""
    model = EnergyModel(joules_per_byte=1e-6)
    assert NO_JOINING.terms(None) is None
    terms = Joining(fee="2.00", credit_percent="5", energy_price_per_kwh="0.30").terms(model)
    assert terms is not None
    assert (terms.fee, terms.credit_percent) == (Decimal("2.00"), Decimal(5))
    assert terms.energy is not None
    assert (terms.energy.model, terms.energy.price_per_kwh) == (model, Decimal("0.30"))


@pytest.mark.parametrize("wrong", [{"fee": "-1"}, {"credit_percent": "101"}, {"energy_price_per_kwh": "-0.1"}])
def test_wrong_terms_are_refused(wrong: dict[str, str]) -> None:
    """Nothing is negative, and nobody gives back more than a month's price."""
    with pytest.raises(ValidationError):
        Joining.model_validate(wrong)


def test_an_unknown_currency_is_refused() -> None:
    """A price list in a currency that nobody has would never be compared."""
    with pytest.raises(ValidationError, match="XXX is no currency"):
        InstanceType(name="t", vcpus=1, memory_mib=512, disk_gib=0, price_per_month="1", currency="XXX")


def test_a_reserved_month_costs_less() -> None:
    """A price list that says otherwise is refused; what is sold is told to the broker as it stands."""
    terms = {"months": 12, "upfront": "10.00", "price_per_month": "4.00"}
    facts = {"name": "small", "vcpus": 1, "memory_mib": 1024, "disk_gib": 10, "price_per_month": "5.00"}
    offered = InstanceType.model_validate(facts | {"reservations": [terms]}).offered()
    assert (offered.name, offered.currency, offered.reservations[0].months) == ("small", "EUR", 12)
    with pytest.raises(ValidationError, match=r"price_per_month 6\.00 must be less than the price on demand, 5\.00"):
        InstanceType.model_validate(facts | {"reservations": [terms | {"price_per_month": "6.00"}]})
