"""What a port carries of the rules that bind it; part of its saved state. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field

from services.broker.saga.saved import Saved
from shared.messages.base import Text, Timestamp
from shared.messages.rule_facts import AppliedRules, Charge, RuleOutcome
from shared.parties import Name
from shared.rules.facts import PortFacts, Region
from shared.rules.regime import Regime

SECOND = timedelta(seconds=1)


class PortRules(Saved):
    """The regimes that may bind a port, as they were when it began; its facts; and what came of them."""

    regimes: tuple[Regime, ...] = ()
    regions: dict[Name, Region] = Field(default_factory=dict, description="Of the candidates.")
    facts: PortFacts | None = None
    applied: AppliedRules = ()
    charges: tuple[Charge, ...] = ()
    void: tuple[Annotated[Text, Field(max_length=128)], ...] = Field(
        default=(), description="Codes of refusals that the donor must not use."
    )
    told: tuple[Text, ...] = Field(default=(), description="Broken rules that the donor was told of.")
    keep_until: Timestamp | None = None

    @property
    def due_at(self) -> datetime | None:
        """When the next duty is looked at: a second after its time, when it can be late."""
        times = [each.due_at for each in self.applied if each.outcome is RuleOutcome.DUE and each.due_at is not None]
        return min(times) + SECOND if times else None


NO_RULES = PortRules()
