"""Conditions of a port: what must hold before a VM may leave. Pure.

Each is read in two ways. A condition that does not hold refuses the tenant's port. A donor that refuses on the ground
of a condition that does hold, refuses against the rule, and its refusal is void.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.messages.rule_facts import DonorFacts, Ground, StatedDue
from shared.rules.predicates import Found, Given, Predicate, later, met, refused, unknown, unlawful
from shared.rules.spans import Span

Days = Annotated[int, Field(ge=0, le=36_500, strict=True)]


class _Condition(Predicate):
    """A condition on what the donor has stated."""

    GROUND: ClassVar[Ground]
    HOLDS: ClassVar[str]
    """The evidence when it holds."""

    def broken(self, stated: DonorFacts, today: date) -> Iterable[str]:
        """One sentence of evidence for each fact that breaks it. The donor's own policy asks here, too."""
        raise NotImplementedError

    def strictness(self) -> float:
        """Of two the smaller is the stricter."""
        return 0.0

    def judge(self, given: Given) -> Iterator[Found]:
        """Refuse the port by what the donor states; or the donor's refusal, where nothing that it states bears it."""
        if given.donor is None:
            yield unknown("what the donor's records say")
            return
        order = self.strictness()
        found = tuple(self.broken(given.donor, given.today))
        if found:
            yield from (refused(evidence, order=order) for evidence in found)
        elif given.refused_on(self.GROUND):
            yield unlawful(f"the donor refuses with {self.GROUND}, but {self.HOLDS}", self.GROUND, order=order)
        else:
            yield met(self.HOLDS, order=order)


class MinimumStay(_Condition):
    """The VM has been with the donor for so many days."""

    kind: Literal["minimum_stay"] = "minimum_stay"
    days: Days

    GROUND: ClassVar = Ground.MINIMUM_STAY
    HOLDS: ClassVar = "the stay that this rule asks for is over"

    def limit(self) -> str:
        """In words."""
        return f"at least {self.days} days"

    def strictness(self) -> float:
        """The longer is the stricter."""
        return -float(self.days)

    def broken(self, stated: DonorFacts, today: date) -> Iterator[str]:
        """The first day on which it may leave, and how long that is."""
        start = stated.contract_start
        if start is None:
            return
        first_day = later(start, self.days)
        if today < first_day:
            yield f"contract start {start}; the VM may leave from {first_day}, in {(first_day - today).days} days"


class Dues(_Condition):
    """No invoice is overdue, or none is open."""

    kind: Literal["dues"] = "dues"
    which: Literal["overdue", "open"]

    GROUND: ClassVar = Ground.DUES
    HOLDS: ClassVar = "no invoice that counts by this rule is unpaid"

    def limit(self) -> str:
        """In words."""
        return f"no invoice is {self.which}"

    def strictness(self) -> float:
        """Every open one is the stricter."""
        return 0.0 if self.which == "open" else 1.0

    def counts(self, due: StatedDue, today: date) -> bool:
        """Whether an invoice keeps the VM here; one is overdue from the day after its due day."""
        return self.which == "open" or due.due < today

    def broken(self, stated: DonorFacts, today: date) -> Iterator[str]:
        """Each invoice that counts."""
        for each in stated.dues:
            if self.counts(each, today):
                yield f"invoice {each.invoice}: {each.amount} {each.currency}, due {each.due}"


class OwnerChange(_Condition):
    """No change of the VM's owner is under way."""

    kind: Literal["owner_change"] = "owner_change"

    GROUND: ClassVar = Ground.OWNER_CHANGE
    HOLDS: ClassVar = "no change of owner is under way"

    def broken(self, stated: DonorFacts, today: date) -> Iterable[str]:  # noqa: ARG002  # as of the base
        """Each change."""
        return stated.owner_changes


class LegalHold(_Condition):
    """No court and no dispute keeps the VM where it is."""

    kind: Literal["legal_hold"] = "legal_hold"

    GROUND: ClassVar = Ground.LEGAL_HOLD
    HOLDS: ClassVar = "nothing is stated that keeps the VM by law"

    def broken(self, stated: DonorFacts, today: date) -> Iterable[str]:  # noqa: ARG002  # as of the base
        """Each hold."""
        return stated.legal_holds


class ContractExit(_Condition):
    """The contract has no obligation that the tenant has still to fulfil before it may leave."""

    kind: Literal["contract_exit"] = "contract_exit"

    GROUND: ClassVar = Ground.CONTRACT_RUNNING
    HOLDS: ClassVar = "the contract lets the tenant leave"

    def broken(self, stated: DonorFacts, today: date) -> Iterator[str]:
        """A running contract without exit."""
        if stated.contract_end is not None and today <= stated.contract_end and not stated.early_exit:
            yield f"the contract ends on {stated.contract_end}"


class CoolOff(_Condition):
    """The owner's proof of identity was not replaced in the last days, so that a thief cannot take the VM away."""

    kind: Literal["cool_off"] = "cool_off"
    days: Days

    GROUND: ClassVar = Ground.IDENTITY_CHANGED
    HOLDS: ClassVar = "the owner's proof of identity was not replaced within the time"

    def limit(self) -> str:
        """In words."""
        return f"{self.days} days after the owner's proof of identity was replaced"

    def strictness(self) -> float:
        """The longer is the stricter."""
        return -float(self.days)

    def broken(self, stated: DonorFacts, today: date) -> Iterator[str]:
        """When it was replaced."""
        changed = stated.identity_changed_on
        if changed is None:
            return
        first_day = later(changed, self.days)
        if today < first_day:
            yield f"replaced on {changed}; the VM may leave from {first_day}"


class ApprovalValid(Predicate):
    """An approval is used within this time."""

    kind: Literal["approval_valid"] = "approval_valid"
    within: Span

    def limit(self) -> str:
        """In words."""
        return f"{self.within} from the approval"

    def judge(self, given: Given) -> Iterator[Found]:
        """Whether the agreement is fixed, or can be fixed now, while the approval is valid."""
        approved_at = given.facts.approved_at
        if approved_at is None:
            yield unknown("the donor's approval")
            return
        ends_at = self.within.after(approved_at, given.calendar)
        used_at = given.facts.fixed_at or given.now
        said = f"approved at {approved_at.isoformat()}, valid until {ends_at.isoformat()}"
        make = refused if used_at > ends_at else met
        yield make(said, order=ends_at.timestamp())
