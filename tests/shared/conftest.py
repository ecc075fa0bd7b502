"""Any message of the vocabulary, made from its printed schema: what a foreign client could send."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from hypothesis import reject
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.messages import Message
from shared.messages.base import EARLIEST_YEAR, LATEST_YEAR
from shared.schema import definitions

FIRST = datetime.fromisoformat(f"{EARLIEST_YEAR}-01-01T00:00:00")
LAST = datetime.fromisoformat(f"{LATEST_YEAR}-12-31T23:59:59")
"""hypothesis adds the time zone."""

MessageStrategy = Callable[[type[Message]], st.SearchStrategy[Message]]


def instances(schema: dict[str, Any], defs: dict[str, Any]) -> st.SearchStrategy[Any]:
    """JSON values that satisfy a schema; knows the keywords that our schemas use and fails on any other."""
    match schema:
        case {"$ref": str(ref)}:
            return instances(defs[ref.rpartition("/")[2]], defs)
        case {"const": value}:
            return st.just(value)
        case {"enum": values}:
            return st.sampled_from(values)
        case {"anyOf": options} | {"oneOf": options}:
            return st.one_of([instances(option, defs) for option in options])
        case {"type": "object"}:
            return _objects(schema, defs)
        case {"type": "array", "prefixItems": items}:
            return st.tuples(*(instances(item, defs) for item in items)).map(list)
        case {"type": "array", "items": items}:
            return st.lists(instances(items, defs), max_size=min(3, schema.get("maxItems", 3)))
        case _:
            return _scalars(schema)


def _scalars(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    match schema["type"]:
        case "string":
            return _strings(schema)
        case "integer":
            return st.integers(schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1))
        case "number":
            return st.floats(schema["minimum"], schema["maximum"], allow_nan=False)
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case other:
            raise AssertionError(f"no strategy for JSON type {other!r}")


def _objects(schema: dict[str, Any], defs: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    if "properties" not in schema and isinstance(schema.get("additionalProperties"), dict):
        keys = instances({"type": "string", **schema.get("propertyNames", {})}, defs)
        if schema.get("patternProperties"):
            keys = st.one_of([st.from_regex(pattern, fullmatch=True) for pattern in schema["patternProperties"]])
        return st.dictionaries(keys, instances(schema["additionalProperties"], defs), max_size=3)
    required = set(schema.get("required", ()))
    fields = {name: instances(field, defs) for name, field in schema.get("properties", {}).items()}
    return st.fixed_dictionaries(
        {name: field for name, field in fields.items() if name in required},
        optional={name: field for name, field in fields.items() if name not in required},
    )


def _strings(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    match schema.get("format"):
        case "uuid":
            return st.uuids().map(str)
        case "date":
            return st.dates().map(lambda day: day.isoformat())
        case "date-time":
            return st.datetimes(FIRST, LAST, timezones=st.just(UTC)).map(lambda moment: moment.isoformat())
        case "ip-address":
            return st.sampled_from(["192.0.2.7", "198.51.100.9", "2001:db8::7", "fd00:80:1::10"])
        case "ip-network":
            return st.sampled_from(["192.0.2.0/24", "198.51.100.9/32", "2001:db8::/64", "0.0.0.0/0"])
        case None if "pattern" in schema:
            return st.from_regex(schema["pattern"], fullmatch=True)
        case None:
            characters = st.characters(exclude_characters="\0", codec="utf-8")
            return st.text(characters, max_size=min(schema.get("maxLength", 30), 30))
        case other:
            raise AssertionError(f"no strategy for string format {other!r}")


def _read(kind: type[Message], body: Any) -> Message:
    """The message; another example is drawn where a rule between two fields is broken, which JSON Schema cannot say."""
    try:
        return kind.model_validate_json(json.dumps(body))
    except ValidationError as error:
        if all(problem["type"] == "value_error" for problem in error.errors()):
            reject()
        raise


@pytest.fixture(scope="session")
def any_message() -> MessageStrategy:
    """A strategy of messages of one type."""
    defs = definitions()

    def strategy(kind: type[Message]) -> st.SearchStrategy[Message]:
        return instances(defs[kind.__name__], defs).map(partial(_read, kind))

    return strategy
