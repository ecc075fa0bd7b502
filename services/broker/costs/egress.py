"""What a donor charges for bytes that leave, and what a rule leaves of its charges. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from shared.messages.costs import GB, EgressTariff, SwitchingCharge, SwitchingRule
from shared.parties import Name

ZERO = Decimal(0)


def list_price(wire_bytes: int, tariff: EgressTariff) -> Decimal:
    """By the tariff alone, not rounded. Tiers count from the month's first byte, which this is taken to be."""
    total, since = ZERO, tariff.free_bytes
    for tier in tariff.tiers:
        until = wire_bytes if tier.up_to_bytes is None else min(wire_bytes, tier.up_to_bytes)
        if until > since:
            total += Decimal(until - since) / GB * tier.price_per_gb
            since = until
    return total


def charge_in_force(table: Iterable[SwitchingCharge], donor: Name, on: date) -> SwitchingCharge | None:
    """The rule that binds this donor on this day; of several the one that leaves it the least, then the newest."""
    strictest = {SwitchingRule.BANNED: 0, SwitchingRule.FREE: 1, SwitchingRule.AT_COST: 2}
    found = [
        row
        for row in table
        if (not row.donors or donor in row.donors)
        and row.valid_from <= on
        and (row.valid_until is None or on <= row.valid_until)
    ]
    return min(found, key=lambda row: (strictest[row.rule], -row.valid_from.toordinal(), row.regime), default=None)


@dataclass(frozen=True, slots=True)
class Charge:
    """What may be charged, not rounded, and a word about the rule that says so; empty: none does."""

    amount: Decimal
    word: str = ""


def limited(amount: Decimal, own_cost: Decimal | None, rule: SwitchingCharge | None, donor: Name) -> Charge:
    """What the rule leaves of a charge of the donor. ``own_cost`` is what the donor says that it costs itself."""
    if rule is None:
        return Charge(amount)
    where = rule.regime + (f", {rule.clause}" if rule.clause else "")
    match rule.rule:
        case SwitchingRule.BANNED:
            return Charge(ZERO, f"may not be charged since {rule.valid_from} ({where})")
        case SwitchingRule.FREE:
            return Charge(ZERO, f"waived since {rule.valid_from} ({where})")
        case SwitchingRule.AT_COST:
            if own_cost is None:
                return Charge(amount, f"at most its cost ({where}), which {donor} does not state")
            return Charge(min(amount, own_cost), f"at most its cost ({where})")


def is_nothing(rule: SwitchingCharge | None) -> bool:
    """Whether nothing may be charged, however much there is to charge for."""
    return rule is not None and rule.rule is not SwitchingRule.AT_COST
