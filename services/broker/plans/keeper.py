"""Plans for many VMs: what the broker does with each message about them, with their timer, and with ports that end.

A plan is a row of the ledger, and so is each of its moves: a restart loses nothing, and any broker of several goes on.
A port that ends arms the plan's timer in its own transaction; the plan is then looked at in another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker import ledger, registry
from services.broker.placement.task import Solved
from services.broker.plans import group, records
from services.broker.plans.group import Group, GroupMove
from services.broker.plans.records import StoredPlan, Terms, timer_key
from services.broker.plans.solving import ProcessSolver, Solver
from services.broker.port_steps import Stepper
from services.broker.rules import Limits
from services.broker.saga import Heard
from services.broker.tables import providers, vms
from shared.logs import get_logger
from shared.messages import Envelope, Message, seal
from shared.messages.plans import (
    MAX_AT_ONCE,
    ApplyPlan,
    CancelPlan,
    CreatePlan,
    ListPlans,
    Move,
    PlansListed,
    PlanState,
    ShowPlan,
)
from shared.messages.queries import QueryFailed, Question
from shared.messages.service_change import CancelPort, PortRequested
from shared.parties import BROKER, Name, tenant
from shared.stateful_service import Handlers
from shared.store import Store, StoreDown, Timer, Transaction

log = get_logger(__name__)

MAX_PLANS = 200
"""Of one tenant that have not ended."""
LOOK_AGAIN = timedelta(seconds=10)
"""When the tenant's limit leaves no room for the next port."""
RETRY_S = 5.0


class Plans:
    """Registers its handlers with ``handlers``. ``run`` solves the plans that wait for it."""

    def __init__(
        self,
        store: Store,
        handlers: Handlers,
        stepper: Stepper,
        limits: Limits,
        silent_after: timedelta,
        *,
        solver: Solver | None = None,
    ) -> None:
        self._store = store
        self._stepper = stepper
        self._solver = solver or ProcessSolver()
        self._limits = limits
        self._silent_after = silent_after
        self._to_solve = asyncio.Event()
        handlers.on_every(CreatePlan, self._create)
        handlers.on_every(ApplyPlan, self._apply)
        handlers.on_every(CancelPlan, self._cancel)
        handlers.on_every(ShowPlan, self._show)
        handlers.on_every(ListPlans, self._list)

    # Messages

    async def _create(self, envelope: Envelope[CreatePlan]) -> None:
        request, owner = envelope.data, envelope.sender.owner
        async with self._store.transaction() as tx:
            known = await records.load(tx, request.plan_id)
            answer: Message
            if known is not None:
                same = known.tenant == owner and known.request == request
                answer = records.shown(known) if same else _failed("plan_id_taken", "a new plan needs a new id")
            elif await self._open_of(tx, owner) >= MAX_PLANS:
                answer = _failed("too_many_plans", f"{MAX_PLANS} plans of yours have not ended")
            else:
                answer = await self._add(tx, request, owner)
            await tx.send(envelope.sender, answer, cause=envelope)

    @staticmethod
    async def _open_of(tx: Transaction, owner: Name) -> int:
        found = await records.listed(tx.connection, owner, limit=1000)
        return sum(each.state in {PlanState.SOLVING, PlanState.READY, *group.RUNS} for each in found)

    async def _add(self, tx: Transaction, request: CreatePlan, owner: Name) -> Message:
        wanted = request.moves or _named(request)
        moves, problems = await _moves_of(tx.connection, wanted, owner, solved=request.demand is not None)
        if problems:
            return _failed("invalid", "; ".join(problems[:10]))
        state = PlanState.READY if request.demand is None else PlanState.SOLVING
        plan = StoredPlan(
            tenant=owner,
            request=request,
            group=Group(request.plan_id, state, MAX_AT_ONCE, "stop", moves if request.demand is None else ()),
            result=None,
            terms=None,
            created_at=tx.now,
            updated_at=tx.now,
        )
        await records.add(tx, plan)
        if state is PlanState.SOLVING:
            tx.after_commit(self._to_solve.set)
        log.info("plan created", plan_id=str(plan.plan_id), moves=len(moves))
        return records.shown(plan)

    async def _apply(self, envelope: Envelope[ApplyPlan]) -> None:
        asked = envelope.data
        async with self._store.transaction() as tx:
            plan = await self._mine(tx, envelope, asked.plan_id)
            if plan is None or not await tx.first_time(envelope):
                return
            terms = Terms(at_once=asked.at_once, on_failure=asked.on_failure, limits=asked.limits)
            is_asked_again = plan.group.state in group.RUNS and plan.terms == terms
            if plan.group.state not in group.MAY_BE_APPLIED and not is_asked_again:
                detail = f"the plan is {plan.group.state}; what can be applied is ready, stopped or cancelled"
                await tx.send(envelope.sender, _failed("not_ready", detail), cause=envelope)
                return
            if not is_asked_again:
                begun = group.begun(plan.group, at_once=asked.at_once, on_failure=asked.on_failure)
                plan = await self._go_on(tx, replace(plan, group=begun, terms=terms))
            await tx.send(envelope.sender, records.shown(plan), cause=envelope)

    async def _cancel(self, envelope: Envelope[CancelPlan]) -> None:
        async with self._store.transaction() as tx:
            plan = await self._mine(tx, envelope, envelope.data.plan_id)
            if plan is None or not await tx.first_time(envelope):
                return
            if plan.group.state in {PlanState.COMPLETED, PlanState.PARTLY, PlanState.UNSOLVABLE}:
                detail = f"the plan is {plan.group.state} already"
                await tx.send(envelope.sender, _failed("already_ended", detail), cause=envelope)
                return
            if plan.group.state not in {PlanState.CANCELLED, PlanState.CANCELLING}:
                plan = await self._go_on(tx, replace(plan, group=group.cancelled(plan.group, envelope.data.reason)))
            await tx.send(envelope.sender, records.shown(plan), cause=envelope)

    @staticmethod
    async def _mine(tx: Transaction, envelope: Envelope[Question], plan_id: UUID) -> StoredPlan | None:
        """The plan, locked; where it is not this tenant's, that is answered."""
        plan = await records.load(tx, plan_id)
        if plan is not None and plan.tenant == envelope.sender.owner:
            return plan
        await tx.send(envelope.sender, _not_found(plan_id), cause=envelope)
        return None

    async def _show(self, envelope: Envelope[ShowPlan]) -> None:
        plan_id = envelope.data.plan_id
        async with self._store.reading() as connection:
            plan = await records.look(connection, plan_id, envelope.sender.owner)
        await self._answer(envelope, records.shown(plan) if plan is not None else _not_found(plan_id))

    async def _list(self, envelope: Envelope[ListPlans]) -> None:
        async with self._store.reading() as connection:
            found = await records.listed(connection, envelope.sender.owner, limit=envelope.data.limit)
        await self._answer(envelope, PlansListed(plans=found))

    async def _answer(self, envelope: Envelope[Question], answer: Message) -> None:
        async with self._store.transaction() as tx:
            await tx.send(envelope.sender, answer, cause=envelope)

    # The group

    async def time_passed(self, tx: Transaction, timer: Timer) -> bool:
        """A port of a plan has ended, or there may be room for the next one now. False for another's timer."""
        if not timer.key.startswith(records.PREFIX):
            return False
        plan = await records.load(tx, UUID(timer.key.removeprefix(records.PREFIX)))
        if plan is not None and plan.group.state in group.RUNS:
            await self._go_on(tx, plan)
        return True

    async def _go_on(self, tx: Transaction, plan: StoredPlan) -> StoredPlan:
        """Enter the ends of ports, do the one thing that is to be done now, and store the plan."""
        now = await self._with_ends(tx, plan.group)
        now = group.with_whereabouts(now, await _providers_of(tx.connection, [move.vm_uuid for move in now.moves]))
        room = self._limits.max_active_ports_per_tenant - await ledger.count_active_of(tx.connection, plan.tenant)
        decided = group.decide(now, room=room)
        plan = replace(plan, group=decided.group, updated_at=tx.now)
        await records.save(tx, plan)
        if decided.is_more_to_do:
            await tx.arm(timer_key(plan.plan_id), tx.now)
        elif decided.waits_for_room:
            await tx.arm(timer_key(plan.plan_id), tx.now + LOOK_AGAIN)
        if decided.file is not None:
            await self._file(tx, plan, decided.group.moves[decided.file])
        if decided.cancel is not None:
            await self._cancel_port(tx, plan, decided.cancel)
        was, state = now.state, decided.group.state
        if state is not was:
            log.info("plan changed", plan_id=str(plan.plan_id), was=was, state=state, reason=decided.group.failure)
        return plan

    @staticmethod
    async def _with_ends(tx: Transaction, now: Group) -> Group:
        for port_id in group.ports_under_way(now):
            stored = await ledger.look(tx.connection, port_id)
            if stored is not None and stored.state.ended:
                now = group.with_end(now, port_id, stored.state.phase, _why(stored))
        return now

    async def _file(self, tx: Transaction, plan: StoredPlan, move: GroupMove) -> None:
        """File the move's port in the tenant's name; a refusal is the end of that port, as any other."""
        if move.port_id is None or plan.terms is None:
            raise ValueError(f"move of {move.vm_uuid} has no port or no terms")
        request = PortRequested(
            port_id=move.port_id,
            vm_uuid=move.vm_uuid,
            donor=move.donor,
            recipient=move.recipient,
            limits=plan.terms.limits,
        )
        facts = await registry.facts_for(
            tx.connection, request, plan.tenant, now=tx.now, silent_after=self._silent_after
        )
        envelope = seal(request, source=BROKER, message_id=uuid4(), now=tx.now)
        await self._stepper.begin(tx, envelope, request, plan.tenant, facts)

    async def _cancel_port(self, tx: Transaction, plan: StoredPlan, port_id: UUID) -> None:
        stored = await ledger.load(tx, port_id)
        if stored is None or stored.state.ended:
            return
        cancel = CancelPort(port_id=port_id, reason=plan.group.failure or CancelPlan.model_fields["reason"].default)
        envelope = seal(cancel, source=BROKER, message_id=uuid4(), now=tx.now)
        await self._stepper.step(tx, stored, Heard(tenant(plan.tenant), cancel), envelope)

    # Solving

    async def run(self) -> None:
        """Solve the plans that wait for it, one at a time, until cancelled."""
        while True:
            self._to_solve.clear()
            try:
                await self._solve_all()
            except (StoreDown, SQLAlchemyError) as error:
                log.warning("ledger unavailable for plans", error=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                await self._to_solve.wait()

    async def _solve_all(self) -> None:
        async with self._store.reading() as connection:
            waiting = await records.in_states(connection, PlanState.SOLVING)
        for plan_id in waiting:
            await self._solve(plan_id)

    async def _solve(self, plan_id: UUID) -> None:
        async with self._store.transaction() as tx:
            plan = await records.load(tx, plan_id)
            if plan is None or plan.request.demand is None or plan.group.state is not PlanState.SOLVING:
                return
            catalogues = await records.all_catalogues(tx.connection)
            uuids = [uuid for each in plan.request.demand.classes for uuid in each.vms]
            at = await _providers_of(tx.connection, uuids)
            demand = plan.request.demand
        solved = await self._solver.solve(demand, catalogues, at)
        async with self._store.transaction() as tx:
            plan = await records.load(tx, plan_id)
            if plan is not None and plan.group.state is PlanState.SOLVING:
                await records.save(tx, await _with_solution(tx, plan, solved))


async def _with_solution(tx: Transaction, plan: StoredPlan, solved: Solved) -> StoredPlan:
    moves, problems = await _moves_of(tx.connection, solved.moves, plan.tenant, solved=True)
    failure = solved.failure or "; ".join(problems[:10])
    state = PlanState.UNSOLVABLE if failure else PlanState.READY
    log.info("plan solved", plan_id=str(plan.plan_id), state=state, moves=len(moves), error=failure)
    after = replace(plan.group, state=state, failure=failure, moves=() if failure else moves)
    return replace(plan, group=after, result=None if failure else solved.result, updated_at=tx.now)


def _named(request: CreatePlan) -> tuple[Move, ...]:
    """The VMs that a demand names, as moves to nowhere: to see that they are the tenant's."""
    classes = request.demand.classes if request.demand is not None else ()
    return tuple(Move(vm_uuid=uuid, recipient="none") for each in classes for uuid in each.vms)


async def _moves_of(
    connection: AsyncConnection, wanted: tuple[Move, ...], owner: Name, *, solved: bool
) -> tuple[tuple[GroupMove, ...], list[str]]:
    """Moves of this tenant's VMs, and what is wrong with the others; ``solved``: recipients are not checked."""
    rows = await connection.execute(select(vms).where(vms.c.uuid.in_([each.vm_uuid for each in wanted])))
    known = {row.uuid: row for row in rows if row.tenant == owner}
    served = set(await connection.scalars(select(providers.c.name).where(providers.c.capacity_at.is_not(None))))
    moves, problems = [], []
    for number, move in enumerate(wanted, start=1):
        row = known.get(move.vm_uuid)
        if row is None:
            problems.append(f"move {number}: there is no VM {move.vm_uuid} of yours")
        elif not solved and move.recipient not in served:
            listed = ", ".join(sorted(served)) or "none"
            problems.append(f"move {number}: unknown provider {move.recipient!r}; known: {listed}")
        elif not solved and move.recipient == row.provider:
            problems.append(f"move {number}: {row.name} is at {move.recipient} already")
        else:
            moves.append(GroupMove(row.uuid, row.name, row.provider, move.recipient))
    return tuple(moves), problems


async def _providers_of(connection: AsyncConnection, uuids: Sequence[UUID]) -> Mapping[UUID, Name]:
    rows = await connection.execute(select(vms.c.uuid, vms.c.provider).where(vms.c.uuid.in_(uuids)))
    return {row.uuid: row.provider for row in rows}


def _why(stored: ledger.StoredPort) -> str:
    state = stored.state
    if state.failure is not None:
        return f"{state.failure.code}: {state.failure.detail}"
    return "; ".join(map(str, state.refusals))


def _failed(code: str, detail: str) -> QueryFailed:
    return QueryFailed(code=code, detail=detail)


def _not_found(plan_id: UUID) -> QueryFailed:
    return _failed("not_found", f"there is no plan {plan_id} of yours")
