"""``vmport rules``, ``--tell``, and the rules in ``port show``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.exit_codes import ExitCode
from shared.messages import AnyEnvelope, Refusal
from shared.messages.rule_facts import Charge, ChargeKind, RuleOutcome
from shared.messages.rules import CheckRules, ListRules, RulesChecked, RulesListed
from shared.messages.service_change import PortAccepted, PortPlanned, PortRefused, PortRequested
from tests.shared.client.test_rules_tables import APPLIED, RULE
from tests.support.scripted_broker import PORT, QUOTE, WEB, Cli, ScriptedBroker, shown_port

CHECKED = RulesChecked(vm_uuid=WEB.uuid, donor="alpha", recipient="beta", regimes=("eu-data-act",), rules=(APPLIED,))


CHARGE = Charge(kind=ChargeKind.EGRESS, amount="3.00", currency="EUR")


@pytest.fixture
def asked(broker: ScriptedBroker) -> list[Any]:
    """What the broker is asked; it knows one rule."""
    questions: list[Any] = []

    def answer(broker: ScriptedBroker, envelope: AnyEnvelope) -> None:
        questions.append(envelope.data)
        match envelope.data:
            case ListRules(code=code, regime=regime):
                known = code in {None, RULE.code} and regime in {None, RULE.regime}
                broker.say(RulesListed(rules=(RULE,) if known else ()), cause=envelope)
            case CheckRules():
                broker.say(CHECKED, cause=envelope)

    broker.on_command = answer
    return questions


def test_list(vmport: Cli, asked: list[Any]) -> None:
    """As a table and as JSON."""
    assert vmport("rules", "list", "--regime", "eu-data-act") == ExitCode.OK
    assert "Art. 25(2)(g)" in vmport.out
    assert asked == [ListRules(regime="eu-data-act")]
    assert vmport("rules", "list", "--format", "json") == ExitCode.OK
    [rule] = json.loads(vmport.out)
    assert (rule["rule"], rule["enforced"]) == ("retrieval", True)


def test_explain(vmport: Cli, asked: list[Any]) -> None:
    """A code that a refusal has."""
    assert vmport("rules", "explain", "retrieval_period") == ExitCode.OK
    assert "at least 30 days" in vmport.out
    assert asked == [ListRules(code="retrieval_period")]


@pytest.mark.parametrize("arguments", [("explain", "no_such_code"), ("list", "--regime", "moon")])
@pytest.mark.usefixtures("asked")
def test_what_is_not_known(vmport: Cli, arguments: tuple[str, ...]) -> None:
    """Exit code 6."""
    assert vmport("rules", *arguments) == ExitCode.NOT_FOUND


def test_check(vmport: Cli, asked: list[Any]) -> None:
    """What the donor demands is void, so the port is not refused."""
    code = vmport("rules", "check", "web", "--to", "beta")
    assert (code, asked[-1]) == (ExitCode.OK, CheckRules(vm_uuid=WEB.uuid, recipient="beta"))
    assert "Art. 25(2)(d)" in vmport.out


@pytest.mark.usefixtures("asked")
def test_check_that_refuses(vmport: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3."""
    refused = APPLIED.model_copy(update={"outcome": RuleOutcome.REFUSED})
    monkeypatch.setitem(globals(), "CHECKED", CHECKED.model_copy(update={"rules": (refused,)}))
    assert vmport("rules", "check", "web") == ExitCode.REFUSED


def test_a_refusal_shows_its_clause(vmport: Cli, broker: ScriptedBroker) -> None:
    """And the evidence."""
    refusal = Refusal(code="minimum_stay", rule="90 days", evidence="since 2026-01-01", clause="in-trai-mnp, (b)")

    def answer(broker: ScriptedBroker, envelope: AnyEnvelope) -> None:
        assert isinstance(envelope.data, PortRequested)
        refused = PortRefused(port_id=envelope.data.port_id, refused_by="broker", refusals=(refusal,))
        broker.say(refused, cause=envelope)

    broker.on_command = answer
    assert vmport("port", "create", "web", "--to", "beta", "--no-wait") == ExitCode.REFUSED
    assert "in-trai-mnp, (b)" in vmport.out + vmport.err
    assert "since 2026-01-01" in vmport.out + vmport.err


def test_tell(vmport: Cli, broker: ScriptedBroker) -> None:
    """What a donor demands goes with the request, also with that for a quote."""
    told: list[dict[str, str]] = []

    def answer(broker: ScriptedBroker, envelope: AnyEnvelope) -> None:
        assert isinstance(envelope.data, PortRequested)
        told.append(envelope.data.told)
        port_id = envelope.data.port_id
        planned = PortPlanned(port_id=port_id, quotes=(QUOTE,), declined={}, charges=(CHARGE,))
        broker.say(planned if envelope.data.dry_run else PortAccepted(port_id=port_id), cause=envelope)

    broker.on_command = answer
    tell = ("--tell", "account_number=4711", "--tell", "zip_code=12345")
    assert vmport("quote", "web", *tell) == ExitCode.OK
    assert "egress 3.00 EUR" in vmport.out
    assert vmport("port", "create", "web", "--to", "beta", "--no-wait", *tell) == ExitCode.OK
    assert told == [{"account_number": "4711", "zip_code": "12345"}] * 2


@pytest.mark.parametrize("bad", ["account_number", "account_number=", "Account=1", "=1"])
def test_bad_tell(vmport: Cli, bad: str) -> None:
    """A field and a value."""
    assert vmport("quote", "web", "--tell", bad) == ExitCode.USAGE
    assert "--tell" in vmport.err


def test_port_show_has_the_rules(vmport: Cli, broker: ScriptedBroker) -> None:
    """Each that was applied."""
    broker.ports[PORT] = shown_port(PORT, rules=(APPLIED,), charges=(CHARGE,))
    assert vmport("port", "show", str(PORT)) == ExitCode.OK
    assert "rules that were applied" in vmport.out
    assert "Art. 25(2)(d)" in vmport.out
    assert "egress 3.00 EUR" in vmport.out
