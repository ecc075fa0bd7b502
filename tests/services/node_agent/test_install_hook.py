"""``vmport-node install-hook``: idempotent, and able to look without writing."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.install_hook import main
from shared.exit_codes import ExitCode


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    return ["--state-dir", str(tmp_path / "state"), "--hook", str(tmp_path / "qemu.d" / "vmport")]


def test_it_is_installed_once(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second run changes nothing; --check says so by its exit code."""
    assert main([*arguments, "--check"]) == ExitCode.CONFIG
    assert "not installed" in capsys.readouterr().err
    assert main(arguments) == ExitCode.OK
    assert "written" in capsys.readouterr().out
    installed = (tmp_path / "qemu.d" / "vmport").read_text()
    assert f"given_away='{tmp_path}/state/given-away'" in installed
    assert main(arguments) == ExitCode.OK
    assert "is in place" in capsys.readouterr().out
    assert main([*arguments, "--check"]) == ExitCode.OK


def test_looking_writes_nothing(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--dry-run says what would be done, --print what would be written."""
    assert main([*arguments, "--dry-run"]) == ExitCode.OK
    assert "would write" in capsys.readouterr().out
    assert main([*arguments, "--print"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("#!/bin/sh\n")
    assert list(tmp_path.iterdir()) == []


def test_the_settings_say_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """node.state_dir and node.start_hook; without settings or --state-dir nothing is guessed."""
    config = tmp_path / "node.toml"
    config.write_text(
        '[bus]\nurl = "amqp://node.alpha.alpha-1:x@127.0.0.1/vmport"\n'
        f'[node]\nstate_dir = "{tmp_path}/s"\nstart_hook = "{tmp_path}/vmport"\n'
    )
    assert main(["--config", str(config)]) == ExitCode.OK
    assert f"{tmp_path}/s/given-away" in (tmp_path / "vmport").read_text()
    assert main([]) == ExitCode.CONFIG
    assert "no settings file" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the reason."""
    (tmp_path / "file").touch()
    hook = tmp_path / "file" / "vmport"
    assert main(["--state-dir", str(tmp_path), "--hook", str(hook)]) == ExitCode.CRASHED
    assert f"{hook} cannot be written" in capsys.readouterr().err


def test_help_says_what_becomes_of_libvirtd(capsys: pytest.CaptureFixture[str]) -> None:
    """It is reloaded, and guests go on."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "Guests go on running" in capsys.readouterr().out
