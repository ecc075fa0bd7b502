"""The check of sizes."""

from __future__ import annotations

from pathlib import Path

from tests.checks.sizes import measure, summary

WHY = "# Over 400 lines: one table.\n"


def broken(*texts: str) -> tuple[str, ...]:
    """What is said of modules 0.py, 1.py and so on."""
    return measure({Path(f"{number}.py"): text for number, text in enumerate(texts)}).broken


def function(lines: int, *, name: str = "f", statement: str = "g()") -> str:
    """A function whose body has so many lines."""
    return f"def {name}(self):\n" + f"    {statement}\n" * lines


def test_a_long_module_needs_a_reason() -> None:
    """The reason stands in the module, and goes when the module becomes shorter."""
    assert broken("x = 1\n" * 400, WHY + "x = 1\n" * 400) == ()
    assert broken("x = 1\n" * 401) == ("0.py: 401 lines, more than 400 without a reason",)
    assert broken(WHY) == ("0.py: 1 lines; the reason to be longer than 400 is stale",)


def test_six_modules_may_be_long() -> None:
    """With a reason each; the seventh is too many."""
    long = WHY + "x = 1\n" * 400

    assert broken(*[long] * 6) == ()
    assert broken(*[long] * 7) == ("7 modules have more than 400 lines; at most 6 may",)


def test_a_function_has_at_most_fifty_lines() -> None:
    """Its signature does not count."""
    assert broken(function(50)) == ()
    assert broken("def f(\n" + "".join(f"    p{n}=0,\n" for n in range(60)) + "):\n    pass\n") == ()
    assert broken(function(51)) == ("0.py:1 f(): 51 lines, more than 50",)


def test_attributes_that_a_constructor_declares_do_not_count() -> None:
    """In any other function they do."""
    assert broken(function(60, name="__init__", statement="self.x = 1")) == ()
    assert broken(function(60, name="__init__", statement="x = 1")) == ("0.py:1 __init__(): 60 lines, more than 50",)
    assert broken(function(60, statement="self.x = 1")) == ("0.py:1 f(): 60 lines, more than 50",)


def test_a_class_has_at_most_three_hundred_lines() -> None:
    """But for the lane protocol."""
    body = "    x = 1\n" * 300

    assert broken("class LaneProtocol:\n" + body) == ()
    assert broken("class Other:\n" + body) == ("0.py:1 class Other: 301 lines, more than 300",)


def test_the_summary_compares_with_before() -> None:
    """Median and 90th percentile, each beside the old one."""
    said = summary("functions", tuple(range(1, 11)))

    assert said == "10 functions: median 5.5 lines, 90th percentile 10 (before: 6 and 18)"
