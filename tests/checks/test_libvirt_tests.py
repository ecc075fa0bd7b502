"""The list of test modules that need libvirt's binding is complete, and names no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.checks.sources import ROOT, python_files
from tests.support import libvirt_binding


def imported_names(tree: ast.Module) -> Iterator[str]:
    """What a module imports when it is imported itself; `from a import b` may be the module a.b or a name in a."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    """`a.b` of a/b.py and of a/b/__init__.py."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def need_binding() -> set[str]:
    """Every module that imports the binding, directly or through others; the list of imports is walked backwards."""
    files = python_files(("services", "shared", "vmport", "deploy", "tests"))
    imports = {module_name(path): set(imported_names(ast.parse((ROOT / path).read_text("utf-8")))) for path in files}
    found: set[str] = set()
    new = {"libvirt"}
    while new:
        found |= new
        new = {name for name, imported in imports.items() if imported & new} - found
    return found


def test_listed_modules_are_those_that_import_the_binding() -> None:
    """Else `tests/run --quick` would fail on a machine without the binding, or skip a test without need."""
    importing = {
        f"{name.replace('.', '/')}.py" for name in need_binding() if name.rpartition(".")[2].startswith("test_")
    }

    assert importing == libvirt_binding.MODULES


def test_listed_tests_exist() -> None:
    """Each names a file and a function of it."""
    for test in libvirt_binding.TESTS:
        path, _, function = test.partition("::")

        assert f"def {function.partition('[')[0]}(" in (ROOT / path).read_text("utf-8")
