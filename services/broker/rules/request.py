"""The broker's rules for a request: facts of the registry in, refusals out. Pure.

Every broken rule is reported, not only the first, so that the tenant can correct the request at once. Rules that would
mean nothing after a broken one (there is no such VM) are skipped. What a provider demands (open dues, minimum stay,
capacity) is not checked here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from shared.messages import Refusal
from shared.messages.service_change import BEST, PortRequested
from shared.parties import Name


@dataclass(frozen=True, slots=True)
class KnownVm:
    """What the registry says about the VM."""

    uuid: UUID
    name: str
    provider: Name
    node: Name
    tenant: Name
    epoch: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What the ledger knows at the moment of the request."""

    vm: KnownVm | None
    providers: frozenset[Name]
    """Providers that this broker serves, silent ones included."""
    silent: frozenset[Name] = frozenset()
    """Providers that have not reported for too long; they are not asked when the tenant wants the best."""
    port_under_way: UUID | None = None
    """Another port of this VM that has not ended."""
    claimed_by: Name | None = None
    """A provider that reports this VM without owning it."""
    active_ports_of_tenant: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What the broker's operator allows."""

    max_active_ports_per_tenant: int = 50
    farthest_window: timedelta = timedelta(days=90)
    shortest_deadline: timedelta = timedelta(seconds=30)
    window_tolerance: timedelta = timedelta(seconds=60)
    """A window that started up to this long ago means "now": clocks differ and messages take time."""


def verify(request: PortRequested, tenant: Name, facts: Facts, limits: Limits, now: datetime) -> tuple[Refusal, ...]:
    """All reasons to refuse the request; empty if it is allowed."""
    return (
        *_vm(request, tenant, facts),
        *_recipient(request, facts),
        *_times(request, limits, now),
        *_quota(facts, limits),
    )


def candidates(request: PortRequested, facts: Facts) -> tuple[Name, ...]:
    """The providers to ask for a quote, in the order of their names."""
    if request.recipient != BEST:
        return (request.recipient,)
    return tuple(sorted(facts.providers - facts.silent - {request.donor}))


def _vm(request: PortRequested, tenant: Name, facts: Facts) -> Iterator[Refusal]:
    vm = facts.vm
    if vm is None:
        yield Refusal(
            code="vm_unknown",
            rule="the VM must be in the inventory of a provider that this broker serves",
            evidence=f"no provider has reported {request.vm_uuid}",
        )
        return
    if vm.tenant != tenant:
        # Another tenant must not learn who owns the VM or where it runs.
        yield Refusal(
            code="not_owner",
            rule="only the tenant that owns a VM may have it ported",
            evidence=f"{request.vm_uuid} does not belong to {tenant}",
        )
        return
    if vm.provider != request.donor:
        yield Refusal(
            code="wrong_donor",
            rule="the donor must be the provider that serves the VM now",
            evidence=f"{vm.name} is served by {vm.provider} (epoch {vm.epoch}), not by {request.donor}",
        )
    if facts.claimed_by is not None:
        yield Refusal(
            code="ownership_conflict",
            rule="no other provider may claim to run the VM",
            evidence=f"{facts.claimed_by} also reports {vm.name}; the broker's operator must resolve this first",
        )
    if facts.port_under_way is not None and not request.dry_run:
        yield Refusal(
            code="port_under_way",
            rule="a VM has at most one port under way",
            evidence=f"port {facts.port_under_way} of {vm.name} has not ended",
        )


def _recipient(request: PortRequested, facts: Facts) -> Iterator[Refusal]:
    if request.recipient == BEST:
        if not candidates(request, facts):
            yield Refusal(
                code="no_recipient",
                rule="at least one other provider must be available",
                evidence=f"no provider other than {request.donor} has reported recently",
            )
        return
    if request.recipient == request.donor:
        yield Refusal(
            code="same_provider",
            rule="donor and recipient must be different providers",
            evidence=f"both are {request.donor}",
        )
    elif request.recipient not in facts.providers:
        yield Refusal(
            code="recipient_unknown",
            rule="the recipient must be a provider that this broker serves",
            evidence=f"unknown provider {request.recipient!r}; known: {', '.join(sorted(facts.providers)) or 'none'}",
        )


def _times(request: PortRequested, limits: Limits, now: datetime) -> Iterator[Refusal]:
    start, deadline = request.limits.window_start, request.limits.deadline
    if start is not None and start < now - limits.window_tolerance:
        yield Refusal(
            code="window_in_past",
            rule="the window must start in the future; leave it out to start at once",
            evidence=f"it starts at {start.isoformat()}; the time is {now.isoformat()}",
        )
    if start is not None and start > now + limits.farthest_window:
        yield Refusal(
            code="window_too_far",
            rule=f"the window must start within {limits.farthest_window.days} days",
            evidence=f"it starts at {start.isoformat()}",
        )
    if deadline is not None and deadline < max(now, start or now) + limits.shortest_deadline:
        yield Refusal(
            code="deadline_too_short",
            rule=f"the deadline must be at least {limits.shortest_deadline.total_seconds():.0f} s after the start",
            evidence=f"the deadline is {deadline.isoformat()}; the start is {max(now, start or now).isoformat()}",
        )


def _quota(facts: Facts, limits: Limits) -> Iterator[Refusal]:
    if facts.active_ports_of_tenant >= limits.max_active_ports_per_tenant:
        yield Refusal(
            code="too_many_ports",
            rule=f"a tenant has at most {limits.max_active_ports_per_tenant} ports under way",
            evidence=f"{facts.active_ports_of_tenant} are under way",
        )
