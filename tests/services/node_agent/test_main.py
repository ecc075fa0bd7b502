"""The program: settings are checked before anything starts."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.node_agent.main import main
from services.node_agent.state.lock import StateLock
from shared.certificates import issue, make_authority
from shared.exit_codes import ExitCode

BUS = '[bus]\nurl = "amqp://node.alpha.alpha-1:x@127.0.0.1/vmport"\n'


def test_a_valid_configuration_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the bus must be set; the directory for its state can be made."""
    config = tmp_path / "node.toml"
    config.write_text(f'{BUS}[node]\nstate_dir = "{tmp_path}/vmport/node"\nimage_dir = "{tmp_path}"\n')
    assert main(["--config", str(config), "--check-config"]) == ExitCode.OK
    assert "node.alpha.alpha-1" in capsys.readouterr().out


def test_an_unknown_setting_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With its name."""
    config = tmp_path / "node.toml"
    config.write_text('[bus]\nurl = "amqp://node.alpha.alpha-1:x@127.0.0.1/vmport"\n[node]\nbridge = "x"\n')
    assert main(["--config", str(config), "--check-config"]) == ExitCode.CONFIG
    assert "node.bridge" in capsys.readouterr().err


def test_files_are_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A certificate that is not there, and a state directory that cannot be: the start would fail, so this does."""
    config = tmp_path / "node.toml"
    config.write_text(
        f'{BUS}[node]\nstate_dir = "{config}/node"\nimage_dir = "{tmp_path}"\n'
        '[tls]\ncertificate_file = "/no/cert"\nkey_file = "/no/key"\nauthority_file = "/no/authority"\n'
    )
    assert main(["--config", str(config), "--check-config"]) == ExitCode.CONFIG
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"{config}: node.state_dir: {config}/node cannot be used: {config} is no directory",
        f"{config}: tls.certificate_file: /no/cert cannot be read: No such file or directory",
        f"{config}: tls.key_file: /no/key cannot be read: No such file or directory",
        f"{config}: tls.authority_file: /no/authority cannot be read: No such file or directory",
    ]


def test_what_arriving_vms_need_is_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Caps that are no TOML, a directory for images that is not there, an unknown user: all are named at once."""
    config, caps = tmp_path / "node.toml", tmp_path / "caps.toml"
    caps.write_text("[peers\n")
    places = f'{BUS}[node]\nstate_dir = "{tmp_path}"\ncaps_file = "{caps}"\n'
    config.write_text(f'{places}image_dir = "{tmp_path}/images"\nqemu_user = "no-such-user"\n')
    assert main(["--config", str(config), "--check-config"]) == ExitCode.CONFIG
    said = capsys.readouterr().err.splitlines()[1:]
    assert [line.partition(" (at ")[0] for line in said] == [
        f"{config}: node.image_dir: {tmp_path}/images cannot be used: it does not exist; make it first",
        f"{config}: node.caps_file: {caps} is not TOML: Expected ']' at the end of a table declaration",
        f"{config}: node.qemu_user: this host has no user no-such-user",
    ]

    config.write_text(f'{places}image_dir = "{tmp_path}"\nqemu_user = "root"\n')
    caps.unlink()
    assert main(["--config", str(config), "--check-config"]) == ExitCode.OK


def test_a_start_needs_caps_that_can_be_read(tmp_path: Path) -> None:
    """Broken caps are a wrong configuration at the start, too: no port may run without its cap."""
    config, caps = tmp_path / "node.toml", tmp_path / "caps.toml"
    caps.write_text("[peers]\nbeta = -5\n")
    config.write_text(f'{BUS}[node]\nstate_dir = "{tmp_path}/node"\ncaps_file = "{caps}"\n[telemetry]\nport = 0\n')
    command = [sys.executable, "-m", "services.node_agent.main", "--config", str(config)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == ExitCode.CONFIG
    assert f"node.caps_file: {caps}: peers.beta: expected at least 16384" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_certificate_and_key_must_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that can be read are used as a lane would use them."""
    now = datetime.now(UTC)
    authority = make_authority("an authority", now=now)
    ours, another = (issue("node.alpha.alpha-1", authority, now=now) for _ in range(2))
    for name, text in (("crt", ours.certificate), ("key", ours.key), ("ca", authority.certificate)):
        (tmp_path / name).write_text(text)
    config = tmp_path / "node.toml"
    config.write_text(
        f'{BUS}[node]\nstate_dir = "{tmp_path}"\nimage_dir = "{tmp_path}"\n[tls]\ncertificate_file = "{tmp_path}/crt"\n'
        f'key_file = "{tmp_path}/key"\nauthority_file = "{tmp_path}/ca"\n'
    )
    assert main(["--config", str(config), "--check-config"]) == ExitCode.OK
    (tmp_path / "key").write_text(another.key)
    assert main(["--config", str(config), "--check-config"]) == ExitCode.CONFIG
    assert f"{config}: tls.certificate_file: key or certificate cannot be used" in capsys.readouterr().err


def test_the_hook_is_installed_by_a_command(tmp_path: Path) -> None:
    """`vmport-node install-hook`, with its own options."""
    assert main(["install-hook", "--state-dir", str(tmp_path), "--hook", str(tmp_path / "vmport")]) == ExitCode.OK
    assert (tmp_path / "vmport").read_text().startswith("#!/bin/sh\n")


def test_every_setting_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """An operator starts from the sample."""
    assert main(["--print-config"]) == ExitCode.OK
    assert "image_dir" in capsys.readouterr().out


def test_a_state_directory_serves_one_process(tmp_path: Path) -> None:
    """A second agent ends as for any wrong setting, and names directory and process; it touches no journal."""
    config = tmp_path / "node.toml"
    config.write_text(f'{BUS}[node]\nstate_dir = "{tmp_path}/node"\n[telemetry]\nport = 0\n')
    lock = StateLock(tmp_path / "node")
    lock.acquire()
    try:
        command = [sys.executable, "-m", "services.node_agent.main", "--config", str(config)]
        second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    finally:
        lock.release()
    assert second.returncode == ExitCode.CONFIG
    assert f"{tmp_path}/node is in use by process {os.getpid()}" in second.stderr
    assert not (tmp_path / "node" / "ports").exists()
