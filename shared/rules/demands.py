"""What a donor may demand, charge and refuse: what goes beyond is void. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from shared.messages.base import Code, Price, Refusal
from shared.messages.rule_facts import Charge, ChargeKind, Currency, Ground, RuleOutcome
from shared.rules.predicates import Found, Given, Predicate, duty, later, met, unknown, unlawful
from shared.rules.spans import FARTHEST, Span

Kinds = Annotated[tuple[ChargeKind, ...], Field(min_length=1, max_length=len(ChargeKind))]

NOT_DEMANDS = frozenset({"unknown_vm", "not_owner", "owner_unclear", "wrong_vm", "port_under_way"})
"""Refusals that are neither a demand of the donor nor a technical reason."""


class NoticeMax(Predicate):
    """A donor may hold a VM at most for this notice, counted from the request, whatever its terms call it."""

    kind: Literal["notice_max"] = "notice_max"
    at_most: Span

    def limit(self) -> str:
        """In words."""
        return f"at most {self.at_most}"

    def judge(self, given: Given) -> Iterator[Found]:
        """Measure the stated notice, the rest of a minimum stay, and the rest of a contract that has no exit."""
        stated = given.donor
        if stated is None:
            yield unknown("what the donor demands")
            return
        latest = self.at_most.after(given.facts.requested_at, given.calendar)
        order = latest.timestamp()
        found = []
        notice_ends = _later(given.facts.requested_at, stated.notice_days)
        if notice_ends > latest:
            found.append(("a notice", f"{stated.notice_days} days", Ground.NOTICE))
        if stated.contract_start is not None:
            first_day = later(stated.contract_start, stated.minimum_stay_days)
            if _midnight(given, first_day) > latest:
                found.append(("a minimum stay", f"until {first_day}", Ground.MINIMUM_STAY))
        free_from = later(stated.contract_end, 1) if stated.contract_end is not None and not stated.early_exit else None
        if free_from is not None and _midnight(given, free_from) > latest:
            found.append(("a contract without exit", f"until {stated.contract_end}", Ground.CONTRACT_RUNNING))
        for what, length, ground in found:
            yield unlawful(f"{what} of {length}; the notice may last until {latest}", ground, order=order)
        if not found:
            yield met(f"the donor demands no notice beyond {latest}", order=order)


def _later(start: datetime, days: int) -> datetime:
    return FARTHEST if days > (FARTHEST - start).days else start + timedelta(days=days)


def _midnight(given: Given, day: date) -> datetime:
    return FARTHEST if day >= FARTHEST.date() else given.calendar.midnight(day)


class ChargeCap(Predicate):
    """Charges of these kinds are at most the direct cost, or at most a sum."""

    kind: Literal["charge_cap"] = "charge_cap"
    charges: Kinds
    limit_is: Literal["direct_cost", "amount"]
    amount: Price | None = None
    currency: Currency | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.limit_is == "amount") != (self.amount is not None and self.currency is not None):
            raise ValueError('limit_is = "amount" needs amount and currency, and "direct_cost" has neither')
        return self

    def limit(self) -> str:
        """In words."""
        most = "the direct cost" if self.limit_is == "direct_cost" else f"{self.amount} {self.currency}"
        return f"{', '.join(self.charges)}: at most {most}"

    def scope(self) -> str:
        """By what is charged, and against what it is measured."""
        return f"{self.limit_is}:{','.join(sorted(self.charges))}"

    def judge(self, given: Given) -> Iterator[Found]:
        """Each charge of these kinds."""
        if given.donor is None:
            yield unknown("what the donor charges")
            return
        order = float(self.amount or 0)
        found = [each for charge in given.donor.charges if charge.kind in self.charges for each in self._judge(charge)]
        yield from found or (met(f"no charge above the limit: {', '.join(self.charges)}", order=order),)

    def _judge(self, charge: Charge) -> Iterator[Found]:
        said = f"{charge.kind}: {charge.amount} {charge.currency}"
        if self.limit_is == "direct_cost":
            if charge.amount and charge.direct_cost is None:
                yield unlawful(f"{said}; the direct cost is not stated")
            elif charge.direct_cost is not None and charge.amount > charge.direct_cost:
                yield unlawful(f"{said}; the direct cost is {charge.direct_cost} {charge.currency}")
        elif self.amount is not None and charge.amount:
            if charge.currency != self.currency:
                yield Found(RuleOutcome.UNKNOWN, f"{said} cannot be compared with {self.amount} {self.currency}")
            elif charge.amount > self.amount:
                yield unlawful(f"{said}; at most {self.amount} {self.currency} is allowed", order=float(self.amount))

    def forbids(self, charge: Charge) -> bool:
        """Whether this charge is above the limit."""
        return charge.kind in self.charges and any(f.outcome is RuleOutcome.UNLAWFUL for f in self._judge(charge))


class ChargeBan(Predicate):
    """No charge of these kinds."""

    kind: Literal["charge_ban"] = "charge_ban"
    charges: Kinds

    def limit(self) -> str:
        """In words."""
        return f"no charge: {', '.join(self.charges)}"

    def scope(self) -> str:
        """By what is charged."""
        return ",".join(sorted(self.charges))

    def judge(self, given: Given) -> Iterator[Found]:
        """Each charge of these kinds."""
        if given.donor is None:
            yield unknown("what the donor charges")
            return
        found = [unlawful(f"{c.kind}: {c.amount} {c.currency}") for c in given.donor.charges if self.forbids(c)]
        yield from found or (met(f"nothing is charged for {', '.join(self.charges)}"),)

    def forbids(self, charge: Charge) -> bool:
        """Whether this charge is banned."""
        return charge.kind in self.charges and charge.amount > 0


class ClosedFields(Predicate):
    """A donor may demand these fields of the tenant, and no others."""

    kind: Literal["closed_fields"] = "closed_fields"
    allowed: Annotated[tuple[Code, ...], Field(max_length=64)]

    def limit(self) -> str:
        """In words."""
        return ", ".join(self.allowed) or "none"

    def judge(self, given: Given) -> Iterator[Found]:
        """Each field outside the list."""
        if given.donor is None:
            yield unknown("what the donor demands")
            return
        others = self.outside(given.donor.demands)
        yield from (
            unlawful(f"the donor demands {each}, which is not on the list", field_code(each)) for each in others
        )
        if not others:
            yield met("nothing outside the list is demanded")

    def outside(self, demands: tuple[str, ...]) -> tuple[str, ...]:
        """Demands that are not allowed."""
        return tuple(each for each in demands if each not in self.allowed)


def field_code(name: str) -> str:
    """What is void when a field may not be demanded."""
    return f"{Ground.FIELD_MISSING}:{name}"


def void_code(refusal: Refusal) -> str:
    """The code by which a rule voids a refusal. One missing field is told apart from another by its name."""
    if refusal.code != Ground.FIELD_MISSING:
        return refusal.code
    return field_code(refusal.evidence.partition(":")[0])


class ClosedGrounds(Predicate):
    """A donor's records may keep a VM on these grounds, and on no others."""

    kind: Literal["closed_grounds"] = "closed_grounds"
    allowed: Annotated[tuple[Ground, ...], Field(max_length=len(Ground))]

    def limit(self) -> str:
        """In words."""
        return ", ".join(self.allowed) or "none"

    def judge(self, given: Given) -> Iterator[Found]:
        """Each ground outside the list on which the donor has refused."""
        grounds = [each for each in Ground if given.refused_on(each)]
        others = [each for each in grounds if each not in self.allowed]
        yield from (unlawful(f"the donor refuses with {each}, which is not on the list", each) for each in others)
        if not others:
            yield met("the donor refuses on no other ground")


class ReasonGiven(Predicate):
    """A refusal names its reason."""

    kind: Literal["reason_given"] = "reason_given"

    def judge(self, given: Given) -> Iterator[Found]:
        """Whether the donor's refusal had one."""
        if given.facts.refused_without_reason:
            yield unlawful("the donor refuses and gives no reason", *Ground)
        else:
            yield met("no refusal came without a reason")


class AnswerWithin(Predicate):
    """The donor answers within this time; a refusal that comes later is void."""

    kind: Literal["answer_within"] = "answer_within"
    at_most: Span

    def limit(self) -> str:
        """In words."""
        return f"within {self.at_most}"

    def judge(self, given: Given) -> Iterator[Found]:
        """The answer, or how long the donor still has."""
        facts = given.facts
        due_at = self.at_most.after(facts.requested_at, given.calendar)
        order = due_at.timestamp()
        if facts.refused_at is not None and facts.refused_at > due_at:
            yield unlawful(f"refused at {facts.refused_at}; the answer was due at {due_at}", *Ground, order=order)
        elif facts.refused_at is None and facts.approved_at is None and facts.ended_at is None:
            yield duty(given, due_at, f"the donor answers until {due_at}", None)
        else:
            yield met(f"answered; it was due at {due_at}", order=order)


class NoLateRefusal(Predicate):
    """What a donor has approved it does not refuse any more."""

    kind: Literal["no_late_refusal"] = "no_late_refusal"

    def judge(self, given: Given) -> Iterator[Found]:
        """Whether it did."""
        at = given.facts.refused_late_at
        if at is None:
            yield met("no refusal came after the approval")
        else:
            yield unlawful(f"approved at {given.facts.approved_at}, refused at {at}")


class RightAfterEnd(Predicate):
    """A VM may also be ported for this time after its contract has ended."""

    kind: Literal["right_after_end"] = "right_after_end"
    lasts: Span

    def limit(self) -> str:
        """In words."""
        return f"{self.lasts} after the contract's end"

    def judge(self, given: Given) -> Iterator[Found]:
        """Whether a donor refuses because of the end, while the right lasts."""
        stated = given.donor
        if stated is None:
            yield unknown("the contract's end")
            return
        if stated.contract_end is None or given.today <= stated.contract_end:
            yield met("the contract has not ended")
            return
        ends_at = self.lasts.after(given.calendar.midnight(later(stated.contract_end, 1)), given.calendar)
        order = -ends_at.timestamp()
        said = f"the contract ended on {stated.contract_end}; the right lasts until {ends_at}"
        if given.refused_on(Ground.CONTRACT_ENDED) and given.now < ends_at:
            yield unlawful(said, Ground.CONTRACT_ENDED, order=order)
        else:
            yield met(said, order=order)


class Unfeasible(Predicate):
    """A provider for which the switch is technically not possible says so in time, and ends within the longest time."""

    kind: Literal["unfeasible"] = "unfeasible"
    notify_within: Span
    at_most: Span

    def limit(self) -> str:
        """In words."""
        return f"said within {self.notify_within}; then at most {self.at_most}"

    def judge(self, given: Given) -> Iterator[Found]:
        """Only where the donor refuses for technical reasons."""
        facts = given.facts
        reasons = [each for each in facts.refused_on if each not in NOT_DEMANDS and each not in set(Ground)]
        if not reasons or facts.refused_at is None:
            yield met("the donor names no technical reason")
            return
        notify_by = self.notify_within.after(facts.requested_at, given.calendar)
        due_at = self.at_most.after(facts.requested_at, given.calendar)
        order = due_at.timestamp()
        if facts.refused_at > notify_by:
            yield unlawful(f"{', '.join(reasons)}: said at {facts.refused_at}, due {notify_by}", order=order)
        else:
            evidence = f"{', '.join(reasons)}: the switch must be possible by {due_at}"
            yield duty(given, due_at, evidence, facts.ported_at)
