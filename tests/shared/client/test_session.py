"""How errors are shown: a sentence and an exit code, for people and for programs."""

from __future__ import annotations

import json

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
