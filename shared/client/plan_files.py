"""Files that a tenant writes about many VMs: an expected demand (TOML or CSV), and a list of moves (TOML or CSV).

VMs stand in them by name, as on the command line. Every error names the file, the key and the reason. Pure but for the
reading of the file.
"""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shared.client.resolve import Ambiguous, NotFound, find_vm
from shared.errors import VmportError
from shared.messages.demand import Demand
from shared.messages.plans import MAX_MOVES, Move
from shared.messages.queries import RegisteredVm

DEMAND_KEYS = frozenset({"currency", "providers", "prices", "porting", "classes"})
DEMAND_COLUMNS = (
    "name", "vcpus", "memory_mib", "disk_gib", "running",
    "distribution", "vms", "mean", "variance", "least", "most", "values", "weights",
)  # fmt: skip
MOVE_COLUMNS = ("vm", "to")
_OF_DISTRIBUTION = frozenset({"distribution", "vms", "mean", "variance", "least", "most", "values", "weights"})
_LISTS = frozenset({"values", "weights", "running"})
MOST_BYTES = 4 << 20


class BadPlanFile(VmportError):
    """A file cannot be used; the text names the file, the key and the reason."""

    code = "bad_file"

    def __init__(self, file: Path, key: str, reason: str) -> None:
        self.file = file
        self.key = key
        self.reason = reason
        super().__init__(f"{file}: {key}: {reason}" if key else f"{file}: {reason}")


def read_demand(file: Path, vms: Sequence[RegisteredVm], **given: object) -> Demand:
    """The demand in a file; ``given`` are the values that options give. Raises `BadPlanFile`."""
    content = _rows_as_demand(file) if _is_csv(file) else _toml(file)
    unknown = sorted(set(content) - DEMAND_KEYS)
    if unknown:
        raise BadPlanFile(file, unknown[0], f"unknown key; known: {', '.join(sorted(DEMAND_KEYS))}")
    classes = content.get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(each, dict) for each in classes):
        raise BadPlanFile(file, "classes", "expected tables, [[classes]]")
    made = [_class(file, each, number, vms) for number, each in enumerate(classes, start=1)]
    try:
        return Demand.model_validate({**content, "classes": made, **given})
    except ValidationError as error:
        raise _worst(file, error) from error


def _class(file: Path, each: Mapping[str, Any], number: int, vms: Sequence[RegisteredVm]) -> dict[str, Any]:
    names = each.get("vms", [])
    if not isinstance(names, list):
        raise BadPlanFile(file, f"classes[{number}].vms", "expected a list of names")
    uuids = [
        _vm(file, f"classes[{number}].vms[{place}]", str(name), vms).uuid for place, name in enumerate(names, start=1)
    ]
    return {**each, "vms": uuids}


def read_moves(file: Path, vms: Sequence[RegisteredVm], providers: Sequence[str]) -> tuple[Move, ...]:
    """The moves in a file; raises `BadPlanFile`."""
    rows = _csv(file, MOVE_COLUMNS) if _is_csv(file) else _toml(file).get("moves", [])
    if not isinstance(rows, list) or not rows:
        raise BadPlanFile(file, "moves", "there is none")
    if len(rows) > MAX_MOVES:
        raise BadPlanFile(file, "moves", f"{len(rows)} moves; at most {MAX_MOVES}")
    found: dict[str, Move] = {}
    for number, row in enumerate(rows, start=1):
        key = f"moves[{number}]"
        if not isinstance(row, dict) or set(row) != set(MOVE_COLUMNS):
            raise BadPlanFile(file, key, "expected the keys vm and to")
        vm, recipient = _vm(file, f"{key}.vm", str(row["vm"]), vms), str(row["to"])
        if recipient not in providers:
            listed = ", ".join(sorted(providers)) or "none"
            raise BadPlanFile(file, f"{key}.to", f"unknown provider {recipient!r}; known: {listed}")
        if vm.provider == recipient:
            raise BadPlanFile(file, f"{key}.to", f"{vm.name} is at {recipient} already")
        if str(vm.uuid) in found:
            raise BadPlanFile(file, f"{key}.vm", f"{vm.name} stands there twice")
        found[str(vm.uuid)] = Move(vm_uuid=vm.uuid, recipient=recipient)
    return tuple(found.values())


def _vm(file: Path, key: str, given: str, vms: Sequence[RegisteredVm]) -> RegisteredVm:
    try:
        return find_vm(given, vms)
    except (NotFound, Ambiguous) as error:
        raise BadPlanFile(file, key, str(error)) from error


def _worst(file: Path, error: ValidationError) -> BadPlanFile:
    """The first problem, with its key as it stands in the file."""
    first = error.errors(include_input=False)[0]
    tags = {"fixed", "normal", "uniform", "listed"}
    key = ""
    for part in first["loc"]:
        if isinstance(part, int):
            key += f"[{part + 1}]"
        elif part not in tags:
            key += f".{part}" if key else str(part)
    return BadPlanFile(file, key, first["msg"].removeprefix("Value error, "))


# Formats


def _is_csv(file: Path) -> bool:
    return file.suffix.lower() == ".csv"


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise BadPlanFile(file, "", f"it is larger than {MOST_BYTES} bytes")
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise BadPlanFile(file, "", f"cannot be read: {reason}") from error


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(file))
    except tomllib.TOMLDecodeError as error:
        raise BadPlanFile(file, "", f"is no TOML: {error}") from error


def _csv(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(_text(file)), strict=True, restkey="", skipinitialspace=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise BadPlanFile(file, f"line {reader.line_num}", str(error)) from error
    unknown = [name for name in reader.fieldnames or () if name not in columns]
    if unknown:
        raise BadPlanFile(file, unknown[0], f"unknown column; known: {', '.join(columns)}")
    for number, row in enumerate(rows, start=2):
        if "" in row or None in row.values():
            raise BadPlanFile(file, f"line {number}", "it has another number of columns than the first line")
    return rows


def _rows_as_demand(file: Path) -> dict[str, Any]:
    classes = []
    for row in _csv(file, DEMAND_COLUMNS):
        given: dict[str, Any] = {
            name: value.split() if name in _LISTS else value for name, value in row.items() if value != ""
        }
        demand = {name: given.pop(name) for name in list(given) if name in _OF_DISTRIBUTION}
        classes.append({**{name: value for name, value in given.items() if name != "running"}, "demand": demand,
                        "vms": given.get("running", [])})  # fmt: skip
    return {"classes": classes}
