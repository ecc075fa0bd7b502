"""The facts of a port and their hash."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.messages.rule_facts import DonorFacts
from tests.support.rule_boundaries import ASKED, port_facts


def test_hash_is_of_every_fact() -> None:
    """The same facts have the same hash, and any other fact another one."""
    assert port_facts().sha256 == port_facts().sha256
    others = [
        port_facts(approved_at=ASKED),
        port_facts(DonorFacts(notice_days=1)),
        port_facts(tenant_region="EU"),
        port_facts(refused_on=("dues_open",)),
    ]
    assert len({port_facts().sha256, *(facts.sha256 for facts in others)}) == len(others) + 1


def test_what_is_known_is_checked() -> None:
    """A region that is none is refused also when it becomes known later."""
    with pytest.raises(ValidationError):
        port_facts().known(recipient_region="somewhere")
