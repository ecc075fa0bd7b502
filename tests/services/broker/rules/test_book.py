"""Regimes and regions: what a port carries with it."""

from __future__ import annotations

from services.broker.rules.book import NO_BOOK, RuleBook
from services.broker.rules.regime_files import load
from services.broker.saga import PortRules
from shared.rules.facts import PortFacts
from tests.support.broker_samples import NOW, VM

BOOK = RuleBook(load(), {"acme": "EU-DE"}, {"alpha": "UK", "beta": "IN"})


def facts(tenant: str = "acme", donor: str = "alpha", recipient: str | None = None) -> PortFacts:
    return BOOK.facts(vm_uuid=VM, tenant=tenant, donor=donor, recipient=recipient, requested_at=NOW)


def names(rules: PortRules) -> list[str]:
    return [regime.name for regime in rules.regimes]


def test_regions_of_all_parties() -> None:
    """Who is not named is in none."""
    known = facts(recipient="beta")
    assert (known.tenant_region, known.donor_region, known.recipient_region) == ("EU-DE", "UK", "IN")
    assert facts("globex").tenant_region == "default"
    assert facts().recipient_region is None


def test_a_port_carries_the_regimes_that_may_bind_it() -> None:
    """And the fallback, for facts that no other one binds."""
    assert names(BOOK.for_port(facts(), ("beta", "gamma"))) == ["default", "eu-data-act", "uk-ofcom-c7"]
    assert names(BOOK.for_port(facts("globex", "gamma"), ("alpha",))) == ["default"]
    assert BOOK.for_port(facts(), ("beta", "gamma")).regions == {"beta": "IN", "gamma": "default"}


def test_rules_that_have_ended_stay_behind() -> None:
    """They cannot bind a port that begins now."""
    later = facts().known(requested_at=NOW.replace(year=2028))
    [eu] = [regime for regime in BOOK.for_port(later, ()).regimes if regime.name == "eu-data-act"]
    held = {rule.id for rule in eu.rules}
    assert "charge_ban" in held
    assert "charge_cap" not in held


def test_no_book() -> None:
    """A broker in tests that applies nothing."""
    assert names(NO_BOOK.for_port(facts(), ())) == []
