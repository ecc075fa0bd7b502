"""The donor's talk with the broker while it is undecided who may run the guest: says that the guest is paused, and asks
who owns it. Decides nothing: the answers are heard by who listens to the broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

from services.node_agent.switchover.broker_client import BrokerClient
from shared.logs import get_logger
from shared.tasks import Tasks, first_of

log = get_logger(__name__)

ANSWER_WITHIN_S = 10.0
"""An answer to Finish that takes longer is probably lost. Asking too early costs only a question."""


class LedgerQuestions:
    """One port's talk, in a task of `tasks`. It ends by itself once `undecided` says no."""

    def __init__(
        self, broker: BrokerClient, vm_uuid: UUID, epoch: int, *, undecided: Callable[[], bool], tasks: Tasks
    ) -> None:
        self._broker = broker
        self._vm_uuid = vm_uuid
        self._epoch = epoch
        self._undecided = undecided
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def say_paused(self) -> None:
        """Everything is sent and the guest stands still: the broker may commit."""
        self._begin(self._say_paused_then_ask())

    def ask(self) -> None:
        """There is something to decide now: ask at once, and again until it is decided."""
        self._hurry.set()
        self._begin(self._ask_until_decided())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        if self._task is not None and not self._task.done():
            work.close()
            return
        self._task = self._tasks.spawn(work, name="ask the broker")

    async def _say_paused_then_ask(self) -> None:
        """Say it until the broker answers; then its push is enough, unless the recipient's answer stays away. Where
        there is something to decide before that, the ledger is asked at once.
        """
        await first_of(self._say_until_heard(), self._hurry.wait())
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await self._hurry.wait()
        except TimeoutError:
            log.warning("no reply to finish; asking the broker")
        await self._ask_until_decided()

    async def _say_until_heard(self) -> None:
        while self._undecided() and not await self._broker.say_paused(self._vm_uuid, self._epoch):
            pass

    async def _ask_until_decided(self) -> None:
        while self._undecided():
            await self._broker.query()
            await asyncio.sleep(self._broker.repeat_s / 2)
