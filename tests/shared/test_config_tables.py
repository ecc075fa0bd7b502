"""Nested tables."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from shared.config_tables import is_json, merge, reaches, required_keys


def test_merge_goes_table_by_table() -> None:
    """The upper one wins only where it says something."""
    assert merge({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "c": 4}) == {"a": {"x": 1, "y": 3}, "b": 1, "c": 4}


@pytest.mark.parametrize(
    ("location", "expected"),
    [(("a",), True), (("a", "x"), True), (("a", "y"), False), (("b", "any", "thing"), True), (("c",), False)],
)
def test_reaches(location: tuple[str, ...], *, expected: bool) -> None:
    """A table sets a place by the key itself, or by a plain value where a table should be."""
    assert reaches({"a": {"x": None}, "b": 1}, location) is expected


class Inner(BaseModel):
    must: int
    may: int = 3


class Outer(BaseModel):
    inner: Inner
    plain: int


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (("inner",), [("inner", "must")]),
        (("plain",), [("plain",)]),
        (("inner", "must"), [("inner", "must")]),
        (("rows", "0", "x"), [("rows", "0", "x")]),
    ],
)
def test_required_keys(location: tuple[str, ...], expected: list[tuple[str, ...]]) -> None:
    """Of a missing table, what has no default; of anything else, itself."""
    assert required_keys(Outer, location) == expected


def test_is_json() -> None:
    """A list and a number are; a bare word is not."""
    assert [is_json(text) for text in ('["a"]', "1", "a,b", "")] == [True, True, False, False]
