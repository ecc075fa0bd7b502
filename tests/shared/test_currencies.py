"""Currencies that may be named."""

from __future__ import annotations

import pytest

from shared.currencies import CURRENCIES, known


def test_iso_4217() -> None:
    """Three letters each; old ones are gone."""
    assert {"EUR", "USD", "INR", "GBP", "JPY"} <= CURRENCIES
    assert all(len(code) == 3 and code.isupper() for code in CURRENCIES)
    assert not {"DEM", "XXX", "BTC"} & CURRENCIES


def test_an_unknown_one_is_named() -> None:
    """In a sentence."""
    assert known("EUR") == "EUR"
    with pytest.raises(ValueError, match="DEM is no currency of ISO 4217"):
        known("DEM")
