"""The one table of exit codes."""

from __future__ import annotations

from shared.exit_codes import ExitCode, table


def test_every_code_is_in_the_table() -> None:
    """Each code has one clause, without a full stop, as --help and the documents show it."""
    lines = table().splitlines()
    assert [int(line.split()[0]) for line in lines] == [code.value for code in ExitCode]
    for code, line in zip(ExitCode, lines, strict=True):
        assert line.endswith(code.meaning)
        assert not code.meaning.endswith(".")
