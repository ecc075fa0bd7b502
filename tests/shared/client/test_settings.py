"""A tenant's settings: where they are found, and what is said when they are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared.client.settings import load_settings
from shared.exit_codes import ExitCode
from tests.support.scripted_broker import (
    Cli,
)


def test_configuration_problems(vmport: Cli, tmp_path: Path) -> None:
    """A wrong setting names file and key."""
    config = tmp_path / "vmport.toml"
    config.write_text("[output]\nformat = 'xml'\n")

    assert vmport("vm", "list", "--config", str(config)) == ExitCode.CONFIG
    assert f"{config}: output.format" in vmport.err
    assert vmport("vm", "list", "--url", "amqp://broker:x@localhost/v") == ExitCode.CONFIG
    assert "speaks as: tenant" in vmport.err


def test_user_settings_are_found(vmport: Cli) -> None:
    """Without --config the file in the user's home is read."""
    file = vmport.home / ".config/vmport/vmport.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[output]\nformat = 'json'\n")

    assert vmport("vm", "list") == ExitCode.OK
    assert json.loads(vmport.out)[0]["name"] == "web"


def test_password_file_that_is_not_there(vmport: Cli) -> None:
    """It is found at once, and is no defect of vmport."""
    vmport.url = None
    config = vmport.home / "vmport.toml"
    config.write_text('[bus]\nurl = "amqp://tenant.acme@localhost/v"\npassword_file = "/no/such/file"\n')

    assert vmport("vm", "list", "--config", str(config)) == ExitCode.CONFIG
    assert "password_file: /no/such/file cannot be read: No such file" in vmport.err


def test_no_settings_at_all(vmport: Cli) -> None:
    """The first message that a new user gets: where vmport looked, and the two ways to go on."""
    vmport.url = None

    assert vmport("vm", "list") == ExitCode.CONFIG
    for said in (
        "vmport: no settings found: looked for --url, --config, VMPORT_CONFIG, VMPORT_BUS__URL and ~/.config/vmport/",
        "vmport --print-config > ~/.config/vmport/vmport.toml",
        "export VMPORT_BUS__URL=amqp://tenant.NAME:PASSWORD@HOST:5672/vmport",
    ):
        assert said in vmport.err


def test_a_wrong_variable_is_blamed(vmport: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the file, which has a good address."""
    vmport.url = None
    file = vmport.home / "vmport.toml"
    file.write_text('[bus]\nurl = "amqp://tenant.acme:secret@localhost/vmport"\n')
    monkeypatch.setenv("VMPORT_BUS__URL", "http://foo")

    assert vmport("vm", "list", "--config", str(file)) == ExitCode.CONFIG
    assert vmport.err.startswith("vmport: VMPORT_BUS__URL: ")
    assert str(file) not in vmport.err


def test_an_empty_url_is_a_wrong_url(vmport: Cli) -> None:
    """An unset variable of the shell: the option is named, and no other address is used in its place."""
    vmport.url = None
    file = vmport.home / "vmport.toml"
    file.write_text('[bus]\nurl = "amqp://tenant.acme:secret@localhost/vmport"\n')

    for more in ((), ("--config", str(file))):
        assert vmport("--url", "", "vm", "list", *more) == ExitCode.CONFIG
        assert vmport.err.startswith("vmport: --url: expected amqp://")


def test_the_sample_changes_nothing(vmport: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """What --print-config prints, loaded back, means what no file means: the level, too, which its text shows."""
    assert vmport("--print-config") == ExitCode.OK
    text = capsys.readouterr().out
    file = vmport.home / "sample.toml"
    file.write_text(text)
    lines = text.splitlines()
    assert '# level = "error"' in lines[lines.index("[log]") :]

    sample = load_settings(url=vmport.url, config=file, home=vmport.home)
    assert sample.log.level == "error"
    assert sample == load_settings(url=vmport.url, config=None, home=vmport.home)


def test_another_log_format_keeps_the_level(vmport: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key of [log] is no word about the others."""
    monkeypatch.setenv("VMPORT_LOG__FORMAT", "json")

    log = load_settings(url=vmport.url, config=None, home=vmport.home).log
    assert (log.format, log.level) == ("json", "error")
