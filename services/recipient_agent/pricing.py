"""What a VM costs here per month: the cheapest instance type that it fits. Pure.

Instance types are the provider's price list (settings). A VM keeps its own size; the type is what is billed.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.recipient_agent.capacity import GIB, MIB, disk_bytes
from shared.currencies import KnownCurrency
from shared.messages.base import Price, Refusal
from shared.messages.catalogue import MAX_RESERVATIONS, OfferedType, ReservationTerms, check_reservations
from shared.messages.costs import EnergyModel, EnergyTerms, JoiningTerms, Percent, UnitPrice
from shared.messages.vm import VmDescription

TypeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class InstanceType(BaseModel):
    """One line of the price list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: TypeName = Field(description="As it stands in quotes.", examples=["medium"])
    vcpus: Annotated[int, Field(ge=1, le=4096)] = Field(
        description="The most vCPUs of a VM of this type.", examples=[2]
    )
    memory_mib: Annotated[int, Field(ge=1, le=2**30)] = Field(description="The most memory, MiB.", examples=[4096])
    disk_gib: Annotated[int, Field(ge=0, le=2**30)] = Field(
        description="The most disk, all disks together, GiB.", examples=[80]
    )
    price_per_month: Price = Field(description="Price per month.", examples=["21.50"])
    currency: KnownCurrency = Field(default="EUR", description="ISO 4217 code.")
    reservations: Annotated[tuple[ReservationTerms, ...], Field(max_length=MAX_RESERVATIONS)] = Field(
        default=(),
        description="Contracts by which such a VM may be reserved: cheaper by the month, and paid for once more.",
        examples=[[{"months": 12, "upfront": "60.00", "price_per_month": "12.90"}]],
    )

    @model_validator(mode="after")
    def _reserved_is_cheaper(self) -> Self:
        check_reservations(self.price_per_month, self.reservations)
        return self

    def offered(self) -> OfferedType:
        """As the broker is told."""
        return OfferedType(
            name=self.name,
            vcpus=self.vcpus,
            memory_mib=self.memory_mib,
            disk_gib=self.disk_gib,
            price_per_month=self.price_per_month,
            currency=self.currency,
            reservations=self.reservations,
        )

    def fits(self, vm: VmDescription) -> bool:
        """Whether a VM is no larger than this type."""
        return (
            vm.vcpus <= self.vcpus
            and vm.memory_bytes <= self.memory_mib * MIB
            and disk_bytes(vm) <= self.disk_gib * GIB
        )


class Joining(BaseModel):
    """What this provider asks and gives beside the price, for a VM that comes; in the instance type's currency."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fee: Price = Field(default=Decimal(0), description="For each port.")
    credit_percent: Percent = Field(
        default=Decimal(0), description="Of a month's price: what is given back where a port's promise is not kept."
    )
    energy_price_per_kwh: UnitPrice | None = Field(
        default=None, description="What is charged for the port's energy; unset: nothing.", examples=["0.30"]
    )

    def terms(self, energy: EnergyModel | None) -> JoiningTerms | None:
        """For a VM that comes to a host with this energy model; None where there is nothing to say."""
        stated = EnergyTerms(model=energy, price_per_kwh=self.energy_price_per_kwh) if energy is not None else None
        if not self.fee and not self.credit_percent and stated is None:
            return None
        return JoiningTerms(fee=self.fee, credit_percent=self.credit_percent, energy=stated)


NO_JOINING = Joining()


def cheapest(vm: VmDescription, types: Iterable[InstanceType]) -> InstanceType | Refusal:
    """The cheapest type that the VM fits; by name where the price is the same. Currencies are not converted."""
    known = list(types)
    fitting = [each for each in known if each.fits(vm)]
    if fitting:
        return min(fitting, key=lambda each: (each.price_per_month, each.name))
    return Refusal(
        code="no_instance_type",
        rule=f"A VM must fit an instance type of this provider: {', '.join(each.name for each in known) or 'none'}.",
        evidence=f"{vm.vcpus} vCPUs, {vm.memory_bytes} bytes of memory, {disk_bytes(vm)} bytes of disk fit none",
    )
