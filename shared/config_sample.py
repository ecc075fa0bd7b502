"""The documented sample of a settings file, rendered from the settings model, so that it cannot lie. Pure.

What must be set stands there with an example; what has a default is a comment that shows it. The sample is valid.
"""

from __future__ import annotations

import json
import textwrap
import types
from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from shared.config import ENV_DELIMITER, ENV_PREFIX, ServiceSettings, example_url
from shared.parties import Role

WIDTH = 100


def render(model: type[BaseModel], *, title: str) -> str:
    """The sample file. Raises ValueError for a field without description, or a required one without an example."""
    lines = [*_comment(title), *_comment(f"Environment variables win over this file: {_variable_rule()}."), ""]
    lines += _table(model, [], commented=False)
    text = "\n".join(lines).rstrip() + "\n"
    if issubclass(model, ServiceSettings):
        # The section's own example cannot know which service it is for.
        text = text.replace(example_url(frozenset(Role)), example_url(model.ROLES))
    return text


def _variable_rule() -> str:
    return f"{ENV_PREFIX}SECTION{ENV_DELIMITER}KEY; a list or table is JSON there"


def _table(model: type[BaseModel], path: list[str], *, commented: bool) -> list[str]:
    """A table's own keys first, its sub-tables after them, as TOML demands."""
    plain, tables = [], []
    for own, field in model.model_fields.items():
        name = field.alias or own
        where = [*path, name]
        if (section := _section(field.annotation)) is not None:
            tables += _section_lines(section, field, where, commented=commented)
        elif (row := _row(field.annotation)) is not None:
            tables += _rows_lines(row, field, where, commented=commented)
        else:
            plain += _key_lines(name, field, where, commented=commented)
    return plain + tables


def _section_lines(section: type[BaseModel], field: FieldInfo, where: list[str], *, commented: bool) -> list[str]:
    hidden = commented or (not field.is_required() and field.default is None)
    mark = "# " if hidden else ""
    about = field.description or section.__doc__ or ""
    return ["", *_comment(about), f"{mark}[{'.'.join(where)}]", *_table(section, where, commented=hidden)]


def _rows_lines(row: type[BaseModel], field: FieldInfo, where: list[str], *, commented: bool) -> list[str]:
    """An array of tables, or a table of tables: one example of it."""
    _described(field, where)
    hidden = commented or not field.is_required()
    mark = "# " if hidden else ""
    name = ".".join(where)
    keyed = get_origin(_bare(field.annotation)) is dict
    header = f"[{name}.NAME]" if keyed else f"[[{name}]]"
    about = f"{field.description} {'One table per name.' if keyed else 'One such table for each.'}"
    return ["", *_comment(about), f"{mark}{header}", *_table(row, [*where, "NAME"], commented=hidden)]


def _key_lines(name: str, field: FieldInfo, where: list[str], *, commented: bool) -> list[str]:
    _described(field, where)
    lines = _comment(f"{field.description} {_limits(field)}".strip())
    default = field.get_default(call_default_factory=True, validated_data={})
    if field.is_required():
        if not field.examples:
            raise ValueError(f"{'.'.join(where)} is required and has no example")
        lines.append(f"{'# ' if commented else ''}{name} = {_toml(field.examples[0])}")
    elif default is None:
        example = f" = {_toml(field.examples[0])}" if field.examples else " = ..."
        lines.append(f"# {name}{example}")
    else:
        lines.append(f"# {name} = {_toml(default)}")
    return lines


def _described(field: FieldInfo, where: list[str]) -> None:
    if not field.description:
        raise ValueError(f"{'.'.join(where)} has no description")


def _limits(field: FieldInfo) -> str:
    """What pydantic checks, in words."""
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    found = [
        f"{word} {_toml(value)}"
        for fact in field.metadata
        for attribute, word in words.items()
        if (value := getattr(fact, attribute, None)) is not None
    ]
    choices = _choices(field.annotation)
    if choices:
        found.append("one of " + ", ".join(choices))
    return f"({'; '.join(found)})" if found else ""


def _choices(annotation: Any) -> list[str]:
    bare = _bare(annotation)
    if get_origin(bare) is Literal:
        return [_toml(choice) for choice in get_args(bare)]
    if isinstance(bare, type) and issubclass(bare, Enum):
        return [_toml(member.value) for member in bare]
    return []


def _bare(annotation: Any) -> Any:
    """Without ``| None``."""
    if get_origin(annotation) in {Union, types.UnionType}:
        rest = [part for part in get_args(annotation) if part is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


def _section(annotation: Any) -> type[BaseModel] | None:
    bare = _bare(annotation)
    return bare if isinstance(bare, type) and issubclass(bare, BaseModel) else None


def _row(annotation: Any) -> type[BaseModel] | None:
    """The model inside a list, tuple or dict of models."""
    bare = _bare(annotation)
    if get_origin(bare) not in {list, tuple, dict}:
        return None
    return next((found for part in get_args(bare) if (found := _section(part)) is not None), None)


def _comment(text: str) -> list[str]:
    flat = " ".join(text.split())
    return [f"# {line}" for line in textwrap.wrap(flat, WIDTH - 2, break_long_words=False, break_on_hyphens=False)]


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Enum():
            return _toml(value.value)
        case int() | float():
            return str(value)
        case Decimal():
            return json.dumps(str(value))
        case timedelta():
            return str(value.total_seconds())
        case SecretStr():
            return '"..."'
        case str() | Path():
            return json.dumps(str(value), ensure_ascii=False)
        case Mapping():
            return "{ " + ", ".join(f"{json.dumps(str(key))} = {_toml(item)}" for key, item in value.items()) + " }"
        case Sequence() | set() | frozenset():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case _:
            return json.dumps(str(value), ensure_ascii=False)
