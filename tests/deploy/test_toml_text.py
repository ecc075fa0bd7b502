"""Writing settings as TOML."""

import tomllib
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.labkit.toml_text import to_toml

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_SCALARS = st.one_of(
    _TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
_VALUES = st.one_of(_SCALARS, st.lists(_SCALARS, max_size=3))
_TABLES: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(_TEXT, _VALUES, max_size=4),
    lambda inner: st.dictionaries(
        _TEXT, st.one_of(_VALUES, inner, st.lists(inner, min_size=1, max_size=2)), max_size=3
    ),
    max_leaves=8,
)


@given(_TABLES)
def test_toml_roundtrip(table: dict[str, Any]) -> None:
    """A TOML reader finds what was written."""
    assert table == tomllib.loads(to_toml(table))


def test_dates_and_lists_of_tables_are_written() -> None:
    """The donor policy needs both."""
    table = {"accounts": {"acme": {"start": date(2024, 1, 15), "vms": [{"uuid": "a"}, {"uuid": "b"}]}}}
    assert table == tomllib.loads(to_toml(table))


def test_a_value_without_a_form_is_rejected() -> None:
    """None has no form in TOML."""
    with pytest.raises(TypeError, match="NoneType"):
        to_toml({"a": None})
