"""Following a port until its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
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
    NOW,
    PORT,
    REFUSAL,
    Cli,
    ScriptedBroker,
    completed,
    shown_port,
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


@pytest.mark.parametrize("phase", [PortPhase.FAILED, PortPhase.CANCELLED])
def test_who_comes_late_is_told_where_the_vm_runs(vmport: Cli, broker: ScriptedBroker, phase: PortPhase) -> None:
    """The one fact that matters after a port that did not succeed."""
    broker.ports[PORT] = shown_port(PORT, phase)

    assert vmport("port", "watch", str(PORT), "--format", "json") != ExitCode.OK
    assert json.loads(vmport.out.splitlines()[-1])["data"]["vm_runs_at"] == "alpha"


def test_the_wire_rate_is_shown(vmport: Cli, broker: ScriptedBroker) -> None:
    """Beside the processed rate, each with its name."""
    times = iter(range(100))
    broker.now = lambda: NOW + timedelta(seconds=next(times))

    def first(port: UUID) -> Message:
        return transferred(port, 10).model_copy(update={"wire_bytes": 2**20})

    def second(port: UUID) -> Message:
        return transferred(port, 50).model_copy(update={"wire_bytes": 2**21})

    under_way(broker, first, second, completed)

    assert vmport("port", "create", "web", "--to", "beta", "--watch") == ExitCode.OK
    assert "(50 %, 1 MiB/s processed, 1 MiB/s on the wire, 4 min 16 s left)" in vmport.err


def test_ctrl_c_stops_watching_only(vmport: Cli, broker: ScriptedBroker) -> None:
    """The port goes on, and the next commands have its id."""

    def interrupt(_: UUID) -> Message:
        raise KeyboardInterrupt

    under_way(broker, interrupt)

    assert vmport("port", "create", "web", "--to", "beta", "--watch") == ExitCode.INTERRUPTED
    [port_id] = broker.ports
    assert f"vmport port watch {port_id}" in vmport.err
