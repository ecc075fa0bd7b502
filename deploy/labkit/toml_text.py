"""Writes settings tables as TOML text. Pure; only what settings need: strings, numbers, booleans, lists, tables."""

import json
from collections.abc import Mapping
from datetime import date
from typing import Any

Table = Mapping[str, Any]


def to_toml(table: Table) -> str:
    """TOML for a nested table. Raises `TypeError` for a value that TOML has no form for."""
    return "\n".join(_lines(table, ())).lstrip("\n") + "\n"


def _lines(table: Table, path: tuple[str, ...]) -> list[str]:
    lines = [f"{_key(key)} = {_value(value)}" for key, value in table.items() if not _is_table(value)]
    for key, value in table.items():
        here = (*path, key)
        name = ".".join(_key(part) for part in here)
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]", *_lines(value, here)]
        elif _is_table(value):
            for item in value:
                lines += ["", f"[[{name}]]", *_lines(item, here)]
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _quoted(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return _quoted(value)
        case date():
            return value.isoformat()
        case list() | tuple():
            return "[" + ", ".join(_value(item) for item in value) + "]"
        case _:
            raise TypeError(f"TOML has no form for {type(value).__name__}")


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, but TOML wants DEL escaped, too, and no surrogate pairs.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
