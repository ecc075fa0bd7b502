"""Ports on the command line: what is asked for, what is answered, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from uuid import UUID

import pytest

from shared.exit_codes import ExitCode
from shared.messages import Message, Refusal
from shared.messages.porting import PortingFixed
from shared.messages.quote_lines import Part, QuoteLine
from shared.messages.service_change import (
    CancelRefused,
    PortAccepted,
    PortCancelled,
    PortFailed,
    PortLimits,
    PortPhase,
    PortPlanned,
    PortRefused,
    PortRequested,
)
from tests.support.scripted_broker import (
    PORT,
    QUOTE,
    REFUSAL,
    WEB,
    Cli,
    ScriptedBroker,
    agreement_of,
    answering,
    shown_port,
    under_way,
)


def test_port_create(vmport: Cli, broker: ScriptedBroker) -> None:
    """What was typed is what the broker is asked; the port's id is the whole answer."""
    broker.on_command = answering(lambda port: (PortAccepted(port_id=port),))
    limits = ("--max-downtime", "300ms", "--max-price", "20", "--bandwidth", "50mbit")
    ejected = ("--eject", "sda", "--eject", "sdb", "--eject", "sda", "--require", "filter")
    options = (*limits, "--post-copy", "never", "--stop-and-copy", "--overlays", "never", *ejected)

    assert vmport("port", "create", "web", "--to", "beta", *options, "--no-wait") == ExitCode.OK
    request = broker.requested
    assert vmport.out == f"{request.port_id}\n"
    assert str(request.vm_uuid) == str(WEB.uuid)
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
        "eject": ["sda", "sdb"],
        "require": ["filter"],
        "network_mode": "auto",
        "horizon_months": 12,
        "downtime_cost_per_hour": "0",
        "currency": None,
    }


def test_port_create_in_a_window(vmport: Cli, broker: ScriptedBroker) -> None:
    """A window's end is the deadline."""
    broker.on_command = answering(lambda port: (PortAccepted(port_id=port),))

    assert vmport("port", "create", "web", "--to", "best", "--window", "+1h/+3h", "--no-wait") == ExitCode.OK
    limits = broker.requested.limits
    assert limits.deadline
    assert limits.window_start
    assert (limits.deadline - limits.window_start).total_seconds() == 3 * 3600


def test_port_create_seeded(vmport: Cli, broker: ScriptedBroker) -> None:
    """What changes rarely goes ahead of the window, at a rate of its own."""
    broker.on_command = answering(lambda port: (PortAccepted(port_id=port),))
    options = ("--window", "+8h", "--seed", "--seed-bandwidth", "8mbit")

    assert vmport("port", "create", "web", "--to", "beta", *options, "--no-wait") == ExitCode.OK
    limits = broker.requested.limits
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
        ("--eject", "/dev/sr0"),
        tuple(word for at in range(65) for word in ("--eject", f"sd{chr(97 + at % 26)}")),
        ("--require", "filtre"),
        ("--nonsense",),
        ("--bandwidth", "50mb"),
        ("--wait-limit", "long"),
    ],
)
def test_wrong_command_lines(vmport: Cli, broker: ScriptedBroker, options: tuple[str, ...]) -> None:
    """A value that cannot be read is refused before anything is sent, with what is expected."""
    assert vmport("port", "create", "web", "--to", "beta", *options) == ExitCode.USAGE
    assert vmport.err.startswith("vmport: ")
    assert not any(isinstance(envelope.data, PortRequested) for envelope in broker.heard)


def test_quote(vmport: Cli, broker: ScriptedBroker) -> None:
    """Offers, and who declines and why; nothing but a dry run is asked for."""
    broker.on_command = answering(
        lambda port: (PortPlanned(port_id=port, quotes=(QUOTE,), declined={"gamma": (REFUSAL,)}),)
    )

    assert vmport("quote", "web") == ExitCode.OK
    assert broker.requested.dry_run
    assert broker.requested.recipient == "best"
    for said in ("beta", "12.50 EUR", "gamma declines", "memory_short"):
        assert said in vmport.out
    assert vmport("port", "create", "web", "--to", "beta", "--dry-run", "--format", "json") == ExitCode.OK
    assert json.loads(vmport.out)["quotes"][0]["price_per_month"] == "12.50"


def test_quote_says_what_becomes_of_the_vm(vmport: Cli, broker: ScriptedBroker) -> None:
    """By the names that --require takes, which reaches the providers with the question."""
    quote = QUOTE.model_copy(
        update={
            "kept": (QuoteLine(part=Part.VLAN, text="network card: VLAN 42"),),
            "made_anew": (QuoteLine(part=Part.BRIDGE, text="bridge br0 becomes bridge br7"),),
            "not_kept": (QuoteLine(part=Part.PINNING, text="vCPU 0 is on CPU 3"),),
        }
    )
    broker.on_command = answering(lambda port: (PortPlanned(port_id=port, quotes=(quote,), declined={}),))

    asked = ("--require", "filter", "--require", "all", "--eject", "sda")
    assert vmport("quote", "web", *asked) == ExitCode.OK
    assert broker.requested.limits.require == (Part.FILTER, Part.ALL)
    assert broker.requested.limits.eject == ("sda",)
    rows = [" ".join(line.split()) for line in vmport.out.splitlines()]
    for said in ("not kept pinning vCPU 0 is on CPU 3", "changed bridge bridge br0", "kept vlan network card: VLAN 42"):
        assert any(said in row for row in rows), vmport.out


def test_quote_without_offers(vmport: Cli, broker: ScriptedBroker) -> None:
    """When everybody declines, the exit code says so."""
    broker.on_command = answering(lambda port: (PortPlanned(port_id=port, quotes=(), declined={"beta": (REFUSAL,)}),))

    assert vmport("quote", "web") == ExitCode.REFUSED
    assert "beta declines" in vmport.out


def test_port_list_show_watch(vmport: Cli, broker: ScriptedBroker) -> None:
    """Ports are named by the beginning of their id."""
    broker.ports[PORT] = shown_port(PORT, PortPhase.FAILED, failure="no route to beta")

    assert vmport("port", "list") == ExitCode.OK
    assert "12345678" in vmport.out
    assert vmport("port", "show", "12345") == ExitCode.OK
    assert "no route to beta" in vmport.out
    assert vmport("port", "show", "12345", "--format", "json") == ExitCode.OK
    assert json.loads(vmport.out)["failure"] == "no route to beta"
    assert vmport("port", "watch", "12345") == ExitCode.PORT_FAILED
    assert vmport("port", "show", "ffff") == ExitCode.NOT_FOUND
    assert vmport("port", "show", str(UUID(int=5))) == ExitCode.NOT_FOUND


def test_cancel(vmport: Cli, broker: ScriptedBroker) -> None:
    """A cancel tells what became of it; too late is a refusal."""
    broker.ports[PORT] = shown_port(PORT)
    broker.on_command = answering(lambda port: (PortCancelled(port_id=port, phase=PortPhase.TRANSFERRING),))
    assert vmport("port", "cancel", "12345", "--reason", "no") == ExitCode.OK
    assert "is cancelled in phase transferring" in vmport.err
    broker.on_command = answering(lambda port: (CancelRefused(port_id=port, code="too_late", detail="runs at beta"),))
    assert vmport("port", "cancel", str(PORT)) == ExitCode.REFUSED
    assert "runs at beta" in vmport.err


def fixed(port_id: UUID) -> PortingFixed:
    return PortingFixed(port_id=port_id, agreement=agreement_of(port_id))


def create(vmport: Cli, *options: str) -> int:
    return vmport("port", "create", "web", "--to", "beta", *options)


@pytest.mark.parametrize("events", [(fixed,), ()], ids=["by an event", "by the record"])
def test_create_waits_until_the_port_is_fixed(
    vmport: Cli, broker: ScriptedBroker, events: tuple[Callable[[UUID], Message], ...]
) -> None:
    """Exit code 0 says that all parties have agreed; the port's id is on standard output, the agreement beside it."""
    under_way(broker, *events)
    if not events:
        broker.record = lambda port_id: shown_port(port_id, PortPhase.PREPARING, agreement=agreement_of(port_id))

    assert create(vmport) == ExitCode.OK
    port_id = UUID(vmport.out.strip())
    assert "fixed: from alpha to beta" in vmport.err
    assert "12.50 EUR per month" in vmport.err
    assert f"vmport port watch {str(port_id)[:8]}" in vmport.err


def test_create_for_programs(vmport: Cli, broker: ScriptedBroker) -> None:
    """One JSON document, which says what was waited for."""
    under_way(broker, fixed)

    assert create(vmport, "--format", "json") == ExitCode.OK
    assert json.loads(vmport.out)["outcome"] == "fixed"
    assert vmport.err == ""
    assert create(vmport, "--format", "json", "--no-wait") == ExitCode.OK
    assert json.loads(vmport.out)["outcome"] == "accepted"


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (
            lambda port: PortRefused(port_id=port, refused_by="donor.alpha", refusals=(REFUSAL,)),
            ExitCode.REFUSED,
            "donor.alpha refuses the port: memory_short",
        ),
        (
            lambda port: PortFailed(
                port_id=port, phase=PortPhase.RESERVING, code="no_answer", detail="beta is silent", vm_runs_at="alpha"
            ),
            ExitCode.PORT_FAILED,
            "failed: beta is silent; the VM runs at alpha",
        ),
        (
            lambda port: PortCancelled(port_id=port, phase=PortPhase.QUOTING),
            ExitCode.CANCELLED,
            "was cancelled: in phase quoting",
        ),
    ],
    ids=["refused", "failed", "cancelled"],
)
def test_create_exits_as_the_port_ends(
    *, vmport: Cli, broker: ScriptedBroker, end: Callable[[UUID], Message], code: ExitCode, words: str
) -> None:
    """An accepted port can still be refused by a provider: a script must not take it for a success."""
    under_way(broker, end)

    assert create(vmport) == code
    assert words in vmport.err


def test_create_does_not_wait_for_ever(vmport: Cli, broker: ScriptedBroker) -> None:
    """After --wait-limit the port goes on, and the exit code says that there is no answer yet."""
    under_way(broker)

    assert create(vmport, "--wait-limit", "20ms") == ExitCode.TIMED_OUT
    assert "neither fixed nor refused within 0.02 s; it goes on" in vmport.err
    assert UUID(vmport.out.strip()) in broker.ports


def test_ctrl_c_while_waiting(vmport: Cli, broker: ScriptedBroker) -> None:
    """Who stops waiting is told that the port goes on, and how to cancel it."""

    def interrupt(_: UUID) -> Message:
        raise KeyboardInterrupt

    under_way(broker, interrupt)

    assert create(vmport) == ExitCode.INTERRUPTED
    assert f"vmport port cancel {vmport.out.strip()}" in vmport.err


def test_unknown_provider(vmport: Cli, broker: ScriptedBroker) -> None:
    """A provider that is not there has the exit code of what is not there, for each command that names one."""
    unknown = Refusal(code="recipient_unknown", rule="the recipient is known", evidence="unknown provider 'gamma'")
    broker.on_command = answering(lambda port: (PortRefused(port_id=port, refused_by="broker", refusals=(unknown,)),))

    assert vmport("quote", "web", "--to", "gamma") == ExitCode.NOT_FOUND
    for options in ((), ("--dry-run",), ("--no-wait",), ("--watch",)):
        assert create(vmport, *options) == ExitCode.NOT_FOUND
        assert "unknown provider 'gamma'" in vmport.err


def test_limits_are_echoed(vmport: Cli, broker: ScriptedBroker) -> None:
    """What was understood is shown before money is committed: both units of a rate, and the window with its zone."""
    under_way(broker, fixed)
    assert create(vmport, "--bandwidth", "50Mbps", "--window", "2036-07-01T02:00+02:00") == ExitCode.OK
    for said in (
        "bandwidth at most 50 Mbit/s (6.3 MB/s)",
        "from 2036-07-01 02:00:00 +0200",
        "downtime at most 1000 ms",
    ):
        assert said in vmport.err
    broker.on_command = answering(lambda port: (PortPlanned(port_id=port, quotes=(QUOTE,), declined={}),))
    assert create(vmport, "--dry-run", "--bandwidth", "50Mbps") == ExitCode.OK
    assert "bandwidth at most 50 Mbit/s (6.3 MB/s)" in vmport.err
    assert vmport("quote", "web") == ExitCode.OK
    assert "limits: downtime at most 1000 ms; bandwidth not limited; starts at once" in vmport.err


def test_port_show_has_the_bandwidth_limit(vmport: Cli, broker: ScriptedBroker) -> None:
    """The limit that was agreed on stands in the record."""
    shown = shown_port(PORT)
    limits = PortLimits(bandwidth_bytes_per_s=6_250_000)
    broker.ports[PORT] = shown.model_copy(update={"request": shown.request.model_copy(update={"limits": limits})})

    assert vmport("port", "show", str(PORT)) == ExitCode.OK
    assert "50 Mbit/s (6.3 MB/s)" in vmport.out


def test_cancelling_twice_is_no_error(vmport: Cli, broker: ScriptedBroker) -> None:
    """A cancelled port is what was asked for; a completed one is not."""
    broker.on_command = answering(
        lambda port: (CancelRefused(port_id=port, code="already_ended", detail="the port is ended"),)
    )
    broker.ports[PORT] = shown_port(PORT, PortPhase.CANCELLED)
    assert vmport("port", "cancel", str(PORT)) == ExitCode.OK
    assert f"port {PORT} is already cancelled" in vmport.err
    assert vmport("--format", "json", "port", "cancel", str(PORT)) == ExitCode.OK
    assert json.loads(vmport.out) == {"port_id": str(PORT), "phase": "cancelled"}
    broker.ports[PORT] = shown_port(PORT, PortPhase.COMPLETED)
    assert vmport("port", "cancel", str(PORT)) == ExitCode.REFUSED
    assert "cannot be cancelled: the port is ended" in vmport.err
