"""One port's urgent questions to the broker: may the guest run, and who owns it. Repeats them until they are answered.

These messages skip the outbox: an old question is worth nothing, and asking again is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

from services.node_agent.switchover.readiness import BrokerReadiness
from shared.bus import BusDown, Undeliverable
from shared.logs import get_logger
from shared.messages.base import PortMessage
from shared.messages.porting import (
    GuestPaused,
    QuerySwitchover,
    RequestSwitchover,
    SwitchoverDenied,
    SwitchoverGranted,
    SwitchoverState,
)
from shared.messages.switchover import CopyState

log = get_logger(__name__)

REPEAT_S = 2.0
Answer = SwitchoverGranted | SwitchoverDenied | SwitchoverState
Publish = Callable[[PortMessage], Awaitable[None]]


class BrokerClient:
    """Asks and waits; `deliver` brings the answers. One question at a time."""

    def __init__(self, port_id: UUID, publish: Publish, *, repeat_s: float = REPEAT_S) -> None:
        """`publish` sends to the broker, and raises `BusDown` or `Undeliverable`; `repeat_s` is its time to answer."""
        self.repeat_s = repeat_s
        self._port_id = port_id
        self._publish = publish
        self._answers: asyncio.Queue[Answer] = asyncio.Queue(maxsize=16)
        self.readiness: BrokerReadiness | None = None
        """Asks on its own whether the broker could commit; hears all answers about ownership."""
        self._listeners: list[Callable[[SwitchoverState], None]] = []

    def listen(self, listener: Callable[[SwitchoverState], None]) -> Callable[[], None]:
        """Hear all that the broker says about the owner, asked or not; returns what ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def deliver(self, answer: Answer, *, question: UUID | None = None, sent_at: datetime | None = None) -> None:
        """Take the answer to the question of this id, or what the broker says unasked; it was sent at this time by the
        broker's clock. The oldest is dropped if nobody waits.

        An answer to `readiness` is no answer to a later question: it may be older than the commit.
        """
        if isinstance(answer, SwitchoverState):
            if self.readiness is not None:
                self.readiness.heard(answer, question=question, sent_at=sent_at)
                if self.readiness.asked(question) and not (answer.committed or answer.ended):
                    return
            for listener in tuple(self._listeners):
                listener(answer)
        if self._answers.full():
            self._answers.get_nowait()
        self._answers.put_nowait(answer)

    async def request_switchover(self, vm_uuid: UUID, epoch: int, *, this_provider: str) -> SwitchoverDenied | None:
        """Ask for the VM until the broker decides; None when it is granted.

        Has no deadline of its own: while the broker is silent it may have committed, so neither yes nor no is safe.
        """
        question: PortMessage = RequestSwitchover(port_id=self._port_id, vm_uuid=vm_uuid, epoch=epoch)
        while True:
            match await self._ask(question):
                case SwitchoverGranted(epoch=granted) if granted == epoch:
                    return None
                case SwitchoverDenied() as denied:
                    return denied
                case SwitchoverState(committed=True, owner=owner, epoch=said) if (owner, said) == (
                    this_provider,
                    epoch,
                ):
                    return None
                case SwitchoverState(ended=True):
                    return SwitchoverDenied(port_id=self._port_id, code="port_ended", detail="the port is over")
                case _:
                    await asyncio.sleep(self.repeat_s)

    async def query(self) -> SwitchoverState | None:
        """Ask who owns the VM, once; None when no answer came within `repeat_s`."""
        answer = await self._ask(QuerySwitchover(port_id=self._port_id))
        return answer if isinstance(answer, SwitchoverState) else None

    async def say_paused(self, vm_uuid: UUID, epoch: int) -> bool:
        """Say once that all was sent and the guest stands still; whether the broker answered within `repeat_s`."""
        answer = await self._ask(GuestPaused(port_id=self._port_id, vm_uuid=vm_uuid, epoch=epoch))
        return isinstance(answer, SwitchoverState)

    async def say_copy(self, *, let_go: bool) -> None:
        """Answer once whether the guest was let go here; the broker asks again where that is lost."""
        try:
            await self._publish(CopyState(port_id=self._port_id, let_go=let_go))
        except (BusDown, Undeliverable) as error:
            log.warning("word about the copy lost", port_id=str(self._port_id), error=str(error))

    async def _ask(self, question: PortMessage) -> Answer | None:
        while not self._answers.empty():
            self._answers.get_nowait()
        try:
            async with asyncio.timeout(self.repeat_s):
                await self._publish(question)
                return await self._answers.get()
        except TimeoutError:
            return None
        except (BusDown, Undeliverable) as error:
            log.warning("broker unreachable", port_id=str(self._port_id), error=str(error))
            await asyncio.sleep(self.repeat_s)
            return None
