"""The check that each module has a test file."""

from __future__ import annotations

import pytest

from tests.checks.mirror import Exceptions, problems, read_exceptions

MODULES = ("shared/a.py", "shared/b/c.py", "shared/b/__init__.py")
TESTS = ("tests/shared/test_a.py", "tests/shared/b/test_c.py")


def test_modules_with_test_files_are_in_order() -> None:
    """An `__init__.py` needs none."""
    assert problems(MODULES, TESTS, []) == []


def test_a_module_without_a_test_file_is_named() -> None:
    """With the path that the tests are to have."""
    assert problems(MODULES, TESTS[:1], []) == ["shared/b/c.py has no tests/shared/b/test_c.py"]


def test_an_exception_needs_no_test_file() -> None:
    """If its reason and the tests that cover it are there, as a file or as a folder."""
    for covering in ("tests/shared/test_a.py", "tests/shared"):
        assert problems(MODULES, TESTS[:1], [Exceptions("part of a", ("shared/b/c.py",), (covering,))]) == []


@pytest.mark.parametrize(
    ("exception", "problem"),
    [
        (Exceptions("why", ("shared/gone.py",)), "shared/gone.py is an exception, but there is no such module"),
        (Exceptions("why", ("shared/a.py",)), "shared/a.py is an exception, but it has tests/shared/test_a.py"),
        (Exceptions("why", (), ("tests/gone.py",)), "tests/gone.py is said to cover modules, but does not exist"),
    ],
)
def test_a_stale_exception_is_a_problem(exception: Exceptions, problem: str) -> None:
    """What the list says must be true."""
    assert problems(MODULES, TESTS, [exception]) == [problem]


def test_an_exception_needs_a_reason_and_is_made_once() -> None:
    """Both are said."""
    exceptions = [Exceptions(" ", ("shared/b/c.py",)), Exceptions("why", ("shared/b/c.py",))]

    found = problems(MODULES, TESTS[:1], exceptions)

    assert set(found) == {"shared/b/c.py is an exception twice", "shared/b/c.py: an exception without a reason"}


def test_the_list_is_read_from_toml() -> None:
    """A group has a reason and modules; covered_by may be left out."""
    text = '[[exceptions]]\nreason = "why"\nmodules = ["a.py"]\n'

    assert read_exceptions(text) == [Exceptions("why", ("a.py",))]
    with pytest.raises(ValueError, match="cover"):
        read_exceptions(text + 'cover = ["b.py"]\n')
