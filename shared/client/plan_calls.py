"""The SDK's calls about plans for many VMs. `TenantClient` has them; the messages are in `shared.messages.plans`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from typing import TypeVar
from uuid import UUID

from shared.client.errors import NoAnswer
from shared.messages.plans import (
    PLAN_ENDS,
    ApplyPlan,
    CancelPlan,
    CreatePlan,
    ListPlans,
    OnFailure,
    PlanShown,
    PlansListed,
    PlanState,
    PlanSummary,
    ShowPlan,
)
from shared.messages.queries import Answer, Question
from shared.messages.service_change import PortLimits

A = TypeVar("A", bound=Answer)

SOLVING_S = 120.0
"""The broker ends a search before."""
POLL_S = 0.3
WATCH_S = 1.0
GIVE_UP_S = 180.0


class PlanCalls(ABC):
    """Calls that need only questions and answers. All raise what `ask` raises."""

    @abstractmethod
    async def ask(self, question: Question, expected: type[A], *, timeout_s: float | None = None) -> A:
        """Ask the broker."""

    async def create_plan(self, request: CreatePlan, *, timeout_s: float = SOLVING_S) -> PlanShown:
        """Have a plan made; returns when it is ready, or `unsolvable`. Raises `NoAnswer` where that takes too long."""
        shown = await self.ask(request, PlanShown)
        waited_s = 0.0
        while shown.summary.state is PlanState.SOLVING:
            if waited_s >= timeout_s:
                advice = f"the broker goes on; 'vmport plan show {request.plan_id}' tells"
                raise NoAnswer("with a plan", timeout_s, advice=advice)
            await asyncio.sleep(POLL_S)
            waited_s += POLL_S
            shown = await self.plan_of(request.plan_id)
        return shown

    async def plan_of(self, plan_id: UUID) -> PlanShown:
        """All about one plan."""
        return await self.ask(ShowPlan(plan_id=plan_id), PlanShown)

    async def plans(self, *, limit: int = 100) -> tuple[PlanSummary, ...]:
        """This tenant's plans, the newest first."""
        return (await self.ask(ListPlans(limit=limit), PlansListed)).plans

    async def apply_plan(
        self, plan_id: UUID, *, at_once: int = 1, on_failure: OnFailure = "stop", limits: PortLimits | None = None
    ) -> PlanShown:
        """Carry a plan out. Raises `QuestionFailed` for one that is not ready, stopped or cancelled."""
        asked = ApplyPlan(plan_id=plan_id, at_once=at_once, on_failure=on_failure, limits=limits or PortLimits())
        return await self.ask(asked, PlanShown)

    async def cancel_plan(self, plan_id: UUID, *, reason: str | None = None) -> PlanShown:
        """File no more of its ports, and cancel those under way. Raises `QuestionFailed` for one that has ended."""
        asked = CancelPlan(plan_id=plan_id, reason=reason) if reason else CancelPlan(plan_id=plan_id)
        return await self.ask(asked, PlanShown)

    async def watch_plan(
        self, plan_id: UUID, *, poll_s: float = WATCH_S, give_up_s: float = GIVE_UP_S
    ) -> AsyncGenerator[PlanShown, None]:
        """The plan now, and again whenever it has changed, until its end; `NoAnswer` after ``give_up_s``."""
        shown: PlanShown | None = None
        silent_s = 0.0
        while shown is None or shown.summary.state not in PLAN_ENDS:
            try:
                now = await self.plan_of(plan_id)
            except NoAnswer:
                silent_s += poll_s
                if shown is None or silent_s >= give_up_s:
                    raise
            else:
                silent_s = 0.0
                if now != shown:
                    yield now
                shown = now
                if now.summary.state in {PlanState.READY, *PLAN_ENDS}:
                    return
            await asyncio.sleep(poll_s)
