"""Following a port until its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from uuid import UUID

import pytest

from shared.exit_codes import ExitCode
from shared.messages import Message
from shared.messages.service_change import (
    PortCancelled,
    PortFailed,
    PortPhase,
    PortRefused,
)
from tests.support.scripted_broker import (
    REFUSAL,
    Cli,
    ScriptedBroker,
    completed,
    transferred,
    under_way,
)


def test_create_and_watch(vmport: Cli, broker: ScriptedBroker) -> None:
    """Progress is told on standard error, the end in a short table on standard output."""
    under_way(broker, lambda port: transferred(port, 50), lambda port: transferred(port, 55), completed)

    assert vmport("port", "create", "web", "--to", "beta", "--watch") == ExitCode.OK
    assert "transferring memory (50 %, 1 MiB/s processed, 4 min 16 s left)" in vmport.err
    assert "55 %" not in vmport.err
    for said in ("completed", "42 s", "120 ms", "140 ms", "500 ms", "300 MiB", "beta"):
        assert said in vmport.out
    assert "warning: the guest was slow" in vmport.err


def test_watch_for_programs(vmport: Cli, broker: ScriptedBroker) -> None:
    """NDJSON: one event per line, the outcome last."""
    under_way(broker, lambda port: transferred(port, 50), completed)

    assert vmport("port", "create", "web", "--to", "beta", "--watch", "--format", "json") == ExitCode.OK
    lines = [json.loads(line) for line in vmport.out.splitlines()]
    assert [line["type"] for line in lines] == ["PortShown", "PortProgressed", "PortCompleted", "Outcome"]
    assert lines[1]["data"]["percent"] == 50
    outcome = lines[-1]["data"]
    assert outcome["outcome"] == "completed"
    assert outcome["sla"]["measured_downtime_ms"] == 120
    assert outcome["wire_bytes"] == 300 * 2**20


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (
            lambda port: PortFailed(
                port_id=port, phase=PortPhase.TRANSFERRING, code="lane_lost", detail="no route", vm_runs_at="alpha"
            ),
            ExitCode.PORT_FAILED,
            "lane_lost in phase transferring: no route",
        ),
        (
            lambda port: PortCancelled(port_id=port, phase=PortPhase.TRANSFERRING),
            ExitCode.CANCELLED,
            "cancelled in phase transferring",
        ),
        (
            lambda port: PortRefused(port_id=port, refused_by="donor.alpha", refusals=(REFUSAL,)),
            ExitCode.REFUSED,
            "memory_short",
        ),
    ],
    ids=["failed", "cancelled", "refused"],
)
def test_watch_ends_otherwise(
    *, vmport: Cli, broker: ScriptedBroker, end: Callable[[UUID], Message], code: ExitCode, words: str
) -> None:
    """How a port ended is the exit code, and why is said."""
    under_way(broker, end)

    assert vmport("port", "create", "web", "--to", "beta", "--watch") == code
    assert words in vmport.out + vmport.err
