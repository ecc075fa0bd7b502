"""The command line as people and programs use it: where options may stand, and what --help says."""

from __future__ import annotations

import pytest

from shared.client.cli import hoisted
from shared.exit_codes import ExitCode
from tests.support.scripted_broker import (
    Cli,
)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["vm", "list", "--format", "json"], ["--format", "json", "vm", "list"]),
        (["vm", "list", "--format=json"], ["--format=json", "vm", "list"]),
        (["port", "watch", "1234", "-v", "--timeout", "3"], ["-v", "--timeout", "3", "port", "watch", "1234"]),
        (["vm", "show", "--", "--format"], ["vm", "show", "--", "--format"]),
        (["vm", "list", "--url"], ["--url", "vm", "list"]),
        ([], []),
    ],
)
def test_global_options_may_stand_anywhere(typed: list[str], read: list[str]) -> None:
    """What a hand writes after the command is read as if it stood before it."""
    assert hoisted(typed) == read


def test_help_documents_exit_codes(capsys: pytest.CaptureFixture[str], vmport: Cli) -> None:
    """Every exit code stands in --help."""
    assert vmport("--help") == ExitCode.OK
    text = " ".join(capsys.readouterr().out.split())
    for code in ExitCode:
        assert f"{code:d} {code.meaning}" in text


def test_a_word_that_is_none_of_an_options_is_answered_with_those(vmport: Cli) -> None:
    """Without the words of a Python exception."""
    assert vmport("vm", "check", "web", "--require", "nonsense") == ExitCode.USAGE
    assert "'nonsense' is not one of 'bandwidth', 'bridge'" in vmport.err
    assert "Value error" not in vmport.err
