"""Cases at the boundaries of a rule, made from its typed predicate: one second or one unit before, at, and after.

A predicate that this module does not know is an error, so that a new one cannot come without its boundaries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from shared.messages.rule_facts import Charge, ChargeKind, DonorFacts, Ground, RuleOutcome, StatedDue
from shared.rules.conditions import (
    ApprovalValid,
    ContractExit,
    CoolOff,
    Dues,
    LegalHold,
    MinimumStay,
    OwnerChange,
)
from shared.rules.deadlines import (
    Duty,
    EraseAfter,
    Extension,
    PortWithin,
    RetrievalMin,
    TransitionMax,
    Withdrawal,
)
from shared.rules.demands import (
    AnswerWithin,
    ChargeBan,
    ChargeCap,
    ClosedFields,
    ClosedGrounds,
    NoLateRefusal,
    NoticeMax,
    ReasonGiven,
    RightAfterEnd,
    Unfeasible,
)
from shared.rules.facts import PortFacts
from shared.rules.predicates import Predicate
from shared.rules.spans import Calendar

ASKED = datetime(2027, 3, 10, 9, 30, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
MET, REFUSED, UNLAWFUL = RuleOutcome.MET, RuleOutcome.REFUSED, RuleOutcome.UNLAWFUL
DUE, OVERDUE, RECORDED = RuleOutcome.DUE, RuleOutcome.OVERDUE, RuleOutcome.RECORDED


@dataclass(frozen=True)
class Case:
    """Facts and a time, and the gravest outcome that the predicate must find."""

    name: str
    outcome: RuleOutcome
    facts: PortFacts
    now: datetime = ASKED
    said: str = ""
    """What the evidence must contain."""


def port_facts(stated: DonorFacts | None = None, **known: object) -> PortFacts:
    """A port that is asked for at `ASKED`."""
    base = PortFacts(vm_uuid=UUID(int=1), tenant="acme", donor="alpha", requested_at=ASKED, donor_facts=stated)
    return base.known(**known)


def cases(predicate: Predicate, calendar: Calendar) -> list[Case]:
    """All cases of one predicate."""
    return list(_cases(predicate, calendar))


def _three(
    at: datetime, name: str, before: RuleOutcome, then: RuleOutcome, after: RuleOutcome, facts: PortFacts
) -> Iterator[Case]:
    """The second before, at, and the second after: the time of the judgement moves."""
    for words, now, outcome in (("before", at - SECOND, before), ("at", at, then), ("after", at + SECOND, after)):
        yield Case(f"{name}, {words}", outcome, facts, now)


def _done(at: datetime, fact: str, outcomes: tuple[RuleOutcome, ...], **others: object) -> Iterator[Case]:
    """The same for a fact that carries the time."""
    for offset, words, outcome in zip((-1, 0, 1), ("before", "at", "after"), outcomes, strict=True):
        time = at + offset * SECOND
        yield Case(f"{fact} {words}", outcome, port_facts(DonorFacts(), **{**others, fact: time}), max(time, ASKED))


def _cases(predicate: Predicate, calendar: Calendar) -> Iterator[Case]:  # noqa: PLR0912, PLR0915  # one table
    match predicate:
        case MinimumStay(days=days):
            start = date(2026, 1, 31)
            free = calendar.midnight(start + days * DAY)
            yield from _three(free, "stay", REFUSED, MET, MET, port_facts(DonorFacts(contract_start=start)))
            refused_on = port_facts(DonorFacts(contract_start=start), refused_on=(Ground.MINIMUM_STAY,))
            yield from _three(free, "a donor that refuses", REFUSED, UNLAWFUL, UNLAWFUL, refused_on)
        case CoolOff(days=days):
            changed = date(2026, 5, 31)
            facts = port_facts(DonorFacts(identity_changed_on=changed))
            yield from _three(calendar.midnight(changed + days * DAY), "cool-off", REFUSED, MET, MET, facts)
            yield Case("never changed", MET, port_facts(DonorFacts()))
        case Dues(which=which):
            due = date(2027, 3, 31)
            facts = port_facts(DonorFacts(dues=(StatedDue(invoice="1", amount="0.01", currency="EUR", due=due),)))
            not_yet = MET if which == "overdue" else REFUSED
            yield from _three(calendar.midnight(due + DAY), "invoice", not_yet, REFUSED, REFUSED, facts)
            yield Case("no invoice", MET, port_facts(DonorFacts()))
            refused_on = port_facts(DonorFacts(), refused_on=(Ground.DUES,))
            yield Case("a donor that refuses without one", UNLAWFUL, refused_on)
        case OwnerChange():
            yield Case("a change", REFUSED, port_facts(DonorFacts(owner_changes=("sale",))))
            yield Case("none", MET, port_facts(DonorFacts()))
            yield Case("refused without one", UNLAWFUL, port_facts(DonorFacts(), refused_on=(Ground.OWNER_CHANGE,)))
        case LegalHold():
            yield Case("a hold", REFUSED, port_facts(DonorFacts(legal_holds=("court order",))))
            yield Case("none", MET, port_facts(DonorFacts()))
            yield Case("refused without one", UNLAWFUL, port_facts(DonorFacts(), refused_on=(Ground.LEGAL_HOLD,)))
        case ContractExit():
            end = date(2027, 6, 30)
            facts = port_facts(DonorFacts(contract_end=end, early_exit=False))
            yield from _three(calendar.midnight(end + DAY), "contract", REFUSED, MET, MET, facts)
            yield Case("with exit", MET, port_facts(DonorFacts(contract_end=end)))
        case ApprovalValid(within=within):
            until = within.after(ASKED, calendar)
            yield from _done(until, "fixed_at", (MET, MET, REFUSED), approved_at=ASKED)
        case NoticeMax(at_most=at_most):
            most = (at_most.after(ASKED, calendar) - ASKED).days
            for days, outcome in ((most - 1, MET), (most, MET), (most + 1, UNLAWFUL)):
                yield Case(f"notice of {days} days", outcome, port_facts(DonorFacts(notice_days=days)))
            last = calendar.day(at_most.after(ASKED, calendar))
            for day, outcome in ((last - DAY, MET), (last, MET), (last + DAY, UNLAWFUL)):
                # It may leave from that day on; a contract's last day is the one before.
                stay = DonorFacts(contract_start=date(2027, 1, 1), minimum_stay_days=(day - date(2027, 1, 1)).days)
                yield Case(f"stay until {day}", outcome, port_facts(stay))
                running = DonorFacts(contract_end=day - DAY, early_exit=False)
                yield Case(f"contract before {day}", outcome, port_facts(running))
        case ChargeCap(charges=kinds, limit_is="direct_cost"):
            for kind in kinds:
                for amount, outcome in (("9.99", MET), ("10.00", MET), ("10.01", UNLAWFUL)):
                    charge = Charge(kind=kind, amount=amount, currency="EUR", direct_cost="10.00")
                    yield Case(f"{kind} {amount} of 10.00", outcome, port_facts(DonorFacts(charges=(charge,))))
                unstated = Charge(kind=kind, amount="0.01", currency="EUR")
                yield Case(f"{kind}, cost not stated", UNLAWFUL, port_facts(DonorFacts(charges=(unstated,))))
            yield from _other_kinds(kinds)
        case ChargeCap(charges=kinds, amount=Decimal() as most, currency=str() as currency):
            cent = Decimal("0.01")
            for kind in kinds:
                for price, outcome in ((most - cent, MET), (most, MET), (most + cent, UNLAWFUL)):
                    charge = Charge(kind=kind, amount=price, currency=currency)
                    yield Case(f"{kind} {price}", outcome, port_facts(DonorFacts(charges=(charge,))))
                other = Charge(kind=kind, amount=most, currency="XXX")
                yield Case(f"{kind}, other money", RuleOutcome.UNKNOWN, port_facts(DonorFacts(charges=(other,))))
        case ChargeBan(charges=kinds):
            for kind in kinds:
                for amount, outcome in (("0.00", MET), ("0.01", UNLAWFUL)):
                    charge = Charge(kind=kind, amount=amount, currency="EUR", direct_cost=amount)
                    yield Case(f"{kind} {amount}", outcome, port_facts(DonorFacts(charges=(charge,))))
            yield from _other_kinds(kinds)
        case ClosedFields(allowed=allowed):
            yield Case("nothing", MET, port_facts(DonorFacts()))
            yield Case("all of the list", MET, port_facts(DonorFacts(demands=allowed)))
            one_more = DonorFacts(demands=(*allowed, "mothers_name"))
            yield Case("one more", UNLAWFUL, port_facts(one_more), said="mothers_name")
        case ClosedGrounds(allowed=allowed):
            for ground in Ground:
                outcome = MET if ground in allowed else UNLAWFUL
                yield Case(f"refused on {ground}", outcome, port_facts(DonorFacts(), refused_on=(ground,)))
        case ReasonGiven():
            yield Case("with a reason", MET, port_facts())
            yield Case("without", UNLAWFUL, port_facts(refused_without_reason=True))
        case NoLateRefusal():
            yield Case("no refusal", MET, port_facts(approved_at=ASKED))
            yield Case("a second later", UNLAWFUL, port_facts(approved_at=ASKED, refused_late_at=ASKED + SECOND))
        case AnswerWithin(at_most=at_most):
            due_at = at_most.after(ASKED, calendar)
            yield from _done(due_at, "refused_at", (MET, MET, UNLAWFUL), refused_on=(Ground.DUES,))
            yield Case("not yet", DUE, port_facts(), due_at)
        case RightAfterEnd(lasts=lasts):
            end = date(2027, 1, 31)
            until = lasts.after(calendar.midnight(end + DAY), calendar)
            facts = port_facts(DonorFacts(contract_end=end), refused_on=(Ground.CONTRACT_ENDED,))
            yield from _three(until, "right", UNLAWFUL, MET, MET, facts)
        case Unfeasible(notify_within=notify_within):
            by = notify_within.after(ASKED, calendar)
            yield from _done(by, "refused_at", (DUE, DUE, UNLAWFUL), refused_on=("vm_blocked",))
            yield Case("no technical reason", MET, port_facts(refused_at=ASKED, refused_on=(Ground.DUES,)))
        case TransitionMax(at_most=at_most) | PortWithin(at_most=at_most):
            due_at = at_most.after(ASKED, calendar)
            yield from _done(due_at, "switched_at", (MET, MET, OVERDUE))
            yield from _three(due_at, "not done", DUE, DUE, OVERDUE, port_facts(DonorFacts()))
        case Extension(beyond=beyond):
            until = beyond.after(ASKED, calendar)
            for offset, said in ((-SECOND, "not used"), (0 * SECOND, "not used"), (SECOND, "used: ")):
                yield Case(f"window {offset}", MET, port_facts(DonorFacts(), window_start=until + offset), said=said)
        case RetrievalMin(at_least=at_least):
            until = at_least.after(ASKED, calendar)
            yield from _three(until, "kept", DUE, MET, MET, port_facts(DonorFacts(), switched_at=ASKED))
            yield from _done(until, "erased_at", (OVERDUE, MET, MET), switched_at=ASKED)
        case EraseAfter(retrieval=retrieval, within=within):
            due_at = within.after(retrieval.after(ASKED, calendar), calendar)
            yield from _three(due_at, "not erased", DUE, DUE, OVERDUE, port_facts(DonorFacts(), switched_at=ASKED))
            yield from _done(due_at, "erased_at", (MET, MET, OVERDUE), switched_at=ASKED)
        case Withdrawal(within=within):
            until = within.after(ASKED, calendar)
            for offset, said in ((-SECOND, "used at"), (0 * SECOND, "used at"), (SECOND, "after the right")):
                yield Case(f"withdrawn {offset}", MET, port_facts(withdrawn_at=until + offset), said=said)
        case Duty():
            yield Case("only recorded", RECORDED, port_facts(DonorFacts()))
        case _:
            raise AssertionError(f"no boundaries for {predicate!r}")


def _other_kinds(kinds: tuple[ChargeKind, ...]) -> Iterator[Case]:
    """What is not limited."""
    for kind in ChargeKind:
        if kind not in kinds:
            charge = Charge(kind=kind, amount="99.00", currency="EUR")
            yield Case(f"{kind} is free", MET, port_facts(DonorFacts(charges=(charge,))))
