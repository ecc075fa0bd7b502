"""What a provider asks of a VM that leaves, and what is said of wrong settings."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from services.donor_agent.leaving_terms import LeavingSection
from services.donor_agent.settings import DonorSettings
from shared.config import ConfigError, load
from shared.messages.costs import GB, EnergyModel

MINIMAL = """
[bus]
url = "amqp://donor.alpha:secret@127.0.0.1:5672/vmport"
[store]
url = "sqlite:////var/lib/vmport/donor.db"
[donor]
policy_file = "/etc/vmport/donor-policy.toml"
"""
TIERS = """
[leaving]
currency = "USD"
fee = "4.00"
egress_free_gb = 100
egress_cost_per_gb = "0.01"
energy_price_per_kwh = "0.30"
[[leaving.egress_tiers]]
up_to_gb = 10000
price_per_gb = "0.09"
[[leaving.egress_tiers]]
price_per_gb = "0.07"
"""


def section(folder: Path, text: str) -> LeavingSection:
    """Of a settings file with this in it."""
    path = folder / "donor.toml"
    path.write_text(MINIMAL + text)
    return load(DonorSettings, path).leaving


def test_terms_of_a_file(tmp_path: Path) -> None:
    """GB become bytes; energy is stated where the host has a model of it."""
    leaving = section(tmp_path, TIERS)
    terms = leaving.terms(EnergyModel(joules_per_byte=1e-6), Decimal("20.00"))
    assert (terms.currency, terms.fee, terms.price_per_month) == ("USD", Decimal("4.00"), Decimal("20.00"))
    assert terms.egress is not None
    assert (terms.egress.free_bytes, terms.egress.tiers[0].up_to_bytes) == (100 * GB, 10_000 * GB)
    assert terms.energy is not None
    assert terms.energy.price_per_kwh == Decimal("0.30")
    assert leaving.terms(None, None).energy is None


def test_nothing_is_stated_by_default() -> None:
    """No price of egress is not a price of nothing; a free one is."""
    assert LeavingSection().terms(None, None).egress is None
    free = LeavingSection(egress_is_free=True).terms(None, None).egress
    assert free is not None
    assert free.tiers == ()


@pytest.mark.parametrize(
    ("old", "new", "key", "reason"),
    [
        ('"USD"', '"DOL"', "leaving.currency", "DOL is no currency of ISO 4217"),
        ('"4.00"', '"-4.00"', "leaving.fee", "at least 0"),
        ('fee = "4.00"', "egress_is_free = true", "leaving", "free or has tiers, not both"),
        ("up_to_gb = 10000\n", "", "leaving", "up_to_bytes must rise from tier to tier"),
        ('price_per_gb = "0.07"', 'up_to_gb = 20000\nprice_per_gb = "0.07"', "leaving", "the last tier must have no"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, key: str, reason: str) -> None:
    """File, key and reason."""
    with pytest.raises(ConfigError) as caught:
        section(tmp_path, TIERS.replace(old, new))
    (problem,) = caught.value.problems
    assert (problem.origin, problem.key) == (str(tmp_path / "donor.toml"), key)
    assert reason in problem.what
