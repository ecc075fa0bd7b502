"""Exit codes: each has a meaning, and documents show them all."""

from __future__ import annotations

from shared.exit_codes import ExitCode, table


def test_every_code_has_a_meaning() -> None:
    """One clause, without a full stop."""
    assert all(code.meaning and not code.meaning.endswith(".") for code in ExitCode)


def test_table_has_a_line_per_code() -> None:
    """In the order of the numbers."""
    assert [int(line.split()[0]) for line in table().splitlines()] == sorted(ExitCode)
