"""How errors are shown: a sentence and an exit code, for people and for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from shared.exit_codes import ExitCode
from shared.messages.service_change import (
    PortRefused,
)
from tests.support.scripted_broker import (
    REFUSAL,
    Cli,
    ScriptedBroker,
    answering,
)


def test_errors_for_programs(vmport: Cli, broker: ScriptedBroker) -> None:
    """With --format json an error is one JSON line on standard error."""
    broker.on_command = answering(lambda port: (PortRefused(port_id=port, refused_by="broker", refusals=(REFUSAL,)),))

    assert vmport("--format", "json", "port", "create", "web", "--to", "beta") == ExitCode.REFUSED
    error = json.loads(vmport.err)["error"]
    assert error["code"] == "refused"
    assert error["refusals"][0]["code"] == "memory_short"


def test_bus_unreachable(vmport: Cli, broker: ScriptedBroker) -> None:
    """Without a bus there is a sentence and an exit code, no traceback."""
    broker.down = True

    assert vmport("vm", "list", "--timeout", "0.1") == ExitCode.BUS_UNREACHABLE
    assert "Traceback" not in vmport.err


def test_silent_broker(vmport: Cli, broker: ScriptedBroker) -> None:
    """A broker that does not answer within --timeout has an exit code of its own."""
    broker.silent = True

    assert vmport("vm", "list", "--timeout", "0.1") == ExitCode.TIMED_OUT
    assert "within 0.1 s" in vmport.err


def test_unexpected_error_is_a_sentence(vmport: Cli, broker: ScriptedBroker) -> None:
    """A defect is reported as one; its traceback is there on request."""
    broker.vms = None  # type: ignore[assignment]  # an answer that no broker gives

    assert vmport("vm", "list") == ExitCode.CRASHED
    assert "defect of vmport" in vmport.err
    assert "Traceback" not in vmport.err


def test_errors_are_json_where_answers_are(vmport: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment and a file choose the format of errors as the option does; wrong settings are told as text."""
    monkeypatch.setenv("VMPORT_OUTPUT__FORMAT", "json")
    assert vmport("vm", "show", "nothing") == ExitCode.NOT_FOUND
    assert json.loads(vmport.err)["error"]["code"] == "not_found"
    broken = tmp_path / "broken.toml"
    broken.write_text("[output\n")
    assert vmport("vm", "list", "--config", str(broken)) == ExitCode.CONFIG
    assert vmport.err.startswith("vmport: ")


def test_full_disk_is_no_defect() -> None:
    """Standard output that cannot be written is said in one line."""
    code = "import sys; from shared.client.cli import main; sys.exit(main(['schema']))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, check=False, text=True, timeout=60
        )
    assert done.returncode == ExitCode.CRASHED
    assert done.stderr == "vmport: standard output cannot be written: No space left on device\n"


def test_closed_pipe_is_no_error() -> None:
    """``vmport schema | head``: whoever reads has read enough."""
    code = "import sys; from shared.client.cli import main; sys.exit(main(['schema']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == b""
    assert program.returncode == ExitCode.OK


@pytest.mark.parametrize(("ahead_s", "word"), [(600, "ahead of"), (-600, "behind")])
def test_a_wrong_clock_is_named(vmport: Cli, broker: ScriptedBroker, ahead_s: int, word: str) -> None:
    """Windows and deadlines are written by it; programs' standard error stays theirs."""
    vmport.now = lambda: broker.now() + timedelta(seconds=ahead_s)
    assert vmport("vm", "list") == ExitCode.OK
    assert f"warning: this host's clock is 600 s {word} the broker's" in vmport.err
    assert vmport("--format", "json", "vm", "list") == ExitCode.OK
    assert vmport.err == ""
    vmport.now = broker.now
    assert vmport("vm", "list") == ExitCode.OK
    assert "clock" not in vmport.err
