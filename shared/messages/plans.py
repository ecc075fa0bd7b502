"""The tenant's conversation with the broker about many VMs: a plan asked for, shown, carried out as one group of ports,
cancelled. Pure models.

A plan is made from an expected demand, or from the tenant's own list of moves. Its result are assignments of VMs to
providers and advice on what to reserve; carried out, each move is a port with an agreement of its own.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator

from shared.messages.base import Count, Price, Text, Timestamp, Value
from shared.messages.catalogue import Currency, Months
from shared.messages.demand import MOST_VMS, ClassName, Demand
from shared.messages.queries import Answer, Question
from shared.messages.service_change import PortLimits
from shared.parties import Name, Role

MAX_MOVES = 1000
MAX_AT_ONCE = 64

AtOnce = Annotated[int, Field(ge=1, le=MAX_AT_ONCE)]
OnFailure = Literal["stop", "go_on"]


class PlanState(StrEnum):
    """Where a plan is. The last four, and `unsolvable`, are ends; `stopped` and `cancelled` may be applied again."""

    SOLVING = "solving"
    UNSOLVABLE = "unsolvable"
    READY = "ready"
    APPLYING = "applying"
    STOPPING = "stopping"
    """A port has failed: nothing more begins, what is under way goes on."""
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    PARTLY = "partly"
    """All ports have ended, not all completed."""
    STOPPED = "stopped"
    CANCELLED = "cancelled"


PLAN_ENDS = frozenset(
    {PlanState.UNSOLVABLE, PlanState.COMPLETED, PlanState.PARTLY, PlanState.STOPPED, PlanState.CANCELLED}
)


class MoveState(StrEnum):
    """How far one VM of a plan is."""

    WAITING = "waiting"
    UNDER_WAY = "under_way"
    COMPLETED = "completed"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LEFT = "left"
    """Not begun, because the plan was stopped or cancelled."""


class Move(Value):
    """One VM is to go to this provider."""

    vm_uuid: UUID
    recipient: Name


class CreatePlan(Question):
    """Make a plan: from a demand, or from these moves. ``plan_id`` is the tenant's choice; asked again is harmless.

    Answered with a `PlanShown` at once; a plan for a demand is then still `solving`.
    """

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    plan_id: UUID
    name: Annotated[Text, Field(max_length=200)] = ""
    demand: Demand | None = None
    moves: Annotated[tuple[Move, ...], Field(max_length=MAX_MOVES)] = ()

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.demand is None) == (not self.moves):
            raise ValueError("give a demand or moves")
        uuids = [move.vm_uuid for move in self.moves]
        if len(set(uuids)) != len(uuids):
            raise ValueError("moves: each VM stands once")
        return self


class ApplyPlan(Question):
    """Carry a plan out: file its ports, at most `at_once` at a time. Of one that was stopped or cancelled, what is
    left.
    """

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    plan_id: UUID
    at_once: AtOnce = 1
    on_failure: OnFailure = "stop"
    limits: PortLimits = PortLimits()


class CancelPlan(Question):
    """File no more of a plan's ports, and cancel those that are under way. One past its switchover completes."""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    plan_id: UUID
    reason: Text = "the plan was cancelled by tenant"


class ShowPlan(Question):
    """All about one plan."""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    plan_id: UUID


class ListPlans(Question):
    """Which plans of mine are there? The newest first."""

    SENDERS: ClassVar = frozenset({Role.TENANT})
    RECEIVERS: ClassVar = frozenset({Role.BROKER})

    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class PlanSummary(Value):
    """A plan in a list."""

    plan_id: UUID
    name: Text
    state: PlanState
    moves: Count
    completed: Count = 0
    not_completed: Count = Field(default=0, description="Refused, failed or cancelled.")
    created_at: Timestamp
    updated_at: Timestamp


class MoveStatus(Value):
    """One VM of a plan."""

    vm_uuid: UUID
    vm_name: Text
    donor: Name
    recipient: Name
    state: MoveState
    port_id: UUID | None = Field(default=None, description="Its newest port; null before it is filed.")
    detail: Text = ""


class ReservationAdvice(Value):
    """Reserve so many VMs of a class at a provider."""

    class_name: ClassName
    provider: Name
    instance_type: Text
    from_month: Months = Field(description="1 is the first month of the horizon.")
    months: Months
    vms: Count
    upfront_each: Price
    price_per_month: Price


class ExpectedUse(Value):
    """How many VMs of a class run at a provider, in the mean over all months and scenarios."""

    class_name: ClassName
    provider: Name
    reserved: float = Field(ge=0, le=MOST_VMS)
    on_demand: float = Field(ge=0, le=MOST_VMS)


class LeftOut(Value):
    """Why a provider was not considered for a class."""

    class_name: ClassName
    provider: Name
    reason: Text


class PlanCosts(Value):
    """Expected costs over the horizon, in the plan's currency."""

    total: Price
    reservations: Price = Field(description="Paid at the reservations' beginning.")
    reserved_use: Price = Field(description="For the months in which reserved VMs run.")
    on_demand: Price
    porting: Price


class PlanFigures(Value):
    """How good the plan is, by the same scenarios for all of them."""

    method: Text = Field(description="How it was solved.")
    scenarios: Count
    iterations: Count
    lower_bound: Price = Field(description="No plan costs less in the scenarios.")
    gap: float = Field(ge=0, le=1e12, description="(total - lower_bound) / lower_bound, of what is minimised.")
    sample_low: Price = Field(description="Of the best possible mean cost, by independent samples, 95 % sure.")
    sample_high: Price = Field(description="Of this plan's mean cost, by new scenarios, 95 % sure.")
    worst: Price = Field(description="Mean cost of the worst scenarios, as the risk level has them.")
    mean_value: Price = Field(description="Cost of a plan that is made for the mean demand and prices (EVU).")
    most_reserved: Price = Field(description="Cost of reserving for the highest demand (MaxRes).")
    none_reserved: Price = Field(description="Cost of reserving nothing (NoRes).")
    vss: Price = Field(description="Value of the stochastic solution: what planning for the mean would cost more.")
    evpi: Price = Field(description="Expected value of perfect information: the most that a forecast is worth.")
    evpi_scenarios: Count = Field(description="By so many of the scenarios.")


class PlanResult(Value):
    """What was found for a demand."""

    currency: Currency
    costs: PlanCosts
    figures: PlanFigures
    reservations: tuple[ReservationAdvice, ...] = ()
    use: tuple[ExpectedUse, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


class PlanShown(Answer):
    """A plan: what was asked, what was found, and how far its ports are."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    summary: PlanSummary
    demand: Demand | None = None
    result: PlanResult | None = None
    failure: Text | None = Field(default=None, description="Why there is no result, or why the group was stopped.")
    at_once: AtOnce | None = Field(default=None, description="Null: not applied yet.")
    on_failure: OnFailure | None = None
    moves: Annotated[tuple[MoveStatus, ...], Field(max_length=MAX_MOVES)] = ()


class PlansListed(Answer):
    """The tenant's plans."""

    SENDERS: ClassVar = frozenset({Role.BROKER})
    RECEIVERS: ClassVar = frozenset({Role.TENANT})

    plans: tuple[PlanSummary, ...]
