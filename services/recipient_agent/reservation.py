"""A reservation as a value: what is held for one port, how long, and what may happen to it next. Pure.

    held ──PortingFixed──▶ fixed ──OpenInbound──▶ open ──InboundFinished──▶ here ──VmProvisioned──▶ provisioned
      └── expiry ──┐         └── end of the port, or long after its deadline if no node knows of it ──┐
                   ▼                                                                                  ▼
                released ◀──────────────── ReleaseReservation, PortFailed, PortCancelled ◀────────────┘

Every step is idempotent: what has happened already changes nothing. A VM that is here is never released by a clock.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from services.recipient_agent.capacity import Held, disk_bytes
from services.recipient_agent.huge_pages import wanted_pages
from services.recipient_agent.network_terms import addresses_of
from shared.messages.base import Refusal
from shared.messages.lanes import LaneEndpoint
from shared.messages.network import NetworkPlan
from shared.messages.porting import ReservedDisk, ServiceChangeAgreement
from shared.messages.service_change import Quote
from shared.messages.vm import VmDescription


class Phase(StrEnum):
    """How far a reservation is."""

    HELD = "held"
    FIXED = "fixed"
    OPEN = "open"
    HERE = "here"
    PROVISIONED = "provisioned"
    RELEASED = "released"


HOLDS_CAPACITY = frozenset({Phase.HELD, Phase.FIXED, Phase.OPEN, Phase.HERE})
"""Phases in which room is kept free for the VM, since no heartbeat need count it yet."""

ON_NODE = frozenset({Phase.OPEN, Phase.HERE, Phase.PROVISIONED})
"""Phases in which the node has been told of the port."""


class Reservation(BaseModel):
    """What is held for one port."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port_id: UUID
    tenant: str
    node: str
    lane: LaneEndpoint
    phase: Phase
    until: datetime
    """When a clock may release it; meaningless once the VM is here."""
    vm: VmDescription
    donor_xml: str
    donor_xml_sha256: str
    lasting_xml: str | None = None
    """The lasting definition as it is to be at the node; None for a transient VM."""
    domain_xml: str
    disks: tuple[ReservedDisk, ...]
    network: NetworkPlan | None = None
    quote: Quote
    updated_at: datetime
    reason: str = ""
    """Why it was released."""

    @property
    def holds_capacity(self) -> bool:
        """Whether room is kept free for it."""
        return self.phase in HOLDS_CAPACITY

    def as_held(self) -> Held:
        """What capacity and collisions see."""
        return Held(
            port_id=self.port_id,
            tenant=self.tenant,
            node=self.node,
            vm_uuid=self.vm.uuid,
            vm_name=self.vm.name,
            macs=tuple(nic.mac for nic in self.vm.nics),
            vcpus=self.vm.vcpus,
            memory_bytes=self.vm.memory_bytes,
            disk_bytes=disk_bytes(self.vm),
            huge_pages=wanted_pages(self.vm),
            addresses=addresses_of(self.vm),
            care_of=tuple(pair.real for card in self.network.cards for pair in card.care_of) if self.network else (),
            reserved=self.holds_capacity,
        )

    def fixed(self, agreement: ServiceChangeAgreement, now: datetime, *, after_deadline_s: float) -> Self:
        """The porting is fixed: no short clock any more."""
        if self.phase is not Phase.HELD:
            return self
        until = agreement.deadline + timedelta(seconds=after_deadline_s)
        return self.model_copy(update={"phase": Phase.FIXED, "until": until, "updated_at": now})

    def opened(self, now: datetime) -> Self:
        """The node has been told to open."""
        if self.phase is not Phase.FIXED:
            return self
        return self.model_copy(update={"phase": Phase.OPEN, "updated_at": now})

    def arrived(self, now: datetime) -> Self:
        """The guest runs here."""
        if self.phase is not Phase.OPEN:
            return self
        return self.model_copy(update={"phase": Phase.HERE, "updated_at": now})

    def provisioned(self, now: datetime) -> Self:
        """The VM is here for good; heartbeats count it from now on."""
        if self.phase not in {Phase.OPEN, Phase.HERE}:
            return self
        return self.model_copy(update={"phase": Phase.PROVISIONED, "updated_at": now})

    def released(self, reason: str, now: datetime) -> Self:
        """The port does not come, or has failed. A VM that is here for good stays."""
        if self.phase in {Phase.PROVISIONED, Phase.RELEASED}:
            return self
        return self.model_copy(update={"phase": Phase.RELEASED, "reason": reason, "updated_at": now})

    def on_clock(self, now: datetime, *, node_knows_it: bool, after_deadline_s: float) -> Self:
        """Its time is over: release it, unless a node still has the VM or a transfer of the port; then keep it."""
        if self.phase not in HOLDS_CAPACITY or now < self.until:
            return self
        if self.phase is Phase.HERE or (self.phase is not Phase.HELD and node_knows_it):
            later = now + timedelta(seconds=after_deadline_s)
            return self.model_copy(update={"until": later, "updated_at": now})
        return self.released("expired", now)


def agreement_refusals(
    reservation: Reservation, agreement: ServiceChangeAgreement, *, provider: str
) -> tuple[Refusal, ...]:
    """Where an agreement is not what was reserved; empty when it is."""
    issued = sha256(reservation.domain_xml.encode()).hexdigest()
    expected: dict[str, tuple[object, object]] = {
        "port_id": (reservation.port_id, agreement.port_id),
        "tenant": (reservation.tenant, agreement.tenant),
        "vm_uuid": (reservation.vm.uuid, agreement.vm_uuid),
        "vm_name": (reservation.vm.name, agreement.vm_name),
        "recipient": (provider, agreement.recipient),
        "recipient_node": (reservation.node, agreement.recipient_node),
        "recipient_lane": (reservation.lane, agreement.recipient_lane),
        "domain_xml_sha256": (issued, agreement.domain_xml_sha256),
        "domain_xml": (issued, sha256(agreement.domain_xml.encode()).hexdigest()),
        "disks": (reservation.disks, agreement.disks),
        "network": (reservation.network, agreement.network),
        "price_per_month": (reservation.quote.price_per_month, agreement.price_per_month),
        "currency": (reservation.quote.currency, agreement.currency),
    }
    return tuple(
        Refusal(
            code="agreement_differs",
            rule="The recipient opens only for what it reserved: same VM, tenant, node, XML, disks, network and price.",
            evidence=f"{name}: reserved {mine}, agreement says {theirs}",
        )
        for name, (mine, theirs) in expected.items()
        if mine != theirs
    )
