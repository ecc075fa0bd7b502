"""The bus with an agent of a provider, its nodes and the broker on it. The agent has a SQLite file and can restart."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid4

from shared.messages import Message, seal
from shared.parties import BROKER, Party
from shared.provider_agent import ProviderAgent
from shared.store import Store
from shared.testing import ManualClock, MemoryBroker

M = TypeVar("M", bound=Message)
S = TypeVar("S", bound=ProviderAgent[Any])


class AgentWorld(ABC, Generic[S]):
    """The bus with everybody on it, and one agent of type ``S`` that can be restarted."""

    def __init__(self, folder: Path, me: Party, *nodes: Party) -> None:
        self.clock = ManualClock()
        self.bus = MemoryBroker(BROKER, me, *nodes)
        self.folder = folder
        self._me = me

    @abstractmethod
    def make_agent(self, store: Store) -> S:
        """The agent over this store; called at each start."""

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[S]:
        """A running agent over the same file each time."""
        async with Store(f"sqlite:///{self.folder}/agent.db", self._me, clock=self.clock) as store:
            self.service = self.make_agent(store)
            await self.service.start()
            self.store = store
            self.relay, self.timers = self.service.relay, self.service.timers
            inbox = asyncio.get_running_loop().create_task(self.bus.bus(self._me).consume(self.service.handle))
            try:
                yield self.service
            finally:
                inbox.cancel()
                await asyncio.gather(inbox, return_exceptions=True)

    async def settle(self) -> None:
        """Let everything that is due happen."""
        while True:
            await self.bus.wait_idle()
            before = len(self.bus.published)
            await self.relay.flush()
            if len(self.bus.published) == before:
                return

    async def say(
        self, sender: Party, message: Message, *, message_id: UUID | None = None, deadline: datetime | None = None
    ) -> None:
        """A party sends the agent a message, and everything that follows from it happens."""
        envelope = seal(message, source=sender, message_id=message_id or uuid4(), now=self.clock(), deadline=deadline)
        await self.bus.bus(sender).publish(self._me, envelope)
        await self.settle()

    async def pass_time(self, seconds: float) -> None:
        """Time passes, due timers fire."""
        await self.clock.advance(seconds)
        await self.timers.run_due()
        await self.settle()

    def heard(self, to: Party, kind: type[M]) -> list[M]:
        """What a party was told, of one type."""
        return [e.data for e in self.bus.received(to) if isinstance(e.data, kind)]

    def dead_codes(self) -> list[str]:
        """Why messages to the agent were given up."""
        return [letter.code for letter in self.bus.dead[self._me]]

    async def restarted(self, *steps: Callable[[], Awaitable[None]]) -> None:
        """Each step in an agent of its own: all that it knows comes from the file."""
        for step in steps:
            async with self.agent():
                await step()
