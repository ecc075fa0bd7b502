"""The donor agent's settings: ``[donor]`` and ``[store]`` beside the sections that every service has. Pure values."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from services.donor_agent.leaving_terms import LeavingSection
from shared.config import Section, ServiceSettings
from shared.messages.base import Price
from shared.parties import Role
from shared.store import StoreSettings

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class DonorSection(Section):
    """How this provider lets VMs leave. Who may leave at all is in the policy file."""

    policy_file: Path = Field(
        description="The provider's policy (TOML); re-read when it changes.",
        examples=["/etc/vmport/donor-policy.toml"],
    )
    policy_check_s: Seconds = Field(default=2.0, description="How often the policy file is looked at.")
    node_silent_after_s: Seconds = Field(
        default=30.0, description="A node that was not heard for so long counts as unreachable."
    )
    describe_within_s: Seconds = Field(
        default=20.0, description="How long a node may take to read a live VM before the request is refused."
    )
    report_every_s: Seconds = Field(
        default=30.0, description="How often the inventory is reported to the broker; changes go at once."
    )
    quarantine_days: Annotated[float, Field(ge=0, le=3650)] = Field(
        default=14.0, description="Days for which the disks of a VM that left are kept before they are erased."
    )
    quarantine_s: Annotated[float, Field(ge=0, le=3650 * 86_400)] | None = Field(
        default=None, description="Instead of quarantine_days, in seconds; for tests and labs.", examples=[600.0]
    )
    erase_again_s: Seconds = Field(
        default=300.0, description="How long a node may take to say that it erased the disks before it is asked again."
    )
    keep_records_days: Annotated[float, Field(gt=0, le=3650)] = Field(
        default=90.0, description="Days for which records of ended ports are kept here."
    )

    @property
    def quarantine(self) -> timedelta:
        """How long disks are kept."""
        if self.quarantine_s is not None:
            return timedelta(seconds=self.quarantine_s)
        return timedelta(days=self.quarantine_days)


class NetworkSection(Section):
    """The provider's terms for VMs that left and keep addresses of its networks."""

    extension_s: Annotated[float, Field(gt=0, le=10**9)] = Field(
        default=30 * 86_400.0,
        description="How long after a port this provider helps to reach the VM at its old addresses (extension, "
        "translation), in seconds.",
    )
    extension_price: Price | None = Field(
        default=None,
        description="What it asks for that time; unset: nothing. The recipient adds it to its quote.",
        examples=["5.00"],
    )
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = Field(
        default="EUR", description="ISO 4217 code of that price. A recipient with another one cannot offer such help."
    )


class DonorSettings(ServiceSettings):
    """Everything that vmport-donor reads."""

    ROLES: ClassVar[frozenset[Role]] = frozenset({Role.DONOR})

    store: StoreSettings
    donor: DonorSection
    network: NetworkSection = Field(default=NetworkSection())
    leaving: LeavingSection = Field(default=LeavingSection())
