"""What a provider sells: instance types, their prices on demand and reserved, and the most that one tenant may have.

Pure models. A reserved VM costs something once, and less per month; on demand it costs more per month and nothing else.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from shared.messages.base import Price, Value

MAX_TYPES = 256
MAX_RESERVATIONS = 8
LONGEST_RESERVATION_MONTHS = 120

TypeName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217 code.")]
Months = Annotated[int, Field(ge=1, le=LONGEST_RESERVATION_MONTHS)]
Vcpus = Annotated[int, Field(ge=1, le=4096)]
MemoryMib = Annotated[int, Field(ge=1, le=2**30)]
DiskGib = Annotated[int, Field(ge=0, le=2**30)]
Limit = Annotated[int, Field(ge=0, le=2**30, description="0: no limit.")]


class ReservationTerms(Value):
    """One contract by which a VM of a type can be reserved."""

    months: Months = Field(description="How long the reservation lasts, months.", examples=[12])
    upfront: Price = Field(description="Paid once for each reserved VM, at its beginning.", examples=["227.50"])
    price_per_month: Price = Field(description="Paid for each month in which the VM runs.", examples=["21.90"])


class OfferedType(Value):
    """One line of a provider's price list."""

    name: TypeName
    vcpus: Vcpus
    memory_mib: MemoryMib
    disk_gib: DiskGib
    price_per_month: Price = Field(description="On demand.")
    currency: Currency
    reservations: Annotated[tuple[ReservationTerms, ...], Field(max_length=MAX_RESERVATIONS)] = ()

    @model_validator(mode="after")
    def _reserved_is_cheaper(self) -> Self:
        check_reservations(self.price_per_month, self.reservations)
        return self


def check_reservations(on_demand: Price, reservations: tuple[ReservationTerms, ...]) -> None:
    """Raise ValueError unless each length stands once and a reserved month costs less than one on demand."""
    months = [terms.months for terms in reservations]
    if len(set(months)) != len(months):
        raise ValueError("reservations: each number of months stands once")
    for terms in reservations:
        if terms.price_per_month >= on_demand:
            raise ValueError(
                f"reservations: {terms.months} months: price_per_month {terms.price_per_month} must be less than the "
                f"price on demand, {on_demand}"
            )


class TenantLimits(Value):
    """The most that one tenant may have at this provider; 0 is no limit."""

    vms: Limit = 0
    vcpus: Limit = 0
    memory_mib: Limit = 0
    disk_gib: Limit = 0


class Catalogue(Value):
    """A provider's price list and limits."""

    types: Annotated[tuple[OfferedType, ...], Field(max_length=MAX_TYPES)]
    per_tenant: TenantLimits = TenantLimits()
