"""Offers with costs, and what is known of their providers; for tests of the choice, the quote and the bill. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from services.broker.costs.basis import Basis
from services.broker.costs.exchange import Rate, Rates
from services.broker.costs.offer import Costing
from services.broker.costs.promises import Kept
from shared.messages.costs import EgressTariff, EgressTier, LeavingTerms
from shared.messages.prediction import Estimate, Range
from shared.messages.service_change import PortLimits
from tests.support.broker_samples import NOW

GB = 10**9


def estimate(gigabytes: float = 10, *, total_s: float = 60, outage_ms: float = 200) -> Estimate:
    """What a port is expected to take; p90 is half as much again."""

    def around(p50: float) -> Range:
        return Range(p50=p50, p90=p50 * 1.5)

    return Estimate(
        wire_bytes=around(gigabytes * GB),
        total_s=around(total_s),
        downtime_ms=around(outage_ms),
        outage_ms=around(outage_ms),
    )


def rates(**worth: str) -> Rates:
    """``USD_EUR="0.92"``, all of the day of the samples."""
    table = []
    for pair, value in worth.items():
        base, quote = pair.split("_")
        table.append(Rate(base=base, quote=quote, rate=Decimal(value), as_of=NOW.date()))
    return Rates(table=tuple(table))


def leaving(**changes: Any) -> LeavingTerms:
    """Alpha's: 4.00 for each port, 0.10 per GB, and the VM costs 30.00 per month there."""
    facts: dict[str, Any] = {
        "fee": Decimal("4.00"),
        "egress": EgressTariff(tiers=(EgressTier(price_per_gb=Decimal("0.10")),)),
        "price_per_month": Decimal("30.00"),
        **changes,
    }
    return LeavingTerms(**facts)


def costing(limits: dict[str, Any] | None = None, *, terms: LeavingTerms | None = None, **known: Any) -> Costing:
    """For a port from alpha; ``known`` are fields of the basis."""
    if "promises" in known:
        known["promises"] = {name: Kept(kept=kept, total=total) for name, (kept, total) in known["promises"].items()}
    return Costing(donor="alpha", limits=PortLimits(**(limits or {})), now=NOW, leaving=terms, basis=Basis(**known))
