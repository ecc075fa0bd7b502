"""The rules of a port between parties of given regions, by the regimes that ship."""

from __future__ import annotations

from services.broker.rules.book import RuleBook
from services.broker.rules.regime_files import load
from services.broker.saga import PortRules
from tests.support.broker_samples import NOW, VM

REGIMES = load()


def rules(*, tenant: str = "default", donor: str = "default", recipient: str = "default") -> PortRules:
    """Of acme's port from alpha to beta."""
    book = RuleBook(REGIMES, {"acme": tenant}, {"alpha": donor, "beta": recipient})
    facts = book.facts(vm_uuid=VM, tenant="acme", donor="alpha", recipient="beta", requested_at=NOW)
    return book.for_port(facts, ("beta",))
