"""A broker process that is killed at each of its transitions in turn, and comes back from the same ledger.

A process that dies runs nothing any more: what it has not committed is rolled back, what it has published stays so, and
the deliveries in its hands come again. So from the moment of its death each use of the store, the bus and the relay
raises `Died`; whatever the code does on its way out reaches nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from services.broker.metrics import BrokerMetrics
from services.broker.service import BrokerService
from shared.bus import Handler, LaneAdmin, LaneEnds
from shared.consumer import OnDead
from shared.messages import AnyEnvelope
from shared.metrics import BusMetrics, Metrics
from shared.parties import BROKER, Party
from shared.store import Store, Transaction
from shared.store.store import Clock
from shared.testing import MemoryBus
from tests.support.broker_world import World, settings

doing: ContextVar[str] = ContextVar("doing", default="start")
"""What the task at hand is about, to name its transitions."""


class Died(BaseException):  # no error: the process is gone, and nothing may catch it
    """The process was killed."""


@dataclass
class Plan:
    """Kills a process the first time that any process comes to a transition. Shared by all lives."""

    points: list[str] = field(default_factory=list)
    over: bool = False
    """The test ends: no more lives. Before Python 3.13 a TaskGroup forgets a cancel that meets a child's death."""

    def is_fatal(self, point: str) -> bool:
        """Whether to die here."""
        if point in self.points:
            return False
        self.points.append(point)
        return True


class Life:
    """One run of the process."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._dying = False
        self.gone = asyncio.Event()
        self._working = 0
        """How many tasks are in the middle of a statement, or of a transaction."""
        self._left = asyncio.Event()

    async def use(self) -> None:
        """Something outside of the process is used."""
        if self._dying:
            await self.gone.wait()
            raise Died

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A statement or a transaction."""
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            self._left.set()

    def is_last(self, point: str) -> bool:
        """Whether the process dies at this transition, or is dying already: then this task calls `die`."""
        self._dying = self._dying or self._plan.is_fatal(point)
        return self._dying

    async def die(self) -> None:
        """Let the others finish their statement, then be gone.

        A task that is cancelled in the middle of a statement leaves SQLite locked, which an operating system would not.
        """
        while self._working:
            self._left.clear()
            await self._left.wait()
        self.gone.set()
        raise Died

    async def come_to(self, point: str) -> None:
        """A transition outside of transactions."""
        await self.use()
        if self.is_last(point):
            await self.die()


class MortalStore(Store):
    """May die just before and just after each commit."""

    def __init__(self, url: str, life: Life, *, clock: Clock) -> None:
        super().__init__(url, BROKER, clock=clock)
        self._life = life
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """As the real one; one at a time, on PostgreSQL too."""
        async with self._turn:
            await self._life.use()
            try:
                with self._at_work():
                    async with super().transaction() as tx:
                        # The world's clock stands still: what urgent work left behind is due in the next life.
                        tx._relay_after = timedelta(0)
                        yield tx
                        told = sorted({str(to) for to, *_ in tx._unstored})
                        point = f"commit of {doing.get()}, to {', '.join(told) or 'nobody'}"
                        if self._life.is_last(f"before {point}"):
                            raise Died
            except Died:
                await self._life.die()
            await self._life.come_to(f"after {point}")

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """As the real one."""
        await self._life.use()
        with self._at_work():
            async with super().reading() as connection:
                yield connection

    def _at_work(self) -> AbstractContextManager[None]:
        # On PostgreSQL a connection whose task is cancelled is closed, and the relay publishes while it reads.
        return self._life.at_work() if self.dialect == "sqlite" else nullcontext()


class MortalBus:
    """May die just before and just after each publish."""

    def __init__(self, bus: MemoryBus, life: Life) -> None:
        self._bus = bus
        self._life = life

    @property
    def party(self) -> Party:
        """Who speaks here."""
        return self._bus.party

    @property
    def metrics(self) -> BusMetrics:
        """As the real one's."""
        return self._bus.metrics

    async def publish(self, to: Party, envelope: AnyEnvelope) -> None:
        """As the real one."""
        point = f"publish of {type(envelope.data).__name__} to {to}"
        doing.set(point)
        await self._life.come_to(f"before {point}")
        await self._bus.publish(to, envelope)
        await self._life.come_to(f"after {point}")

    async def consume(self, handler: Handler, *, on_dead: OnDead | None = None) -> None:
        """As the real one."""
        await self._consume(self._bus.consume, handler, on_dead)

    async def consume_urgent(self, handler: Handler, *, on_dead: OnDead | None = None) -> None:
        """As the real one."""
        await self._consume(self._bus.consume_urgent, handler, on_dead)

    async def _consume(self, consume: Any, handler: Handler, on_dead: OnDead | None) -> None:
        """The handler's work is named. A handler in which the process died goes no further."""
        died = asyncio.Event()

        async def named(envelope: AnyEnvelope) -> None:
            doing.set(f"{type(envelope.data).__name__} from {envelope.source}")
            try:
                await handler(envelope)
            except Died:
                died.set()
                await asyncio.Event().wait()

        consuming = asyncio.ensure_future(consume(named, on_dead=on_dead))
        dying = asyncio.ensure_future(died.wait())
        try:
            await asyncio.wait({consuming, dying}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (consuming, dying):
                each.cancel()
            await asyncio.gather(consuming, dying, return_exceptions=True)
        raise Died

    async def ready(self) -> bool:
        """As the real one."""
        return await self._bus.ready()

    async def close(self) -> None:
        """As the real one."""
        await self._bus.close()


class MortalLanes:
    """May die just before and just after lanes are declared or removed."""

    def __init__(self, admin: LaneAdmin, life: Life) -> None:
        self._admin = admin
        self._life = life

    async def open_lanes(self, ends: LaneEnds) -> None:
        """As the real one."""
        doing.set("opening of lanes")
        await self._life.come_to("before opening of lanes")
        await self._admin.open_lanes(ends)
        await self._life.come_to("after opening of lanes")

    async def close_lanes(self, ends: LaneEnds) -> None:
        """As the real one."""
        doing.set("closing of lanes")
        await self._life.come_to("before closing of lanes")
        await self._admin.close_lanes(ends)
        await self._life.come_to("after closing of lanes")

    async def open_extension(self, ends: LaneEnds) -> None:
        """As the real one."""
        doing.set("opening of an extension")
        await self._life.come_to("before opening of an extension")
        await self._admin.open_extension(ends)
        await self._life.come_to("after opening of an extension")

    async def close_extension(self, ends: LaneEnds) -> None:
        """As the real one; closing none, as each end of a port does, is no place to die at."""
        await self._admin.close_extension(ends)


async def live(world: World, plan: Plan) -> None:
    """Run a broker in the world, again after each death; until cancelled."""
    while not plan.over:
        try:
            await _one_life(world, Life(plan))
        except BaseExceptionGroup as deaths:
            _, others = deaths.split(Died)
            if others is not None:
                raise others from None
        except Died:
            continue


async def _one_life(world: World, life: Life) -> None:
    doing.set("start")
    async with MortalStore(world.url, life, clock=world.clock) as store:
        # More in its hands would be delivered more often than RabbitMQ allows, by so many deaths in a row.
        bus = MortalBus(world.broker.bus(BROKER, prefetch=1), life)
        metrics = BrokerMetrics(Metrics(service="mortal", version="0").registry)
        service = BrokerService(settings(world.url), store, bus, MortalLanes(world.lanes, life), metrics)
        await _until_death(service.run(), life)


async def _until_death(running: Coroutine[Any, Any, None], life: Life) -> None:
    """Any task of the process may be the one that dies; one whose end nobody waits for ends the process, too."""
    service, death = asyncio.ensure_future(running), asyncio.ensure_future(life.gone.wait())
    try:
        await asyncio.wait({service, death}, return_when=asyncio.FIRST_COMPLETED)
        if service.done():
            service.result()
    finally:
        for each in (service, death):
            each.cancel()
        await asyncio.gather(service, death, return_exceptions=True)
    raise Died
