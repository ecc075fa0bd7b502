"""What a tenant expects to need: classes of VMs, how many of each in a month, how prices may change. Pure models."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from shared.messages.base import Price, Value
from shared.messages.catalogue import Currency, DiskGib, MemoryMib, Vcpus
from shared.parties import Name

MAX_CLASSES = 64
MAX_VALUES = 1000
MOST_VMS = 10_000
"""Of one class in one month."""
MAX_VMS = 1000
"""That a demand may name; each may have to move."""
LONGEST_HORIZON_MONTHS = 60
MOST_SCENARIOS = 10_000

Number = Annotated[int, Field(ge=0, le=MOST_VMS)]
ClassName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Fixed(Value):
    """Always the same number of VMs."""

    distribution: Literal["fixed"]
    vms: Number


class Normal(Value):
    """A normal distribution, rounded to whole VMs, and cut to `least` and `most`."""

    distribution: Literal["normal"]
    mean: Annotated[float, Field(ge=0, le=MOST_VMS)]
    variance: Annotated[float, Field(ge=0, le=MOST_VMS**2)]
    least: Number = 0
    most: Number = MOST_VMS

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least is {self.least}, more than most, {self.most}")
        return self


class Uniform(Value):
    """Each whole number from `least` to `most` is equally likely."""

    distribution: Literal["uniform"]
    least: Number
    most: Number

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least is {self.least}, more than most, {self.most}")
        return self


class Listed(Value):
    """These numbers; `weights` say how likely each is, all the same if there are none. For measured demand."""

    distribution: Literal["listed"]
    values: Annotated[tuple[Number, ...], Field(max_length=MAX_VALUES)]
    weights: Annotated[tuple[Annotated[float, Field(ge=0, le=1e9)], ...], Field(max_length=MAX_VALUES)] = ()

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        if not self.values:
            raise ValueError("values: there is none")
        if self.weights and len(self.weights) != len(self.values):
            raise ValueError(f"{len(self.weights)} weights for {len(self.values)} values")
        if self.weights and sum(self.weights) <= 0:
            raise ValueError("at least one weight must be more than 0")
        return self


VmsPerMonth = Annotated[Fixed | Normal | Uniform | Listed, Field(discriminator="distribution")]


class DemandClass(Value):
    """VMs of one size, and how many of them are needed in each month. Months are independent of each other."""

    name: ClassName
    vcpus: Vcpus
    memory_mib: MemoryMib
    disk_gib: DiskGib
    demand: VmsPerMonth
    vms: Annotated[tuple[UUID, ...], Field(max_length=MAX_VMS)] = Field(
        default=(), description="VMs of this class that run now; they cost something to move."
    )


class PriceStep(Value):
    """On-demand prices are multiplied by `factor` with this probability, in each month and at each provider."""

    factor: Annotated[Decimal, Field(ge=0, max_digits=8, decimal_places=4)]
    probability: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _is_a_price(self) -> Self:
        if self.factor <= 0:
            raise ValueError("factor: must be more than 0")
        return self


class PortingCost(Value):
    """What moving one VM costs the tenant, beside the price of where it goes."""

    per_vm: Price = Field(default=Decimal(0), description="Fees and the value of the downtime, for each VM.")
    per_gib: Price = Field(default=Decimal(0), description="For each GiB of memory and disk, such as for egress.")


class Demand(Value):
    """What to plan for."""

    horizon_months: Annotated[int, Field(ge=1, le=LONGEST_HORIZON_MONTHS)]
    classes: Annotated[tuple[DemandClass, ...], Field(max_length=MAX_CLASSES)]
    currency: Currency | None = Field(default=None, description="Offers in others are left out; null: of all offers.")
    providers: Annotated[tuple[Name, ...], Field(max_length=256)] = Field(
        default=(), description="Only these; empty: all."
    )
    prices: Annotated[tuple[PriceStep, ...], Field(max_length=16)] = (PriceStep(factor=Decimal(1), probability=1.0),)
    porting: PortingCost = PortingCost()
    risk: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="Weight of the mean of the worst scenarios against the mean of all; 0: only the latter counts.",
    )
    risk_level: Annotated[float, Field(ge=0.5, le=0.999)] = Field(
        default=0.95, description="Which scenarios are the worst: 0.95 is the dearest 5 %."
    )
    scenarios: Annotated[int, Field(ge=1, le=MOST_SCENARIOS)] = 1000
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.classes:
            raise ValueError("classes: there is none")
        names = [each.name for each in self.classes]
        if len(set(names)) != len(names):
            raise ValueError("classes: each name stands once")
        uuids = [uuid for each in self.classes for uuid in each.vms]
        if len(uuids) > MAX_VMS:
            raise ValueError(f"classes: {len(uuids)} VMs; at most {MAX_VMS} in all")
        if len(set(uuids)) != len(uuids):
            raise ValueError("classes: a VM belongs to one class, and stands there once")
        total = sum(step.probability for step in self.prices)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"prices: the probabilities add up to {total:g}, not to 1")
        return self
