"""The command line as people and programs use it: answers on standard output, words on standard error, exit codes."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from shared.client.cli import hoisted, run
from shared.client.session import Session
from shared.exit_codes import ExitCode
from shared.messages import AnyEnvelope, Message, Refusal
from shared.messages.porting import PortingFixed
from shared.messages.queries import PortShown
from shared.messages.service_change import (
    CancelRefused,
    PortAccepted,
    PortCancelled,
    PortCompleted,
    PortFailed,
    PortPhase,
    PortPlanned,
    PortProgressed,
    PortRefused,
    PortRequested,
    Quote,
    SlaRecord,
    StreamProgress,
    TransferPhase,
)
from shared.topology import definitions
from tests.services.node_agent.conftest import DOMAIN, make_agreement

PORT = UUID("12345678-0000-4000-8000-000000000001")
WEB = "aaaa1111-0000-4000-8000-000000000001"
SLA = SlaRecord(
    promised_total_s=60,
    measured_total_s=42,
    promised_downtime_ms=500,
    measured_downtime_ms=120,
    measured_outage_ms=140,
    price_per_month="12.50",
    currency="EUR",
    kept=True,
)
QUOTE = Quote(
    provider="beta",
    price_per_month="12.50",
    currency="EUR",
    instance_type="small",
    promised_total_s=60,
    promised_downtime_ms=500,
    valid_until="2026-01-02T04:00:00Z",
)
UNKNOWN = Refusal(code="recipient_unknown", rule="The recipient must be known.", evidence="gamma is not")
REFUSAL = Refusal(code="memory_short", rule="the VM's memory fits on a node", evidence="512 MiB asked, 100 MiB free")

# The command line and the scripted broker of conftest.py; importlib mode gives tests no way to name their types.
Cli = Any
Broker = Any
Record = Callable[..., PortShown]


def port_of(command: AnyEnvelope) -> UUID:
    assert isinstance(command.data, PortRequested)
    return command.data.port_id


def answering(make: Callable[[UUID], tuple[Message, ...]]) -> Callable[[Broker, AnyEnvelope], None]:
    """A broker that says these about the port that it is asked for."""

    def script(broker: Broker, command: AnyEnvelope) -> None:
        for message in make(getattr(command.data, "port_id", PORT)):
            broker.say(message, cause=command)

    return script


def completed(port_id: UUID) -> PortCompleted:
    return PortCompleted(
        port_id=port_id,
        recipient="beta",
        epoch=2,
        sla=SLA,
        memory_bytes=512 * 2**20,
        disk_bytes=2**31,
        wire_bytes=300 * 2**20,
        warnings=("the guest was slow",),
    )


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["vm", "list", "--format", "json"], ["--format", "json", "vm", "list"]),
        (["vm", "list", "--format=json"], ["--format=json", "vm", "list"]),
        (["port", "watch", "1234", "-v", "--timeout", "3"], ["-v", "--timeout", "3", "port", "watch", "1234"]),
        (["vm", "show", "--", "--format"], ["vm", "show", "--", "--format"]),
        (["vm", "list", "--url"], ["--url", "vm", "list"]),
        ([], []),
    ],
)
def test_global_options_may_stand_anywhere(typed: list[str], read: list[str]) -> None:
    """What a hand writes after the command is read as if it stood before it."""
    assert hoisted(typed) == read


def test_vm_list(vmport: Cli) -> None:
    """A table for people, the registry's own values for programs."""
    assert vmport("vm", "list") == ExitCode.OK
    assert "web" in vmport.out
    assert "512 MiB" in vmport.out
    assert vmport("vm", "list", "--format", "json") == ExitCode.OK
    assert [vm["name"] for vm in json.loads(vmport.out)] == ["web", "shop"]
    assert vmport.err == ""


def test_vm_show_and_where(vmport: Cli) -> None:
    """One VM by name, id or beginning of an id."""
    assert vmport("vm", "show", "web") == ExitCode.OK
    assert WEB in vmport.out
    assert vmport("vm", "where", "aaaa1") == ExitCode.OK
    assert vmport.out == "alpha/alpha-1\n"
    assert vmport("--format", "json", "vm", "where", WEB) == ExitCode.OK
    assert json.loads(vmport.out) == {
        "uuid": WEB,
        "name": "web",
        "provider": "alpha",
        "node": "alpha-1",
        "epoch": 1,
        "port_id": None,
    }


def test_unknown_vm(vmport: Cli) -> None:
    """What is not there has its own exit code, and the sentence says where to look."""
    assert vmport("vm", "show", "nothing") == ExitCode.NOT_FOUND
    assert "vmport: you have no VM 'nothing'; 'vmport vm list' shows yours" in vmport.err
    assert vmport.out == ""


def test_ambiguous_vm(vmport: Cli) -> None:
    """A beginning of two ids is a wrong command line."""
    assert vmport("vm", "show", "aaaa") == ExitCode.USAGE
    assert "web" in vmport.err
    assert "shop" in vmport.err


def test_provider_list(vmport: Cli) -> None:
    """Providers with what is free."""
    assert vmport("provider", "list") == ExitCode.OK
    assert "beta" in vmport.out
    assert "8 GiB" in vmport.out


def test_errors_for_programs(vmport: Cli, broker: Broker) -> None:
    """With --format json an error is one JSON line on standard error."""
    broker.on_command = answering(lambda port: (PortRefused(port_id=port, refused_by="broker", refusals=(REFUSAL,)),))

    assert vmport("--format", "json", "port", "create", "web", "--to", "beta") == ExitCode.REFUSED
    error = json.loads(vmport.err)["error"]
    assert error["code"] == "refused"
    assert error["refusals"][0]["code"] == "memory_short"


def test_port_create(vmport: Cli, broker: Broker) -> None:
    """What was typed is what the broker is asked; the port's id is the whole answer."""
    broker.on_command = answering(lambda port: (PortAccepted(port_id=port),))
    limits = ("--max-downtime", "300ms", "--max-price", "20", "--bandwidth", "50mbit")
    options = (*limits, "--post-copy", "never", "--stop-and-copy", "--overlays", "never", "--no-wait")

    assert vmport("port", "create", "web", "--to", "beta", *options) == ExitCode.OK
    request = broker.heard[-1].data
    assert vmport.out == f"{request.port_id}\n"
    assert "at most 50 Mbit/s (6.25 MB/s)" in vmport.err
    assert "accepted;" in vmport.err
    assert str(request.vm_uuid) == WEB
    assert (request.donor, request.recipient, request.dry_run) == ("alpha", "beta", False)
    assert request.limits.model_dump(mode="json") == {
        "max_downtime_ms": 300,
        "window_start": None,
        "deadline": None,
        "max_price_per_month": "20",
        "bandwidth_bytes_per_s": 6_250_000,
        "post_copy": "never",
        "stop_and_copy": True,
        "seed": False,
        "seed_bandwidth_bytes_per_s": None,
        "overlays": "never",
    }


def test_port_create_in_a_window(vmport: Cli, broker: Broker) -> None:
    """A window's end is the deadline."""
    broker.on_command = answering(lambda port: (PortAccepted(port_id=port),))

    assert vmport("port", "create", "web", "--to", "best", "--window", "+1h/+3h", "--no-wait") == ExitCode.OK
    limits = broker.heard[-1].data.limits
    assert (limits.deadline - limits.window_start).total_seconds() == 3 * 3600


def test_port_create_seeded(vmport: Cli, broker: Broker) -> None:
    """What changes rarely goes ahead of the window, at a rate of its own."""
    broker.on_command = answering(lambda port: (PortAccepted(port_id=port),))
    options = ("--window", "+8h", "--seed", "--seed-bandwidth", "8mbit", "--no-wait")

    assert vmport("port", "create", "web", "--to", "beta", *options) == ExitCode.OK
    limits = broker.heard[-1].data.limits
    assert (limits.seed, limits.seed_bandwidth_bytes_per_s) == (True, 1_000_000)


@pytest.mark.parametrize(
    "options",
    [
        ("--max-downtime", "soon"),
        ("--seed",),
        ("--window", "+8h", "--seed-bandwidth", "8mbit"),
        ("--window", "+8h", "--seed", "--seed-bandwidth", "8"),
        ("--bandwidth", "50"),
        ("--max-price", "cheap"),
        ("--window", "tomorrow"),
        ("--window", "now/+1h", "--deadline", "+2h"),
        ("--deadline", "2001-01-01T00:00Z"),
        ("--post-copy", "perhaps"),
        ("--overlays", "always"),
        ("--nonsense",),
    ],
)
def test_wrong_command_lines(vmport: Cli, broker: Broker, options: tuple[str, ...]) -> None:
    """A value that cannot be read is refused before anything is sent, with what is expected."""
    assert vmport("port", "create", "web", "--to", "beta", *options) == ExitCode.USAGE
    assert vmport.err.startswith("vmport: ")
    assert not any(isinstance(envelope.data, PortRequested) for envelope in broker.heard)


def test_quote(vmport: Cli, broker: Broker) -> None:
    """Offers, and who declines and why; nothing but a dry run is asked for."""
    broker.on_command = answering(
        lambda port: (PortPlanned(port_id=port, quotes=(QUOTE,), declined={"gamma": (REFUSAL,)}),)
    )

    assert vmport("quote", "web") == ExitCode.OK
    assert broker.heard[-1].data.dry_run
    assert broker.heard[-1].data.recipient == "best"
    for said in ("beta", "12.50 EUR", "gamma declines", "memory_short"):
        assert said in vmport.out
    assert vmport("port", "create", "web", "--to", "beta", "--dry-run", "--format", "json") == ExitCode.OK
    assert json.loads(vmport.out)["quotes"][0]["price_per_month"] == "12.50"


def test_quote_without_offers(vmport: Cli, broker: Broker) -> None:
    """When everybody declines, the exit code says so."""
    broker.on_command = answering(lambda port: (PortPlanned(port_id=port, quotes=(), declined={"beta": (REFUSAL,)}),))

    assert vmport("quote", "web") == ExitCode.REFUSED
    assert "beta declines" in vmport.out


def transferred(port_id: UUID, percent: int) -> PortProgressed:
    return PortProgressed(
        port_id=port_id,
        phase=TransferPhase.MEMORY,
        percent=percent,
        memory=StreamProgress(total_bytes=2**29, processed_bytes=2**28, remaining_bytes=2**28),
        disk=StreamProgress(total_bytes=2**31, processed_bytes=2**31, remaining_bytes=0),
        rate_bytes_per_s=2**20,
        eta_s=256,
    )


def under_way(broker: Broker, record: Record, *events: Callable[[UUID], Message]) -> None:
    """A broker that accepts a port and tells these events once it is asked for the record."""

    def script(to: Broker, command: AnyEnvelope) -> None:
        port_id = port_of(command)
        broker.ports[port_id] = record(port_id, PortPhase.TRANSFERRING)
        to.say(PortAccepted(port_id=port_id), cause=command)

    broker.on_command = script
    broker.after_record = events


def test_create_and_watch(vmport: Cli, broker: Broker, record: Record) -> None:
    """Progress is told on standard error, the end in a short table on standard output."""
    under_way(broker, record, lambda port: transferred(port, 50), lambda port: transferred(port, 55), completed)

    assert vmport("port", "create", "web", "--to", "beta", "--watch") == ExitCode.OK
    assert "transferring memory (50 %, 1 MiB/s, 4 min 16 s left)" in vmport.err
    assert "55 %" not in vmport.err
    for said in ("completed", "42 s", "120 ms", "140 ms", "500 ms", "300 MiB", "beta"):
        assert said in vmport.out
    assert "warning: the guest was slow" in vmport.err


def test_watch_for_programs(vmport: Cli, broker: Broker, record: Record) -> None:
    """NDJSON: one event per line, the outcome last."""
    under_way(broker, record, lambda port: transferred(port, 50), completed)

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
    *, vmport: Cli, broker: Broker, record: Record, end: Callable[[UUID], Message], code: ExitCode, words: str
) -> None:
    """How a port ended is the exit code, and why is said."""
    under_way(broker, record, end)

    assert vmport("port", "create", "web", "--to", "beta", "--watch") == code
    assert words in vmport.out + vmport.err


def test_port_list_show_watch(vmport: Cli, broker: Broker, record: Record) -> None:
    """Ports are named by the beginning of their id."""
    broker.ports[PORT] = record(PORT, PortPhase.FAILED, failure="no route to beta")

    assert vmport("port", "list") == ExitCode.OK
    assert "12345678" in vmport.out
    assert vmport("port", "show", "12345") == ExitCode.OK
    assert "no route to beta" in vmport.out
    assert vmport("port", "show", "12345", "--format", "json") == ExitCode.OK
    assert json.loads(vmport.out)["failure"] == "no route to beta"
    assert vmport("port", "watch", "12345") == ExitCode.PORT_FAILED
    assert vmport("port", "show", "ffff") == ExitCode.NOT_FOUND
    assert vmport("port", "show", str(UUID(int=5))) == ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ((), ExitCode.OK, "fixed; 'vmport port watch"),
        ((REFUSAL,), ExitCode.REFUSED, "memory_short"),
        ((UNKNOWN,), ExitCode.NOT_FOUND, "recipient_unknown"),
    ],
)
def test_create_waits_until_it_is_decided(
    vmport: Cli, broker: Broker, record: Record, said: tuple[Refusal, ...], code: ExitCode, words: str
) -> None:
    """The exit code says whether the port is fixed, refused by a rule, or asks for what is not there."""

    def decide(broker: Broker, command: AnyEnvelope) -> None:
        port = port_of(command)
        broker.ports[port] = record(port)
        broker.say(PortAccepted(port_id=port), cause=command)

    def decision(port: UUID) -> Message:
        if said:
            return PortRefused(port_id=port, refused_by="broker", refusals=said)
        return PortingFixed(
            port_id=port, agreement=make_agreement(Path("/images/web.raw"), domain_xml=DOMAIN, port_id=port)
        )

    broker.on_command = decide
    broker.after_record = (decision,)
    assert vmport("port", "create", "web", "--to", "beta") == code
    assert words in vmport.err


def test_create_refused_before_anybody_watched(vmport: Cli, broker: Broker, record: Record) -> None:
    """A refusal that came before the record was read is in the record."""

    def refuse(broker: Broker, command: AnyEnvelope) -> None:
        port = port_of(command)
        broker.ports[port] = record(port, PortPhase.REFUSED, refusals=(REFUSAL,))
        broker.say(PortAccepted(port_id=port), cause=command)

    broker.on_command = refuse
    assert vmport("port", "create", "web", "--to", "beta") == ExitCode.REFUSED
    assert "memory_short" in vmport.err


def test_create_and_cancelled_meanwhile(vmport: Cli, broker: Broker, record: Record) -> None:
    """Somebody else of the tenant cancels while this one waits."""

    def accept(broker: Broker, command: AnyEnvelope) -> None:
        broker.ports[port_of(command)] = record(port_of(command))
        broker.say(PortAccepted(port_id=port_of(command)), cause=command)

    broker.on_command = accept
    broker.after_record = (lambda port: PortCancelled(port_id=port, phase=PortPhase.QUOTING),)
    assert vmport("port", "create", "web", "--to", "beta") == ExitCode.CANCELLED


def test_watch_and_no_wait_exclude_each_other(vmport: Cli, broker: Broker) -> None:
    """Nothing is sent when it is not clear what is wanted."""
    assert vmport("port", "create", "web", "--to", "beta", "--watch", "--no-wait") == ExitCode.USAGE
    assert "--no-wait" in vmport.err
    assert broker.heard == []


def test_cancelling_twice_is_no_error(vmport: Cli, broker: Broker, record: Record) -> None:
    """What was wanted is so already; a port that ended otherwise is another matter."""
    refused = CancelRefused(port_id=PORT, code="already_ended", detail="the port is over")
    broker.on_command = answering(lambda _: (refused,))
    broker.ports[PORT] = record(PORT, PortPhase.CANCELLED)
    assert vmport("port", "cancel", str(PORT)) == ExitCode.OK
    assert "already cancelled" in vmport.err
    assert vmport("port", "cancel", str(PORT), "--format", "json") == ExitCode.OK
    assert json.loads(vmport.out)["phase"] == "cancelled"
    broker.ports[PORT] = record(PORT, PortPhase.COMPLETED)
    assert vmport("port", "cancel", str(PORT)) == ExitCode.REFUSED


def test_short_beginnings_of_an_id(vmport: Cli, broker: Broker, record: Record) -> None:
    """Too short a beginning is said to be too short, not to be nothing."""
    broker.ports[PORT] = record(PORT)
    assert vmport("vm", "show", "aa") == ExitCode.NOT_FOUND
    assert "at least 4 characters" in vmport.err
    assert vmport("port", "show", "1") == ExitCode.NOT_FOUND
    assert "at least 4 characters" in vmport.err


def test_no_settings_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new user's first message says where settings were looked for and how to begin."""
    for name in [name for name in os.environ if name.startswith("VMPORT_")]:
        monkeypatch.delenv(name)
    said = io.StringIO()
    session = Session(err=Console(file=said, width=200), home=tmp_path)

    assert run(["vm", "list"], session) == ExitCode.CONFIG
    for words in ("no settings found", "VMPORT_BUS__URL", ".config/vmport/vmport.toml", "vmport --print-config >"):
        assert words in said.getvalue()


@pytest.mark.parametrize("url", ["http://foo", "amqp://tenant.acme@host/v", "amqp://nobody:x@host/v"])
def test_a_wrong_url_is_blamed_on_the_option(vmport: Cli, url: str) -> None:
    """Not on a settings file that is fine."""
    file = vmport.home / ".config/vmport/vmport.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[output]\nformat = 'table'\n")

    assert vmport("vm", "list", "--url", url) == ExitCode.CONFIG
    assert "--url: " in vmport.err
    assert str(file) not in vmport.err


def test_cancel(vmport: Cli, broker: Broker, record: Record) -> None:
    """A cancel tells what became of it; too late is a refusal."""
    broker.ports[PORT] = record(PORT)
    broker.on_command = answering(lambda port: (PortCancelled(port_id=port, phase=PortPhase.TRANSFERRING),))
    assert vmport("port", "cancel", "12345", "--reason", "no") == ExitCode.OK
    assert "is cancelled in phase transferring" in vmport.err
    broker.on_command = answering(lambda port: (CancelRefused(port_id=port, code="too_late", detail="runs at beta"),))
    assert vmport("port", "cancel", str(PORT)) == ExitCode.REFUSED
    assert "runs at beta" in vmport.err


def test_bus_unreachable(vmport: Cli, broker: Broker) -> None:
    """Without a bus there is a sentence and an exit code, no traceback."""
    broker.down = True

    assert vmport("vm", "list", "--timeout", "0.1") == ExitCode.BUS_UNREACHABLE
    assert "Traceback" not in vmport.err


def test_silent_broker(vmport: Cli, broker: Broker) -> None:
    """A broker that does not answer within --timeout has an exit code of its own."""
    broker.silent = True

    assert vmport("vm", "list", "--timeout", "0.1") == ExitCode.TIMED_OUT
    assert "within 0.1 s" in vmport.err


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


def test_unexpected_error_is_a_sentence(vmport: Cli, broker: Broker) -> None:
    """A defect is reported as one; its traceback is there on request."""
    broker.vms = None

    assert vmport("vm", "list") == ExitCode.CRASHED
    assert "defect of vmport" in vmport.err
    assert "Traceback" not in vmport.err


def test_schema(vmport: Cli) -> None:
    """The contract is printed whole, without a connection."""
    assert vmport("schema") == ExitCode.OK
    assert "PortRequestedEnvelope" in json.loads(vmport.out)["$defs"]
    assert vmport("schema", "--asyncapi") == ExitCode.OK
    assert json.loads(vmport.out)["asyncapi"] == "3.0.0"


def test_topology(vmport: Cli, tmp_path: Path) -> None:
    """Definitions for RabbitMQ with a password file per party, which a second run keeps."""
    passwords = tmp_path / "passwords"

    assert vmport("topology", "broker", "tenant.acme", "--passwords", str(passwords)) == ExitCode.OK
    printed = json.loads(vmport.out)
    assert {user["name"] for user in printed["users"]} == {"broker", "tenant.acme"}
    assert set(printed) == set(definitions({}))
    secret = passwords / "tenant.acme.password"
    assert secret.stat().st_mode & 0o777 == 0o600
    before = secret.read_text()
    assert before.strip() not in vmport.out
    assert vmport("topology", "broker", "tenant.acme", "node.a.b", "--passwords", str(passwords)) == ExitCode.OK
    assert secret.read_text() == before
    assert vmport("topology", "nobody", "--passwords", str(passwords)) == ExitCode.USAGE


def test_help_documents_exit_codes(capsys: pytest.CaptureFixture[str], vmport: Cli) -> None:
    """Every exit code stands in --help."""
    assert vmport("--help") == ExitCode.OK
    text = " ".join(capsys.readouterr().out.split())
    for code in ExitCode:
        assert f"{code:d} {code.meaning}" in text
