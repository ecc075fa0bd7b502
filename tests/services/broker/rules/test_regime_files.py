"""The regimes that ship: complete, sharp at their boundaries; and those of an operator's own folder."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from services.broker.rules import regime_files
from services.broker.rules.regime_files import LARGEST_BYTES, SHIPPED, load, read_file
from shared.rules.facts import PortFacts
from shared.rules.kinds import PREDICATES
from shared.rules.predicates import Given
from shared.rules.regime import Regime, RegimeError, Rule
from tests.support.rule_boundaries import SECOND, Case, cases, port_facts

REGIMES = load()
RULES = [(regime, rule) for regime in REGIMES for rule in regime.rules]
CASES = [
    pytest.param(regime, rule, case, id=f"{regime.name}-{rule.id}-{case.name}".replace(" ", "_"))
    for regime, rule in RULES
    for case in cases(rule.when, regime.calendar)
]
WEIGHT = ("unlawful", "refused", "overdue", "due", "unknown", "met", "recorded")

READ = {
    "eu-data-act": (
        "25(2)(d)", "25(2)(a)", "25(4)", "25(5)", "25(2)(g)", "25(2)(h)", "25(2)(c)", "25(3)", "25(2)(e), (f)",
        "26(b)", "27", "28", "29(1)", "29(2), (3)", "29(4)", "30(1)", "30(3)", "30(5)", "31(1)", "31(2)", "34",
    ),
    "in-trai-mnp": (
        "(a)", "(b)", "(c)", "(d)", "(e)", "(f)", "refusal by SMS", "validity of the porting code",
        "no rejection after", "corporate", "within an area", "between areas", "withdrawal", "disincentive",
        "transaction charge", "dues after porting", "9th amendment",
    ),
    "us-fcc-52": ("52.36",),
    "uk-ofcom-c7": ("C7.6(a)", "C7.6(b)", "C7.6(c)", "SMS", "one working day"),
    "default": ("term 1", "term 2", "term 3"),
}  # fmt: skip
"""Every clause whose text was read, by a part of its name."""


def test_every_clause_that_was_read_is_a_rule() -> None:
    """And no regime ships that nobody lists here."""
    assert set(READ) == {regime.name for regime in REGIMES}
    for regime in REGIMES:
        for clause in READ[regime.name]:
            assert any(clause in rule.clause for rule in regime.rules), f"{regime.name} has no rule of {clause}"


@pytest.mark.parametrize(("regime", "rule", "case"), CASES)
def test_boundary(regime: Regime, rule: Rule, case: Case) -> None:
    """A second or a unit before, at, and after: as the predicate says, not as anybody remembers."""
    found = tuple(rule.when.judge(Given(case.facts, case.now, regime.calendar)))
    gravest = min(found, key=lambda each: WEIGHT.index(each.outcome))
    assert gravest.outcome is case.outcome
    assert case.said in gravest.evidence
    assert all(each.evidence for each in found)


def test_every_predicate_is_used_by_a_regime() -> None:
    """So that each has boundaries here."""
    assert {type(rule.when) for _, rule in RULES} == set(PREDICATES)


DATED = [
    pytest.param(regime, rule, day, begins, id=f"{regime.name}-{rule.id}-{day}")
    for regime, rule in RULES
    for day, begins in ((rule.valid_from, True), (rule.valid_to, False))
    if day is not None
]


@pytest.mark.parametrize(("regime", "rule", "day", "begins"), DATED)
def test_validity(regime: Regime, rule: Rule, day: object, begins: object) -> None:
    """In force from the first second of its first day, in the regime's zone, and to the last second before valid_to."""
    at = regime.calendar.midnight(day)  # type: ignore[arg-type]  # of the parameters above
    facts = _local(rule, regime)
    in_force = [rule in regime.in_force(facts, now) for now in (at - SECOND, at, at + SECOND)]
    assert in_force == ([False, True, True] if begins else [True, False, False])


def _local(rule: Rule, regime: Regime) -> PortFacts:
    """Parties between whom the rule holds."""
    here = rule.only_in[0] if rule.only_in else regime.region
    there = f"{here}-ZZ" if rule.across else here
    return port_facts(tenant_region=here, donor_region=here, recipient_region=there)


def test_a_charge_is_capped_until_the_ban() -> None:
    """The second at which the cap ends is that at which the ban begins."""
    [eu] = [regime for regime in REGIMES if regime.name == "eu-data-act"]
    [ban] = [rule for rule in eu.rules if rule.id == "charge_ban"]
    assert ban.valid_from is not None
    at = eu.calendar.midnight(ban.valid_from)
    for now, expected in ((at - SECOND, "charge_cap"), (at, "charge_ban")):
        held = {rule.id for rule in eu.in_force(port_facts(), now)} & {"charge_cap", "charge_ban"}
        assert held == {expected}


def test_areas() -> None:
    """A code lives longer where the law says so, and a port takes longer between areas."""
    [india] = [regime for regime in REGIMES if regime.name == "in-trai-mnp"]
    now = port_facts().requested_at + timedelta(days=1)

    def held(donor: str, recipient: str | None) -> set[str]:
        facts = port_facts(donor_region=donor, recipient_region=recipient)
        names = {"code_valid", "code_valid_area", "in_area", "across_areas"}
        return {rule.id for rule in india.in_force(facts, now)} & names

    assert held("IN-JK", "IN-JK") == {"code_valid_area", "in_area"}
    assert held("IN-DL", "IN-MH") == {"code_valid", "across_areas"}
    assert held("IN-DL", None) == {"code_valid"}


OWN = """
name = "house"
title = "Our contracts"
source = "framework contract 7"
region = "EU-DE"
region_of = ["donor"]
[[rules]]
id = "stay"
clause = "7.1"
binds = "tenant"
code = "minimum_stay"
says = "A VM stays 30 days."
when = { kind = "minimum_stay", days = 30 }
"""


class TestOwnFolder:
    """Regimes of the operator."""

    def test_is_read_beside_those_that_ship(self, tmp_path: Path) -> None:
        """By name."""
        (tmp_path / "house.toml").write_text(OWN)
        assert [regime.name for regime in load(tmp_path)] == sorted([*READ, "house"])

    def test_continues_a_regime_that_ships(self, tmp_path: Path) -> None:
        """A file of the same name with rules of other times is joined with it."""
        text = (SHIPPED / "us-fcc-52.toml").read_text().replace('id = "fields"', 'id = "more"')
        (tmp_path / "us.toml").write_text(text)
        [us] = [regime for regime in load(tmp_path) if regime.name == "us-fcc-52"]
        assert [rule.id for rule in us.rules] == ["fields", "more"]

    def test_overlap_with_a_regime_that_ships_is_an_error(self, tmp_path: Path) -> None:
        """Named by file, key and reason."""
        file = tmp_path / "us.toml"
        file.write_text((SHIPPED / "us-fcc-52.toml").read_text())
        with pytest.raises(RegimeError, match="overlapping validity") as caught:
            load(tmp_path)
        assert (caught.value.file, caught.value.key) == (str(file), "rules.fields")

    def test_an_installation_without_regimes_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No law would bind any port, and nobody would know."""
        monkeypatch.setattr(regime_files, "SHIPPED", tmp_path)
        with pytest.raises(RegimeError, match="the files that ship are missing"):
            load()

    def test_missing_folder(self, tmp_path: Path) -> None:
        """The error names it."""
        with pytest.raises(RegimeError, match="there is no such folder"):
            load(tmp_path / "none")

    @pytest.mark.parametrize("content", [b"\xff", b"#" * (LARGEST_BYTES + 1)])
    def test_unreadable_file(self, tmp_path: Path, content: bytes) -> None:
        """Not text, or far too long."""
        file = tmp_path / "bad.toml"
        file.write_bytes(content)
        with pytest.raises(RegimeError, match=r"bad\.toml"):
            read_file(file)

    def test_no_file(self, tmp_path: Path) -> None:
        """The reason of the system is told."""
        with pytest.raises(RegimeError, match="No such file"):
            read_file(tmp_path / "none.toml")
