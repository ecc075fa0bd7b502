"""Check the sizes of modules, functions and classes of the product, and print their median and 90th percentile.

A module has at most 400 lines. At most six are longer; each says why, in a line that begins with `# Over 400 lines:`.
A function has at most 50 lines. Declarations do not count: its signature, and in a constructor the statements that
declare an attribute (`self.ports_total = Counter(...)`).
A class has at most 300 lines.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.checks.sources import PRODUCT, ROOT, python_files

MAX_MODULE_LINES = 400
MAX_LONG_MODULES = 6
MAX_FUNCTION_LINES = 50
MAX_CLASS_LINES = 300
LONG_CLASSES = frozenset({"LaneProtocol"})
"""One state machine, which is to be read in one place."""

BASELINE = {"modules": (130, 354), "functions": (6, 18)}
"""Median and 90th percentile of services and shared before issue 12, in lines; for comparison only."""

REASON = re.compile(r"^# Over 400 lines: \S+", re.MULTILINE)


@dataclass(frozen=True)
class Part:
    """A module, function or class, and its length in lines."""

    place: str
    lines: int
    counted: int
    """The lines that count for the limit: those that are no declaration."""


@dataclass(frozen=True)
class Sizes:
    """What was measured, and each rule that was broken as one sentence."""

    modules: tuple[int, ...]
    functions: tuple[int, ...]
    broken: tuple[str, ...]


def measure(sources: dict[Path, str]) -> Sizes:
    """Measure modules by their path and text."""
    modules: list[int] = []
    functions: list[Part] = []
    broken: list[str] = []
    long = 0
    for path, text in sources.items():
        lines = len(text.splitlines())
        modules.append(lines)
        argued = REASON.search(text) is not None
        if lines > MAX_MODULE_LINES and not argued:
            broken.append(f"{path}: {lines} lines, more than {MAX_MODULE_LINES} without a reason")
        elif lines <= MAX_MODULE_LINES and argued:
            broken.append(f"{path}: {lines} lines; the reason to be longer than {MAX_MODULE_LINES} is stale")
        long += lines > MAX_MODULE_LINES
        tree = ast.parse(text)
        functions += _functions(path, tree)
        broken += _long_classes(path, tree)
    if long > MAX_LONG_MODULES:
        broken.append(f"{long} modules have more than {MAX_MODULE_LINES} lines; at most {MAX_LONG_MODULES} may")
    broken += [
        f"{part.place}: {part.counted} lines, more than {MAX_FUNCTION_LINES}"
        for part in functions
        if part.counted > MAX_FUNCTION_LINES
    ]
    return Sizes(tuple(modules), tuple(part.lines for part in functions), tuple(broken))


def _functions(path: Path, tree: ast.Module) -> Iterator[Part]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            declared = sum(_lines(statement) for statement in node.body if _declares(node, statement))
            counted = _end(node) - node.body[0].lineno + 1 - declared
            yield Part(f"{path}:{node.lineno} {node.name}()", _lines(node), counted)


def _declares(function: ast.FunctionDef | ast.AsyncFunctionDef, statement: ast.stmt) -> bool:
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    is_own = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    return function.name == "__init__" and is_own


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def _lines(node: ast.stmt) -> int:
    return _end(node) - node.lineno + 1


def _long_classes(path: Path, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name not in LONG_CLASSES:
            lines = _lines(node)
            if lines > MAX_CLASS_LINES:
                yield f"{path}:{node.lineno} class {node.name}: {lines} lines, more than {MAX_CLASS_LINES}"


def summary(what: str, lines: tuple[int, ...]) -> str:
    """One line with the number, median and 90th percentile of the lengths, and what they were before issue 12."""
    ninetieth = sorted(lines)[int(len(lines) * 0.9)]
    median_before, ninetieth_before = BASELINE[what]
    now = f"{len(lines)} {what}: median {statistics.median(lines):g} lines, 90th percentile {ninetieth}"
    return f"{now} (before: {median_before} and {ninetieth_before})"


def main() -> int:
    """Print the sizes and every broken rule; 1 if a rule is broken."""
    sizes = measure({path: (ROOT / path).read_text("utf-8") for path in python_files(PRODUCT)})
    print(summary("modules", sizes.modules))
    print(summary("functions", sizes.functions))
    for sentence in sizes.broken:
        print(sentence)
    return 1 if sizes.broken else 0


if __name__ == "__main__":
    sys.exit(main())
