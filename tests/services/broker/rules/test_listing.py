"""Rules as tenants see them."""

from __future__ import annotations

from datetime import timedelta

from services.broker.rules.book import RuleBook
from services.broker.rules.listing import checked, listed
from services.broker.rules.regime_files import load
from shared.messages.rule_facts import DonorFacts, RuleOutcome
from shared.messages.rules import RulesChecked
from tests.support.broker_samples import NOW, VM, refusal

BOOK = RuleBook(load(), {"acme": "EU"}, {"alpha": "IN-DL"})


def test_all_of_them() -> None:
    """And which of them are only recorded."""
    rules = listed(BOOK.regimes).rules
    assert len(rules) == sum(len(regime.rules) for regime in BOOK.regimes)
    by_name = {(rule.regime, rule.rule): rule for rule in rules}
    assert not by_name["eu-data-act", "register"].enforced
    retrieval = by_name["eu-data-act", "retrieval"]
    assert (retrieval.enforced, retrieval.clause, retrieval.limit) == (
        True,
        "Art. 25(2)(g)",
        "at least 30 days after the switch",
    )
    assert retrieval.region == "EU (tenant); not for test"
    assert by_name["in-trai-mnp", "across_areas"].region == "IN (donor); between areas"
    assert by_name["in-trai-mnp", "code_valid"].region == "IN (donor); not in IN-JK, IN-AS, IN-NE"


def test_of_one_regime_or_one_code() -> None:
    """A code may be refused with by several rules."""
    assert {rule.regime for rule in listed(BOOK.regimes, name="us-fcc-52").rules} == {"us-fcc-52"}
    assert [rule.rule for rule in listed(BOOK.regimes, code="legal_hold").rules] == ["court", "sub_judice"]
    assert [rule.code for rule in listed(BOOK.regimes, code="stay").rules] == ["minimum_stay"]
    assert listed(BOOK.regimes, code="none").rules == ()


def check(stated: DonorFacts | None, *codes: str) -> RulesChecked:
    return checked(
        BOOK,
        vm_uuid=VM,
        tenant="acme",
        donor="alpha",
        recipient="beta",
        stated=stated,
        refusals=tuple(refusal(code) for code in codes),
        now=NOW,
    )


def outcomes(answer: RulesChecked) -> dict[str, RuleOutcome]:
    return {rule.rule: rule.outcome for rule in answer.rules}


def test_what_they_would_say_of_a_vm() -> None:
    """Two regimes bind it; what would be refused to the tenant and to the donor is told apart."""
    young = DonorFacts(contract_start=NOW.date() - timedelta(days=10), minimum_stay_days=400)
    answer = check(young, "minimum_stay")
    assert answer.regimes == ("eu-data-act", "in-trai-mnp")
    found = outcomes(answer)
    assert (found["stay"], found["notice"]) == (RuleOutcome.REFUSED, RuleOutcome.UNLAWFUL)
    assert (found["register"], found["retrieval"]) == (RuleOutcome.RECORDED, RuleOutcome.UNKNOWN)


def test_a_donor_that_does_not_answer() -> None:
    """Nothing is known, and nothing is refused."""
    assert outcomes(check(None))["stay"] is RuleOutcome.UNKNOWN
