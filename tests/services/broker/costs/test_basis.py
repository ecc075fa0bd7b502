"""What the broker knows of money when a port begins."""

from __future__ import annotations

from services.broker.costs.basis import NO_BASIS, Basis
from services.broker.costs.promises import Kept


def test_a_provider_without_record_is_new() -> None:
    """It is neither good nor bad."""
    known = Basis(promises={"beta": Kept(kept=3, total=4)})
    assert known.kept_by("beta") == Kept(kept=3, total=4)
    assert known.kept_by("gamma") == NO_BASIS.kept_by("beta") == Kept()


def test_it_is_kept_as_json() -> None:
    """The saga stores it with the port."""
    known = Basis.model_validate(
        {
            "rates": {"table": [{"base": "USD", "quote": "EUR", "rate": "0.92", "as_of": "2026-03-01"}]},
            "promises": {"beta": {"kept": 3, "total": 4}},
            "price_now": {"per_month": "20.00", "currency": "EUR"},
            "switching": [{"regime": "eu-data-act", "rule": "banned", "valid_from": "2027-01-12"}],
        }
    )
    assert Basis.model_validate_json(known.model_dump_json()) == known
