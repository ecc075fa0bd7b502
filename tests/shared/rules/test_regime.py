"""Reading a regime: what is wrong is told by file, key and reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.rules.regime import Regime, RegimeError, check_together, is_in, parse
from tests.support.rule_boundaries import ASKED, port_facts

GOOD = """
name = "house"
title = "Our contracts"
source = "framework contract 7"
region = "EU"
region_of = ["donor"]
[[rules]]
id = "stay"
clause = "7.1"
valid_from = 2026-01-01
binds = "tenant"
code = "minimum_stay"
says = "A VM stays 30 days."
when = { kind = "minimum_stay", days = 30 }
"""


def test_a_good_one_is_read() -> None:
    """As it is written."""
    regime = parse(GOOD, "house.toml")
    assert (regime.name, regime.rules[0].when.limit(), regime.rules[0].enforced) == ("house", "at least 30 days", True)
    assert Regime.model_validate_json(regime.model_dump_json()) == regime


BAD = [
    ("days = 30", "days = -1", "rules.0.when.days", "expected at least 0"),
    ("days = 30", 'days = "30"', "rules.0.when.days", "expected a whole number"),
    ("days = 30", "days = true", "rules.0.when.days", "expected a whole number"),
    ("days = 30", "hours = 30", "rules.0.when.days", "is required"),
    ("days = 30", "days = 30, hours = 1", "rules.0.when.hours", "is no key of a regime"),
    ('kind = "minimum_stay"', 'kind = "python"', "rules.0.when", "is none of: minimum_stay"),
    ('kind = "minimum_stay", ', "", "rules.0.when", "needs kind"),
    ('clause = "7.1"\n', "", "rules.0.clause", "is required"),
    ('clause = "7.1"', 'clause = ""', "rules.0.clause", "at least 1 character"),
    ('clause = "7.1"', 'claus = "7.1"', "rules.0.clause", "is required"),
    ('says = "A', 'said = "x"\nsays = "A', "rules.0.said", "is no key of a regime"),
    ('binds = "tenant"', 'binds = "everybody"', "rules.0.binds", "expected 'tenant'"),
    ('region = "EU"', 'region = "Europe"', "region", "expected text that matches"),
    ('region_of = ["donor"]', "region_of = []", "region_of", "expected at least 1 entries"),
    ('region_of = ["donor"]', 'region_of = ["donor"]\ncalendar = { zone = "Mars" }', "calendar.zone", "no time zone"),
    ('region_of = ["donor"]', 'region_of = ["donor"]\ncalendar = { weekend = [8] }', "calendar.weekend.0", "at most 7"),
    ("valid_from = 2026-01-01", "valid_from = 2026-01-01\nvalid_to = 2026-01-01", "rules.0", "valid_to must be after"),
    ("valid_from = 2026-01-01", 'valid_from = "soon"', "rules.0.valid_from", ""),
    ('name = "house"', "name = ", "regime", "it is not TOML"),
    ('name = "house"', 'name = "House"', "name", "expected text that matches"),
]


@pytest.mark.parametrize(("old", "new", "key", "reason"), BAD)
def test_bad_input(old: str, new: str, key: str, reason: str) -> None:
    """Unknown keys, wrong types, negative numbers, what is missing."""
    assert old in GOOD
    with pytest.raises(RegimeError) as caught:
        parse(GOOD.replace(old, new, 1), "house.toml")
    assert (caught.value.file, caught.value.key) == ("house.toml", key)
    assert reason in caught.value.reason
    assert str(caught.value) == f"house.toml: {key}: {caught.value.reason}"


def _twice(first: str, second: str) -> str:
    head, _, rule = GOOD.partition("[[rules]]")
    return head + "".join(f"[[rules]]{rule.replace('valid_from = 2026-01-01', each)}" for each in (first, second))


def test_one_rule_at_two_times() -> None:
    """The second begins on the day on which the first ends."""
    regime = parse(_twice("valid_to = 2026-06-01", "valid_from = 2026-06-01"), "house.toml")
    assert [len(regime.in_force(port_facts(), at)) for at in (ASKED,)] == [1]


@pytest.mark.parametrize("second", ["valid_from = 2026-05-31", "", "valid_to = 2026-01-02"])
def test_overlapping_validity(second: str) -> None:
    """One day on which both are in force is enough."""
    with pytest.raises(RegimeError, match="overlapping validity") as caught:
        parse(_twice("valid_to = 2026-06-01", second), "house.toml")
    assert caught.value.key == "rules.stay"


def test_two_files_of_one_name_agree_on_where_they_hold() -> None:
    """Else it would be open which of them counts."""
    other = parse(GOOD.replace('"EU"', '"IN"').replace('"stay"', '"more"'), "b.toml")
    with pytest.raises(RegimeError, match="it differs") as caught:
        check_together([("a.toml", parse(GOOD, "a.toml")), ("b.toml", other)])
    assert (caught.value.file, caught.value.key) == ("b.toml", "region")


@given(st.text(max_size=200))
def test_any_text_is_a_regime_or_an_error_with_a_place(text: str) -> None:
    """Never another exception."""
    with pytest.raises(RegimeError, match=r"^f\.toml: "):
        parse(text, "f.toml")


@pytest.mark.parametrize(
    ("region", "wider", "inside"),
    [("EU", "EU", True), ("EU-DE", "EU", True), ("EU", "EU-DE", False), ("EUX-A", "EU", False)],
)
def test_regions(region: str, wider: str, inside: object) -> None:
    """An area is in its country or union."""
    assert is_in(region, wider) is inside
