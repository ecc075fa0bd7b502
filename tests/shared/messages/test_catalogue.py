"""Price lists: what is no price list is refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import ValidationError

from shared.messages.catalogue import OfferedType, ReservationTerms

YEAR = ReservationTerms(months=12, upfront=Decimal(60), price_per_month=Decimal(12))
SMALL = {"name": "small", "vcpus": 1, "memory_mib": 1024, "disk_gib": 10, "price_per_month": "20.00", "currency": "EUR"}


def test_a_reserved_month_is_cheaper() -> None:
    """Otherwise nobody would use what is reserved."""
    assert OfferedType.model_validate(SMALL | {"reservations": (YEAR,)}).reservations == (YEAR,)
    costly = YEAR.model_copy(update={"price_per_month": Decimal(20)})
    with pytest.raises(ValidationError, match="12 months: price_per_month 20 must be less than"):
        OfferedType.model_validate(SMALL | {"reservations": (costly,)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reservations": (YEAR, YEAR)}, "each number of months stands once"),
        ({"price_per_month": "-1.00"}, "greater than or equal to 0"),
        ({"currency": "euro"}, "match pattern"),
    ],
)
def test_what_is_wrong(change: dict[str, object], said: str) -> None:
    """By key and reason."""
    with pytest.raises(ValidationError, match=said):
        OfferedType.model_validate(SMALL | change)
