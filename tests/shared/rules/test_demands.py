"""What a donor may demand. The boundaries are made from the regimes that ship: test_regime_files."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.messages import Refusal
from shared.messages.rule_facts import Charge, ChargeKind, DonorFacts, Ground, RuleOutcome
from shared.rules.demands import ChargeCap, ClosedFields, ClosedGrounds, NoticeMax, void_code
from shared.rules.predicates import Given, Predicate
from shared.rules.spans import USUAL, Span
from tests.support.rule_boundaries import ASKED, Case, cases, port_facts

CAP = ChargeCap(charges=(ChargeKind.PORT_FEE,), limit_is="amount", amount="5.00", currency="EUR")
MADE = (NoticeMax(at_most=Span(days=1)), NoticeMax(at_most=Span(days=365)), CAP, ClosedFields(allowed=()))


@pytest.mark.parametrize(("predicate", "case"), [(each, case) for each in MADE for case in cases(each, USUAL)])
def test_boundary(predicate: Predicate, case: Case) -> None:
    """Also of values that no shipped regime has."""
    found = tuple(predicate.judge(Given(case.facts, case.now)))
    assert case.outcome in {each.outcome for each in found}


def test_one_field_is_void_and_another_is_not() -> None:
    """A lawful field may still be missing."""
    facts = port_facts(DonorFacts(demands=("account_number", "mothers_name")))
    [found] = ClosedFields(allowed=("account_number",)).judge(Given(facts, ASKED))
    missing = Refusal(code=Ground.FIELD_MISSING, rule="-", evidence="mothers_name: not told")
    other = Refusal(code=Ground.FIELD_MISSING, rule="-", evidence="account_number: not told")
    assert void_code(missing) in found.void
    assert void_code(other) not in found.void


def test_technical_reasons_are_no_grounds() -> None:
    """A node that is away is not a demand."""
    facts = port_facts(DonorFacts(), refused_on=("node_unreachable",))
    [found] = ClosedGrounds(allowed=()).judge(Given(facts, ASKED))
    assert found.outcome is RuleOutcome.MET


@pytest.mark.parametrize(
    "fields",
    [
        {"limit_is": "amount"},
        {"limit_is": "direct_cost", "amount": "1.00", "currency": "EUR"},
        {"limit_is": "amount", "amount": "-1.00", "currency": "EUR"},
        {"limit_is": "amount", "amount": "1.00", "currency": "euro"},
    ],
)
def test_bad_cap(fields: dict[str, str]) -> None:
    """A limit that is not whole, negative, or in no currency."""
    with pytest.raises(ValidationError):
        ChargeCap.model_validate({"charges": ["port_fee"], **fields})


def test_cap_forbids_only_its_kinds() -> None:
    """Others are nobody's business here."""
    fee = Charge(kind=ChargeKind.PORT_FEE, amount="5.01", currency="EUR")
    assert CAP.forbids(fee)
    assert not CAP.forbids(fee.model_copy(update={"kind": ChargeKind.PARALLEL_USE}))
