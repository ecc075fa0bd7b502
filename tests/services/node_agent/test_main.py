"""The program: settings are checked before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.main import main
from shared.exit_codes import ExitCode


def test_a_valid_configuration_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the bus must be set."""
    config = tmp_path / "node.toml"
    config.write_text('[bus]\nurl = "amqp://node.alpha.alpha-1:x@127.0.0.1/vmport"\n')
    assert main(["--config", str(config), "--check-config"]) == ExitCode.OK
    assert "node.alpha.alpha-1" in capsys.readouterr().out


def test_an_unknown_setting_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its name."""
    config = tmp_path / "node.toml"
    config.write_text('[bus]\nurl = "amqp://node.alpha.alpha-1:x@127.0.0.1/vmport"\n[node]\nbridge = "x"\n')
    assert main(["--config", str(config), "--check-config"]) == ExitCode.CONFIG
    assert "node.bridge" in capsys.readouterr().err


def test_every_setting_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """An operator starts from the sample."""
    assert main(["--print-config"]) == ExitCode.OK
    assert "image_dir" in capsys.readouterr().out
