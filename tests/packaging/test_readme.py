"""README, guide and operations say what the programs do: exit codes, files, command lines."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from shared.client.cli import run
from shared.client.session import Session
from shared.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs/tenant-guide.md").read_text()
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
FILE_NAMES = {
    path.name
    for folder in ("deploy", "docs", "services", "shared", "tests", "vmport", ".")
    for path in (ROOT / folder).glob("*" if folder == "." else "**/*")
}
FILES_OF_A_DEPLOYMENT = {"definitions.json"}
PLACEHOLDERS = {"deploy/config/ROLE.toml", "deploy/systemd/vmport-ROLE.service"}

LINES = [line.strip() for text in PAGES.values() for line in text.splitlines() if re.match(r" {4,}\S", line)]
COMMANDS = sorted({line for line in LINES if re.match(r"vmport [\w-]", line) and "|" not in line})
PROGRAMS = sorted({line for line in LINES if re.match(r"vmport-\w+ ", line)})


def test_readme_is_short() -> None:
    """The front page is read in a minute; what is longer belongs into docs/."""
    assert len(README.splitlines()) <= 110


def test_exit_codes_are_those_of_the_programs() -> None:
    """The guide's table has every exit code with its own words, and no other."""
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", GUIDE, re.MULTILINE)

    assert rows == [(f"{code:d}", code.meaning) for code in ExitCode]


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    """Every path of the repository that a page names is there."""
    named = set(re.findall(r"(?<![\w/.~-])((?:deploy|tests|services|shared|docs)/[\w./-]*\w/?)", PAGES[page]))
    named |= set(re.findall(r"`(vmport/)`", PAGES[page]))

    assert [path for path in sorted(named - PLACEHOLDERS) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_are_named_without_their_folder_exist(page: str) -> None:
    """A page may shorten `services/node_agent/lanes/pump.py` to `pump.py`, where the folder is clear."""
    named = set(re.findall(r"`([\w-]+\.(?:py|toml|json))`", PAGES[page])) - FILES_OF_A_DEPLOYMENT

    assert sorted(named - FILE_NAMES) == []


def test_guide_names_every_option_of_port_create(capsys: pytest.CaptureFixture[str]) -> None:
    """An option that the guide does not name is known only to readers of the help."""
    run(["port", "create", "--help"], Session())
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help", "--wait"}

    assert len(options) > 12
    assert sorted(option for option in options if not re.search(rf"{option}(?![\w-])", GUIDE)) == []


def test_pages_name_many_files_and_commands() -> None:
    """The tests here find something to look at."""
    assert len(re.findall(r"\b(?:deploy|tests|services|shared|docs)/", README)) > 8
    assert len(re.findall(r"services/", PAGES["docs/architecture.md"])) > 50
    assert len(COMMANDS) > 12
    assert len(PROGRAMS) >= 2


@pytest.mark.parametrize("line", COMMANDS)
def test_command_lines_are_understood(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each example names commands and options that exist."""
    words = shlex.split(line, comments=True)[1:]
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    run(["--help"], Session())
    help_text = capsys.readouterr().out
    command: list[str] = []
    while words and words[0].startswith("--"):  # options of all commands, each with its value
        words = words[2:]
    for word in words:
        if word.startswith(("-", ">")) or run([*command, word, "--help"], Session()) != ExitCode.OK:
            break
        command.append(word)
    capsys.readouterr()
    run([*command, "--help"], Session())
    help_text += capsys.readouterr().out

    assert command or given == ["--print-config"]
    for option in given:
        assert option in help_text


@pytest.mark.parametrize("line", PROGRAMS)
def test_programs_have_the_options_that_are_shown(line: str) -> None:
    """Each example of a service's program names options that exist."""
    name, *words = shlex.split(line, comments=True)
    program = str(Path(sys.executable).with_name(name))
    command = [word for word in words[:1] if not word.startswith("-")]
    printed = subprocess.run(
        [program, *command, "--help"], check=True, capture_output=True, text=True, timeout=60
    ).stdout

    for option in (word for word in words if word.startswith("--")):
        assert option in printed
