"""Nested tables, as settings are before they are validated. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

Table = dict[str, Any]


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Table:
    """Two nested tables as one; ``above`` wins, table by table."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged


def reaches(table: Mapping[str, Any], location: Sequence[str]) -> bool:
    """Whether this table sets the place that a problem names: itself, or a plain value around it."""
    here: Any = table
    for part in location:
        if not isinstance(here, Mapping):
            return True
        if part not in here:
            return False
        here = here[part]
    return True


def required_keys(model: type[BaseModel], location: Sequence[str]) -> list[tuple[str, ...]]:
    """The keys that must be set where this one is missing: of a table those in it that have no default."""
    here: Any = model
    for part in location:
        if not (isinstance(here, type) and issubclass(here, BaseModel)) or part not in here.model_fields:
            return [tuple(location)]
        here = here.model_fields[part].annotation
    if not (isinstance(here, type) and issubclass(here, BaseModel)):
        return [tuple(location)]
    inside = [name for name, field in here.model_fields.items() if field.is_required()]
    return [key for name in inside for key in required_keys(model, [*location, name])] or [tuple(location)]


def is_json(text: str) -> bool:
    """Whether a text is JSON of whatever kind."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
