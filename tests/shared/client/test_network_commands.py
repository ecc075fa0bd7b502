"""``vmport network``, and ``--network-mode`` wherever a port is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.exit_codes import ExitCode
from shared.messages import AnyEnvelope
from shared.messages.addresses import EndExtension, NetworkShown, ShowNetwork
from shared.messages.queries import QueryFailed
from shared.messages.service_change import PortAccepted, PortPlanned
from tests.support.broker_samples import plan
from tests.support.scripted_broker import (
    NOW,
    PORT,
    QUOTE,
    WEB,
    Cli,
    ScriptedBroker,
    agreement_of,
    answering,
    shown_port,
)

SHOWN = NetworkShown.model_validate(
    {
        "port_id": PORT,
        "vm_uuid": WEB.uuid,
        "vm_name": "web",
        "provider": "beta",
        "epoch": 2,
        "plan": plan("translate", ends_after_s=2592000),
        "extension": {"state": "open", "since": NOW, "ends_at": NOW, "closed_by": ["node.alpha.alpha-1"]},
        "reports": [
            {"at": NOW, "sender": "node.beta.beta-1", "epoch": 2, "state": "carrying", "first_answer_ms": 42},
            {"at": NOW, "sender": "node.beta.beta-1", "epoch": 2, "state": "failed", "detail": "no \x1b[31mbridge"},
        ],
    }
)


@pytest.fixture
def asked(broker: ScriptedBroker) -> list[Any]:
    """What the broker is asked about networks; it answers."""
    questions: list[Any] = []

    def answer(broker: ScriptedBroker, envelope: AnyEnvelope) -> None:
        questions.append(envelope.data)
        broker.say(SHOWN, cause=envelope)

    broker.on_command = answer
    return questions


@pytest.mark.parametrize(
    ("given", "question"),
    [
        ("web", ShowNetwork(vm_uuid=WEB.uuid)),
        (str(WEB.uuid), ShowNetwork(vm_uuid=WEB.uuid)),
        (str(WEB.uuid)[:8], ShowNetwork(vm_uuid=WEB.uuid)),
        (str(PORT), ShowNetwork(port_id=PORT)),
        (str(PORT)[:8], ShowNetwork(port_id=PORT)),
    ],
)
def test_a_port_or_a_vm_is_shown(
    vmport: Cli, broker: ScriptedBroker, asked: list[Any], given: str, question: ShowNetwork
) -> None:
    """By a VM's name or id, or by a port's."""
    broker.ports = {PORT: shown_port(PORT)}
    assert vmport("network", "show", given) == ExitCode.OK
    assert asked == [question]
    for said in ("translate: translation", "for 30 days", "192.0.2.7", "198.51.100.7", "42 ms", "open since"):
        assert said in vmport.out
    assert "\x1b" not in vmport.out


def test_what_is_neither_is_not_found(vmport: Cli, asked: list[Any]) -> None:
    """Nothing is asked."""
    assert vmport("network", "show", "nobody") == ExitCode.NOT_FOUND
    assert asked == []


def test_json_is_the_message(vmport: Cli, asked: list[Any]) -> None:
    """As `vmport schema` documents it."""
    assert vmport("--format", "json", "network", "show", "web") == ExitCode.OK
    assert NetworkShown.model_validate(json.loads(vmport.out)) == SHOWN
    assert len(asked) == 1


def test_a_port_without_a_plan(vmport: Cli, broker: ScriptedBroker) -> None:
    """It is said plainly."""
    bare = SHOWN.model_copy(update={"plan": None, "extension": None, "reports": ()})
    broker.on_command = lambda broker, envelope: broker.say(bare, cause=envelope)
    assert vmport("network", "show", "web") == ExitCode.OK
    assert "only if the providers have joined their networks" in vmport.out


def test_an_extension_is_ended(vmport: Cli, broker: ScriptedBroker, asked: list[Any]) -> None:
    """By a port's id or the beginning of it."""
    broker.ports = {PORT: shown_port(PORT)}
    assert vmport("network", "end", str(PORT)[:8]) == ExitCode.OK
    assert asked == [EndExtension(port_id=PORT)]


def test_nothing_to_end_is_refused(vmport: Cli, broker: ScriptedBroker) -> None:
    """With the broker's reason."""
    failed = QueryFailed(code="no_extension", detail="port 1 has no extension to end")
    broker.on_command = lambda broker, envelope: broker.say(failed, cause=envelope)
    assert vmport("network", "end", str(PORT)) == ExitCode.REFUSED
    assert "has no extension to end" in vmport.err


def test_the_mode_reaches_the_request(vmport: Cli, broker: ScriptedBroker) -> None:
    """Of a port, of a quote and of a check; it is said before anything is asked for."""
    broker.on_command = answering(lambda port: (PortAccepted(port_id=port),))
    options = ("--network-mode", "extend")
    assert vmport("port", "create", "web", "--to", "beta", *options, "--no-wait") == ExitCode.OK
    assert broker.requested.limits.network_mode == "extend"
    assert "addresses kept by extend" in vmport.err

    offer = QUOTE.model_copy(update={"network": plan("extend", then_announce=True).terms})
    broker.on_command = answering(lambda port: (PortPlanned(port_id=port, quotes=(offer,), declined={}),))
    assert vmport("quote", "web", "--network-mode", "announce") == ExitCode.OK
    assert broker.requested.limits.network_mode == "announce"
    assert "extend, announce" in vmport.out
    assert vmport("vm", "check", "web") == ExitCode.OK
    assert broker.requested.limits.network_mode == "auto"
    assert vmport("quote", "web", "--network-mode", "magic") == ExitCode.USAGE


def test_the_agreement_says_how_addresses_are_kept(vmport: Cli, broker: ScriptedBroker) -> None:
    """In ``port show``, with the end and the price."""
    agreed = agreement_of(PORT).model_copy(update={"network": plan("extend", ends_after_s=2592000, price="5.00")})
    broker.ports = {PORT: shown_port(PORT, agreement=agreed)}
    assert vmport("port", "show", str(PORT)) == ExitCode.OK
    assert "extend: an extension of the donor's network; for 30 days after the port; 5.00 EUR" in vmport.out
