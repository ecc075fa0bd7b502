"""The broker's settings about money, and what is said of wrong ones."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from services.broker.costs.exchange import Money
from services.broker.settings import BrokerSettings
from shared.config import ConfigError, load
from shared.messages.costs import SwitchingRule

MINIMAL = """
[bus]
url = "amqp://broker:secret@127.0.0.1:5672/vmport"
[store]
url = "sqlite:////var/lib/vmport/ledger.db"
"""
RATE = '[[broker.exchange_rates]]\nfrom = "USD"\nto = "EUR"\nrate = "0.92"\nas_of = 2026-03-01\n'
CHARGE = '[[broker.switching_charges]]\nregime = "eu-data-act"\nrule = "banned"\nvalid_from = 2027-01-12\n'


def settings(folder: Path, text: str) -> BrokerSettings:
    """Of a settings file with this in it."""
    path = folder / "broker.toml"
    path.write_text(MINIMAL + text)
    return load(BrokerSettings, path)


def test_rates_and_charges(tmp_path: Path) -> None:
    """As they stand in the file they reach the costs."""
    basis = settings(tmp_path, RATE + CHARGE + "[broker]\nexchange_rates_hold_days = 3\n").broker.basis()
    converted = basis.rates.convert(Money(Decimal(10), "USD"), "EUR", date(2026, 3, 4))
    assert converted is not None
    assert converted.amount == Decimal("9.2")
    assert basis.rates.convert(Money(Decimal(10), "USD"), "EUR", date(2026, 3, 5)) is None
    (charge,) = basis.switching
    assert (charge.rule, charge.valid_from) == (SwitchingRule.BANNED, date(2027, 1, 12))


def test_nothing_is_set_by_default(tmp_path: Path) -> None:
    """No rates, no rules; a broken promise counts a tenth of a month."""
    basis = settings(tmp_path, "").broker.basis()
    assert not basis.rates.table
    assert not basis.switching
    assert basis.broken_promise_percent == 10


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        (RATE.replace("USD", "XYZ"), "broker.exchange_rates.0.from", "XYZ is no currency of ISO 4217"),
        (RATE.replace("EUR", "euro"), "broker.exchange_rates.0.to", "euro"),
        (RATE.replace("0.92", "-1"), "broker.exchange_rates.0.rate", "more than 0"),
        (RATE.replace("0.92", "0"), "broker.exchange_rates.0.rate", "more than 0"),
        (RATE.replace("as_of = 2026-03-01", ""), "broker.exchange_rates.0.as_of", "required"),
        (RATE.replace('"EUR"', '"USD"'), "broker.exchange_rates.0", "from and to are both USD"),
        (RATE + RATE.replace("0.92", "0.93"), "broker", "rate 2: USD and EUR have a rate of 2026-03-01 already"),
        (CHARGE.replace("banned", "cheap"), "broker.switching_charges.0.rule", "banned"),
        (CHARGE + "valid_until = 2026-01-01\n", "broker.switching_charges.0", "must not be before valid_from"),
        ("[broker]\nbroken_promise_percent = 101\n", "broker.broken_promise_percent", "100"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, key: str, reason: str) -> None:
    """File, key and reason."""
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, text)
    (problem,) = caught.value.problems
    assert problem.origin == str(tmp_path / "broker.toml")
    assert problem.key == key
    if key.endswith("to"):
        reason = "match"
    assert reason in problem.what
