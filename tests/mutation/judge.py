"""Reads what mutmut made of a module: which mutants there are, what each one changes, and whether that is a decision.

mutmut writes a mutated module with each function in all its versions: ``x_NAME__mutmut_orig`` is the function as it is,
``x_NAME__mutmut_7`` a mutant; in a method's, the class stands between two of the letter ǁ. Pure.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

WORDS: Final = frozenset({"note", "detail", "reason", "warning", "trouble", "doing", "text", "what"})
"""Names of arguments and variables that hold a sentence for people."""

_VERSION = re.compile(r"^(?P<function>.+)__mutmut_(?P<version>orig|\d+)$")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change. `was` and `became` are the changed lines, as `ast.unparse` writes them."""

    module: str
    function: str
    was: str
    became: str
    words: bool
    """It changes only a sentence for people, or a log line; no decision depends on it."""


def mutants(module: str, source: str) -> Mapping[str, Mutant]:
    """All mutants in a mutated module's source, by the key that mutmut gives them."""
    versions: dict[str, dict[str, ast.AST]] = {}
    for node in _functions(ast.parse(source)):
        if match := _VERSION.match(node.name):
            versions.setdefault(match["function"], {})[match["version"]] = node
    return {
        f"{module}.{function}__mutmut_{number}": _compare(module, function, found["orig"], mutated)
        for function, found in versions.items()
        for number, mutated in found.items()
        if number != "orig"
    }


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _compare(module: str, function: str, before: ast.AST, after: ast.AST) -> Mutant:
    was, became = _changed_lines(before, after)
    return Mutant(
        module=module,
        function=function.removeprefix("x_").replace("xǁ", "").replace("ǁ", "."),
        was=was,
        became=became,
        words=_is_of_words(before, after),
    )


def _changed_lines(before: ast.AST, after: ast.AST) -> tuple[str, str]:
    was, became = [], []
    for line in difflib.ndiff(_lines(before), _lines(after)):
        if line.startswith("- "):
            was.append(line[2:])
        elif line.startswith("+ "):
            became.append(line[2:])
    return "\n".join(was), "\n".join(became)


def _lines(function: ast.AST) -> list[str]:
    """The arguments and the body, a statement per line; decorators and the name differ in every version."""
    lines = [line.strip() for line in ast.unparse(function).splitlines()]
    first = next(number for number, line in enumerate(lines) if "__mutmut_" in line)
    return [lines[first][lines[first].index("(") :], *lines[first + 1 :]]


def _is_of_words(before: ast.AST, after: ast.AST) -> bool:
    """Follow both trees down to the one place where they differ."""
    if _is_sentence(before) or _is_log_call(before):
        return True
    if type(before) is not type(after):
        return False
    lost = _lost_argument(before, after)
    if lost is not None:
        return lost.arg in WORDS if isinstance(lost, ast.keyword) else _is_sentence(lost)
    if isinstance(before, ast.keyword) and before.arg in WORDS:
        return True
    if isinstance(before, ast.arguments) and isinstance(after, ast.arguments):
        return _changed_defaults(before, after) <= WORDS
    if isinstance(before, ast.Assign) and all(_is_sentence(target) for target in before.targets):
        return True
    different = [
        (old, new)
        for old, new in zip(ast.iter_child_nodes(before), ast.iter_child_nodes(after), strict=False)
        if ast.dump(old) != ast.dump(new)
    ]
    return len(different) == 1 and _is_of_words(*different[0])


def _changed_defaults(before: ast.arguments, after: ast.arguments) -> set[str]:
    """The arguments whose default the mutant changes."""
    old, new = _defaults(before), _defaults(after)
    return {name for name, default in old.items() if new.get(name) != default}


def _defaults(arguments: ast.arguments) -> Mapping[str, str | None]:
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs: list[tuple[ast.arg, ast.expr | None]] = [
        *zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    return {argument.arg: ast.dump(default) if default else None for argument, default in pairs}


def _is_sentence(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=str(value)):
            return " " in value
        case ast.JoinedStr():
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in WORDS
        case _:
            return False


def _is_log_call(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="log"))):
            return True
        case _:
            return False


def _lost_argument(before: ast.AST, after: ast.AST) -> ast.AST | None:
    """The argument that the mutated call does not have any more."""
    if not (isinstance(before, ast.Call) and isinstance(after, ast.Call)):
        return None
    for old, new in ((before.args, after.args), (before.keywords, after.keywords)):
        if len(old) > len(new):
            left = {ast.dump(argument) for argument in new}
            return next((argument for argument in old if ast.dump(argument) not in left), old[-1])
    return None
