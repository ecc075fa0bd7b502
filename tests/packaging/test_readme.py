"""The README says what the programs do."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from shared.client.cli import run
from shared.client.session import Session
from shared.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_exit_codes_are_those_of_the_programs() -> None:
    """The table has every exit code with its own words, and no other."""
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", README, re.MULTILINE)

    assert rows == [(f"{code:d}", code.meaning) for code in ExitCode]


def test_files_that_are_named_exist() -> None:
    """Every path of the repository that the README names is there."""
    named = set(re.findall(r"\b((?:deploy|tests|services|shared)/[\w./-]*\w/?)", README))
    assert len(named) > 8

    for path in named - {"deploy/config/ROLE.toml", "deploy/systemd/vmport-ROLE.service"}:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    "line", [line.strip() for line in README.splitlines() if line.startswith("    vmport ") and "|" not in line]
)
def test_command_lines_are_understood(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each example names commands and options that exist."""
    words = shlex.split(line, comments=True)[1:]
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    command: list[str] = []
    for word in words:
        if word.startswith("-") or run([*command, word, "--help"], Session()) != ExitCode.OK:
            break
        command.append(word)
    capsys.readouterr()
    run([*command, "--help"], Session())
    help_text = capsys.readouterr().out

    assert command
    for option in given:
        assert option in help_text
