"""The closed set."""

from __future__ import annotations

from shared.rules.kinds import PREDICATES, kind_of


def test_each_kind_has_a_name_of_its_own() -> None:
    """By which a file calls it."""
    names = [kind_of(each) for each in PREDICATES]
    assert len(set(names)) == len(names) == 24
    assert {"minimum_stay", "retrieval_min", "duty"} <= set(names)
