"""pydantic's findings in vmport's words, for settings and other files that people write. Pure; echoes no value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import ErrorDetails

_FIXED = {
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "date_from_datetime_parsing": "expected a date, such as 2030-01-31",
    "datetime_from_date_parsing": "expected a time, such as 2030-01-31T12:00:00Z",
    "datetime_parsing": "expected a time, such as 2030-01-31T12:00:00Z",
    "datetime_type": "expected a time, such as 2030-01-31T12:00:00Z",
    "decimal_parsing": "expected a number",
    "decimal_type": "expected a number",
    "dict_type": "expected a table",
    "extra_forbidden": "is no setting; see --print-config for all of them",
    "finite_number": "expected a finite number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "int_from_float": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "list_type": "expected a list",
    "missing": "is required",
    "model_attributes_type": "expected a table",
    "model_type": "expected a table",
    "path_type": "expected a path",
    "string_type": "expected text",
    "tuple_type": "expected a list",
    "uuid_parsing": "expected a UUID",
    "uuid_type": "expected a UUID",
}

_WITH_FACTS = {
    "enum": "expected {expected}",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected at least {ge}",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected at most {le}",
    "literal_error": "expected {expected}",
    "string_pattern_mismatch": "expected text that matches {pattern}",
    "string_too_long": "expected at most {max_length} characters",
    "string_too_short": "expected at least {min_length} characters",
    "too_long": "expected at most {max_length} entries",
    "too_short": "expected at least {min_length} entries",
}


def in_words(finding: ErrorDetails, *, others: Mapping[str, str] | None = None) -> str:
    """What is wrong, as a clause that follows a key. ``others`` are phrases by pydantic's type that win over these."""
    kind = finding["type"]
    if others and kind in others:
        return others[kind]
    if kind in _FIXED:
        return _FIXED[kind]
    facts: Mapping[str, Any] = finding.get("ctx", {})
    if kind in _WITH_FACTS:
        return _WITH_FACTS[kind].format_map(facts)
    return finding["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
