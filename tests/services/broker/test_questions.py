"""What a tenant asks about rules, over the bus."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from services.broker.rules.book import RuleBook
from services.broker.rules.regime_files import load
from services.donor_agent.inspection import details_of
from shared.messages import AnyEnvelope, Message
from shared.messages.approval import ApprovalRequested, DonorApproved, DonorRejected, InspectVm, VmInspected
from shared.messages.queries import PortShown, QueryFailed, ShowPort
from shared.messages.rule_facts import DonorFacts, RuleOutcome
from shared.messages.rules import CheckRules, DemandRefused, ListRules, RulesChecked, RulesListed
from shared.messages.service_change import PortPhase
from shared.parties import Party
from tests.support.broker_samples import ACME, ALPHA, NOW, PORT, VM, description, identity, refusal, request
from tests.support.broker_world import World

BOOK = RuleBook(load(), {"acme": "EU-DE"}, {"alpha": "EU-FR"})
LONG_STAY = DonorFacts(contract_start=NOW.date(), minimum_stay_days=400)


def world(folder: Path) -> World:
    return World(f"sqlite:///{folder}/ledger.db", book=BOOK)


async def test_rules_are_listed(tmp_path: Path) -> None:
    """Also by their code."""
    async with world(tmp_path) as running:
        await running.say(ACME, ListRules(code="retrieval_period"))
        answer = (await running.until_told(ACME, RulesListed)).data
        assert isinstance(answer, RulesListed)
        assert [rule.clause for rule in answer.rules] == ["Art. 25(2)(g)"]


async def test_rules_are_checked_with_what_the_provider_states(tmp_path: Path) -> None:
    """Nothing moves."""

    def part(envelope: AnyEnvelope) -> list[tuple[Party, Message]]:
        assert isinstance(envelope.data, InspectVm)
        answer = VmInspected(
            inquiry_id=envelope.data.inquiry_id,
            tenant="acme",
            vm=details_of(description()),
            refusals=(refusal("minimum_stay"),),
            facts=LONG_STAY,
        )
        return [(ALPHA, answer)]

    async with world(tmp_path) as running:
        running.parts[ALPHA, InspectVm] = part
        await running.say(ACME, CheckRules(vm_uuid=VM, recipient="beta"))
        answer = (await running.until_told(ACME, RulesChecked)).data
        assert isinstance(answer, RulesChecked)
        found = {rule.rule: rule.outcome for rule in answer.rules}
        assert answer.regimes == ("eu-data-act",)
        assert (found["notice"], found["charge_cap"]) == (RuleOutcome.UNLAWFUL, RuleOutcome.MET)
        await running.say(ACME, CheckRules(vm_uuid=PORT))
        assert (await running.until_told(ACME, QueryFailed)).data == QueryFailed(
            code="not_found", detail=f"there is no VM {PORT} of yours"
        )


async def test_an_unlawful_refusal_does_not_stop_the_port(tmp_path: Path) -> None:
    """The donor is told the clause and asked again; the record has the rule, and the counter counts it."""

    def part(envelope: AnyEnvelope) -> list[tuple[Party, Message]]:
        assert isinstance(envelope.data, ApprovalRequested)
        if "minimum_stay" not in envelope.data.void:
            return [(ALPHA, DonorRejected(port_id=PORT, refusals=(refusal("minimum_stay"),), facts=LONG_STAY))]
        return [(ALPHA, DonorApproved(port_id=PORT, identity=identity(), facts=LONG_STAY))]

    async with world(tmp_path) as running:
        running.parts[ALPHA, ApprovalRequested] = part
        await running.say(ACME, request())
        told = (await running.until_told(ALPHA, DemandRefused)).data
        assert isinstance(told, DemandRefused)
        assert told.refusals[0].clause == "eu-data-act, Art. 25(2)(d)"
        await running.until_phase(PortPhase.COMPLETED)
        await running.say(ACME, ShowPort(port_id=PORT))
        shown = (await running.until_told(ACME, PortShown)).data
        assert isinstance(shown, PortShown)
        assert "unlawful:notice" in [event.type for event in shown.events]
        [notice] = [rule for rule in shown.rules if rule.rule == "notice"]
        assert (notice.outcome, len(notice.facts_sha256)) == (RuleOutcome.UNLAWFUL, 64)
        counted = running.metrics.rules_broken_total.labels("unlawful", "eu-data-act", "notice")
        assert counted._value.get() == 1


async def test_a_duty_outlives_the_port_and_the_process(tmp_path: Path) -> None:
    """Disks that are not erased when the time for it is over call an operator, after a restart, too."""
    async with world(tmp_path) as running:
        await running.say(ACME, request())
        await running.until_phase(PortPhase.COMPLETED)
        await running.restart()
        await running.clock.advance(timedelta(days=30, seconds=1).total_seconds())
        await running.service.timers.run_due()
        await running.clock.advance(timedelta(days=30, seconds=1).total_seconds())
        await running.service.timers.run_due()
        counted = running.metrics.rules_broken_total.labels("overdue", "eu-data-act", "erasure")
        assert counted._value.get() == 1
