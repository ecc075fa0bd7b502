"""The regimes that this broker applies, and where its parties are. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from services.broker.saga.port_rules import PortRules
from shared.parties import Name
from shared.rules.evaluate import FALLBACK
from shared.rules.facts import DEFAULT, PortFacts
from shared.rules.regime import Regime


@dataclass(frozen=True, slots=True)
class RuleBook:
    """All regimes, and the region of each tenant and provider that the operator has named."""

    regimes: tuple[Regime, ...] = ()
    tenants: Mapping[Name, str] = field(default_factory=dict)
    providers: Mapping[Name, str] = field(default_factory=dict)

    def facts(
        self,
        *,
        vm_uuid: UUID,
        tenant: Name,
        donor: Name,
        recipient: Name | None,
        requested_at: datetime,
        wanted_start: datetime | None = None,
    ) -> PortFacts:
        """What is known of a port at its request."""
        return PortFacts(
            vm_uuid=vm_uuid,
            tenant=tenant,
            donor=donor,
            recipient=recipient,
            tenant_region=self.tenants.get(tenant, DEFAULT),
            donor_region=self.providers.get(donor, DEFAULT),
            recipient_region=None if recipient is None else self.providers.get(recipient, DEFAULT),
            requested_at=requested_at,
            wanted_start=wanted_start,
        )

    def for_port(self, facts: PortFacts, candidates: tuple[Name, ...]) -> PortRules:
        """What a port carries with it: the regimes that may bind it, whichever candidate becomes its recipient.

        Changes to the regimes bind later ports only.
        """
        regions = {name: self.providers.get(name, DEFAULT) for name in candidates}
        may_be = [facts.known(recipient_region=region) for region in (facts.recipient_region, *regions.values())]
        day = facts.requested_at.date()
        regimes = tuple(
            Regime.model_validate({**dict(each), "rules": rules})
            for each in self.regimes
            if each.name == FALLBACK or any(each.binds(known) for known in may_be)
            if (rules := tuple(rule for rule in each.rules if rule.valid_to is None or rule.valid_to >= day))
        )
        return PortRules(regimes=regimes, regions=regions, facts=facts)


NO_BOOK = RuleBook()
