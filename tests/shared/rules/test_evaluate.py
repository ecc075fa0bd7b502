"""The evaluator: which regimes bind, the strictest of several, and what is told."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.broker.rules.regime_files import load
from shared.messages.rule_facts import Charge, ChargeKind, DonorFacts, Ground, RuleOutcome
from shared.rules.evaluate import bound, evaluate
from shared.rules.facts import PortFacts
from shared.rules.regime import Regime, Rule
from shared.rules.spans import Span
from tests.support.rule_boundaries import ASKED, port_facts


def regime(
    name: str, *whens: dict[str, object], region: str = "EU", of: str = "tenant", binds: str = "donor"
) -> Regime:
    """A regime with one rule for each predicate."""
    rules = tuple(
        Rule.model_validate(
            {
                "id": f"r{place}",
                "clause": f"{name} {place}",
                "binds": binds,
                "code": str(when["kind"]),
                "says": "so it is",
                "when": when,
            }
        )
        for place, when in enumerate(whens)
    )
    return Regime(name=name, title=name, source="book", region=region, region_of=(of,), rules=rules)


def both(stated: DonorFacts | None = None, **known: object) -> PortFacts:
    """A port that two regimes bind: the tenant is in EU, the donor in IN."""
    return port_facts(stated, tenant_region="EU-DE", donor_region="IN", **known)


SHIPPED = load()
DEFAULT = regime("default", {"kind": "reason_given"}, region="default")


class TestBinding:
    """Which regimes bind a port."""

    def test_by_the_region_of_a_party(self) -> None:
        """More than one may bind."""
        regimes = (
            regime("eu", {"kind": "duty"}),
            regime("india", {"kind": "duty"}, region="IN", of="donor"),
            regime("uk", {"kind": "duty"}, region="UK", of="recipient"),
            DEFAULT,
        )
        assert [each.name for each in bound(regimes, both())] == ["eu", "india"]
        assert [each.name for each in bound(regimes, both(recipient_region="UK"))] == ["eu", "india", "uk"]

    def test_the_fallback_binds_where_no_other_does(self) -> None:
        """And only there."""
        regimes = (regime("eu", {"kind": "duty"}), DEFAULT)
        assert [each.name for each in bound(regimes, port_facts())] == ["default"]


class TestStrictest:
    """Of two regimes the strictest of each predicate decides, and both clauses are named."""

    def test_the_longer_stay_refuses(self) -> None:
        """One refusal, with both clauses."""
        regimes = (
            regime("eu", {"kind": "minimum_stay", "days": 30}, binds="tenant"),
            regime("india", {"kind": "minimum_stay", "days": 90}, region="IN", of="donor", binds="tenant"),
        )
        stated = DonorFacts(contract_start=ASKED.date() - timedelta(days=60))
        verdict = evaluate(regimes, both(stated), ASKED)
        [refusal] = verdict.refusals
        assert refusal.clause == "india, india 0; also eu, eu 0"
        assert {(each.regime, each.outcome.value) for each in verdict.applied} == {("india", "refused"), ("eu", "met")}

    def test_a_refusal_that_the_stricter_rule_bears_has_force(self) -> None:
        """Though by the other one it would be void."""
        regimes = (
            regime("eu", {"kind": "minimum_stay", "days": 30}, binds="tenant"),
            regime("india", {"kind": "minimum_stay", "days": 90}, region="IN", of="donor", binds="tenant"),
        )
        stated = DonorFacts(contract_start=ASKED.date() - timedelta(days=60))
        verdict = evaluate(regimes, both(stated, refused_on=(Ground.MINIMUM_STAY,)), ASKED)
        assert verdict.void_codes == frozenset()

    def test_the_longer_retrieval_binds(self) -> None:
        """The donor keeps the data for the longer of both."""
        regimes = (
            regime("eu", {"kind": "retrieval_min", "at_least": {"days": 30}}),
            regime("india", {"kind": "retrieval_min", "at_least": {"days": 45}}, region="IN", of="donor"),
        )
        verdict = evaluate(regimes, both(DonorFacts(), switched_at=ASKED), ASKED)
        assert verdict.keep_until == Span(days=45).after(ASKED)
        assert verdict.applied[0].clause == "india, india 0; also eu, eu 0"

    def test_the_shorter_deadline_comes_first(self) -> None:
        """It names the other one."""
        regimes = (
            regime("eu", {"kind": "port_within", "at_most": {"days": 30}}),
            regime("india", {"kind": "port_within", "at_most": {"hours": 1}}, region="IN", of="donor"),
        )
        first, second = evaluate(regimes, both(DonorFacts()), ASKED).applied
        assert (first.regime, first.due_at) == ("india", ASKED + timedelta(hours=1))
        assert second.clause == "eu, eu 0"

    def test_closed_lists_are_cut_to_what_both_allow(self) -> None:
        """A field that one of them does not list is void."""
        regimes = (
            regime("eu", {"kind": "closed_fields", "allowed": ["a", "b"]}),
            regime("india", {"kind": "closed_fields", "allowed": ["b", "c"]}, region="IN", of="donor"),
        )
        verdict = evaluate(regimes, both(DonorFacts(demands=("a", "b", "c"))), ASKED)
        assert verdict.void_codes == {"field_missing:a", "field_missing:c"}


def test_every_result_carries_clause_evidence_and_the_hash_of_the_facts() -> None:
    """So that it can be checked afterwards."""
    facts = both(DonorFacts(contract_start=date(2027, 3, 1)))
    verdict = evaluate((regime("eu", {"kind": "minimum_stay", "days": 90}),), facts, ASKED)
    [line] = verdict.applied
    assert (line.clause, line.source, line.facts_sha256) == ("eu, eu 0", "book", facts.sha256)
    assert "2027-05-30" in line.evidence


def test_all_evidence_of_one_rule_is_in_its_line() -> None:
    """Two holds are two refusals and one line."""
    verdict = evaluate(
        (regime("eu", {"kind": "legal_hold"}),), both(DonorFacts(legal_holds=("court order", "dispute"))), ASKED
    )
    assert [refusal.evidence for refusal in verdict.refusals] == ["court order", "dispute"]
    assert [line.evidence for line in verdict.applied] == ["court order; dispute"]


def test_a_forbidden_charge_is_struck_and_a_lawful_one_stays() -> None:
    """The tenant pays only what no rule forbids."""
    banned = Charge(kind=ChargeKind.SWITCHING, amount="25.00", currency="EUR")
    lawful = Charge(kind=ChargeKind.EARLY_TERMINATION, amount="9.00", currency="EUR")
    rule = regime("eu", {"kind": "charge_ban", "charges": ["switching"]})
    verdict = evaluate((rule,), both(DonorFacts(charges=(banned, lawful))), ASKED)
    assert verdict.charges == (lawful,)
    [void] = verdict.void
    assert "25.00 EUR" in void.refusal.evidence
    assert void.refusal.clause == "eu, eu 0"


def test_a_service_that_is_exempt() -> None:
    """Rules that are not for it are not applied."""
    rule = regime("eu", {"kind": "duty"})
    exempt = Regime.model_validate({**dict(rule), "rules": (rule.rules[0].model_copy(update={"not_for": ("test",)}),)})
    assert evaluate((exempt,), both(DonorFacts()), ASKED).applied
    assert not evaluate((exempt,), both(DonorFacts(service="test")), ASKED).applied


def test_nothing_binds_without_regimes() -> None:
    """Then nothing is refused, and nothing recorded."""
    verdict = evaluate((), both(DonorFacts()), ASKED)
    assert (verdict.applied, verdict.refusals, verdict.void) == ((), (), ())
    assert RuleOutcome.MET not in {each.outcome for each in verdict.applied}


STATED = st.builds(
    DonorFacts,
    contract_start=st.dates(date(2026, 1, 1), date(2027, 4, 1)),
    contract_end=st.none() | st.dates(date(2027, 1, 1), date(2028, 1, 1)),
    early_exit=st.booleans(),
    minimum_stay_days=st.integers(0, 800),
    notice_days=st.integers(0, 800),
    legal_holds=st.sampled_from([(), ("court order",)]),
    demands=st.sampled_from([(), ("account_number",), ("mothers_name",)]),
    charges=st.lists(
        st.builds(
            Charge,
            kind=st.sampled_from(ChargeKind),
            amount=st.decimals(0, 100, places=2),
            currency=st.sampled_from(["EUR", "INR"]),
            direct_cost=st.none() | st.decimals(0, 100, places=2),
        ),
        max_size=3,
    ).map(tuple),
)
REGIONS = st.sampled_from(["EU", "IN-DL", "IN-JK", "UK", "US", "default"])


@given(STATED, REGIONS, REGIONS, st.lists(st.sampled_from(Ground), max_size=3).map(tuple), st.integers(-400, 800))
def test_several_regimes_are_never_milder_than_one(
    stated: DonorFacts, tenant: str, donor: str, grounds: tuple[Ground, ...], days: int
) -> None:
    """What one of them refuses to the tenant is refused by all together, and a charge that one forbids is struck."""
    now = ASKED + timedelta(days=max(days, 0))
    facts = port_facts(stated, tenant_region=tenant, donor_region=donor, refused_on=grounds, refused_at=now)
    together = evaluate(SHIPPED, facts, now)
    for one in bound(SHIPPED, facts):
        alone = evaluate((one,), facts, now)
        assert {each.code for each in alone.refusals} <= {each.code for each in together.refusals}
        assert set(together.charges) <= set(alone.charges)
        assert (alone.keep_until or now) <= (together.keep_until or now)
    for void in together.void:
        assert void.refusal.clause
        assert void.refusal.evidence
