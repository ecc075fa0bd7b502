"""Whether a switchover could be committed now: asked while memory flows, so that no guest stands still for a broker
that is away.

Both nodes need the broker for the commit, so both ask it every few seconds (`BrokerReadiness`). The recipient tells the
donor on a stream of the control lane labelled READY: one payload per question, answered by YES or NO. The donor pauses
no guest while either node has no fresh yes (`SwitchoverReadiness`). The broker may still go away in the seconds between
its last answer and the pause; then the guest waits for it.

A broker of an earlier release does not say whether it is ready, and a recipient of an earlier release knows no such
stream: neither is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from services.node_agent.lanes.core.errors import LaneError, StreamError, StreamResetError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from shared.bus import BusDown, Undeliverable
from shared.clocks import ClockOffsets
from shared.logs import get_logger
from shared.messages.base import PortMessage
from shared.messages.porting import QuerySwitchover, SwitchoverState
from shared.page_stream.bodies import StreamKind
from shared.parties import BROKER

log = get_logger(__name__)

READY: Final = "ready"
ASK: Final = b"?"
YES: Final = b"yes"
NO: Final = b"no"
ASK_EVERY_S: Final = 3.0
FRESH_S: Final = 6.0
"""How old a yes may be, counted from its question."""
ANSWER_WITHIN_S: Final = 2.0
"""How long the recipient's node waits for the broker's first answer before it says no."""
_REMEMBERED: Final = 16

PublishAs = Callable[[PortMessage, UUID], Awaitable[None]]
"""Sends a message to the broker under this id; raises `BusDown` or `Undeliverable`."""


class BrokerReadiness:
    """One node's questions about one port. `run` asks; `heard` takes the answers."""

    def __init__(
        self,
        port_id: UUID,
        publish: PublishAs,
        *,
        clock: Callable[[], float],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`clock` is monotonic, in seconds; `now` is the time of day."""
        self._port_id = port_id
        self._publish = publish
        self._clock = clock
        self._now = now
        self._clocks = ClockOffsets()
        self._asked: dict[UUID, float] = {}
        self._ready = False
        self._answered_s: float | None = None
        self._changed = asyncio.Event()

    @property
    def is_fresh(self) -> bool:
        """Whether the broker has answered a question of the last seconds."""
        return self._answered_s is not None and self._clock() - self._answered_s <= FRESH_S

    @property
    def is_ready(self) -> bool:
        """Whether that answer was yes."""
        return self._ready and self.is_fresh

    def asked(self, question: UUID | None) -> bool:
        """Whether a question of this id was asked here."""
        return question in self._asked

    def brokers_now(self) -> datetime:
        """The time of day by the broker's clock, as far as its answers have shown that; else by ours."""
        return self._clocks.their_now(str(BROKER), self._now())

    def heard(self, state: SwitchoverState, *, question: UUID | None, sent_at: datetime | None = None) -> None:
        """The broker has answered the question of this id, at a time by its clock. What answers no question of ours is
        as new as now.
        """
        now_s = self._clock()
        if sent_at is not None and question in self._asked:
            now = self._now()
            asked_at = now - timedelta(seconds=now_s - self._asked[question])
            self._clocks.answered(str(BROKER), asked_at=asked_at, sent_at=sent_at, now=now)
        asked_s = now_s if question is None else self._asked.get(question, now_s)
        if self._answered_s is not None and asked_s < self._answered_s:
            return
        self._answered_s = asked_s
        self._ready = state.ready or "ready" not in state.model_fields_set
        self._changed.set()

    async def run(self, *, every_s: float | None = None) -> None:
        """Ask again and again, until cancelled; as often as freshness needs, unless told."""
        while True:
            question = uuid4()
            while len(self._asked) >= _REMEMBERED:
                del self._asked[next(iter(self._asked))]
            self._asked[question] = self._clock()
            try:
                await self._publish(QuerySwitchover(port_id=self._port_id), question)
            except (BusDown, Undeliverable) as error:
                log.debug("broker unreachable", port_id=str(self._port_id), error=str(error))
            await asyncio.sleep(every_s or ASK_EVERY_S)

    async def wait_fresh(self, within_s: float) -> None:
        """Return when there is a fresh answer, or after so many seconds."""
        try:
            async with asyncio.timeout(within_s):
                while not self.is_fresh:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return


class SwitchoverReadiness:
    """The donor's view of both nodes. `broker` None: nobody is asked, and nothing is waited for."""

    def __init__(self, broker: BrokerReadiness | None, control: LaneSession, *, clock: Callable[[], float]) -> None:
        self._broker = broker
        self._control = control
        self._clock = clock
        self._recipient_can_answer = True
        self._recipient_yes_s: float | None = None

    @property
    def problem(self) -> str | None:
        """Why the guest must not be paused now; None when it may."""
        if self._broker is None:
            return None
        if not self._broker.is_ready:
            return "waiting for the broker" if self._broker.is_fresh else "waiting for the broker: no answer"
        yes_s = self._recipient_yes_s
        if self._recipient_can_answer and (yes_s is None or self._clock() - yes_s > FRESH_S):
            return "waiting for the broker: the recipient's node has no answer from it"
        return None

    async def run(self) -> None:
        """Ask the broker and the recipient, until cancelled."""
        if self._broker is None:
            return
        asking = asyncio.ensure_future(self._broker.run())
        try:
            await self._ask_recipient()
            await asking
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask_recipient(self) -> None:
        try:
            stream = self._control.open_stream(StreamKind.CONTROL, READY)
            while True:
                asked_s = self._clock()
                await stream.write(ASK)
                answer = await stream.read()
                if not answer:
                    return
                if answer == YES:
                    self._recipient_yes_s = asked_s
                await asyncio.sleep(ASK_EVERY_S)
        except StreamResetError as error:
            log.info("recipient does not tell whether it is ready", reason=str(error))
            self._recipient_can_answer = False
        except (LaneError, StreamError) as error:
            log.debug("readiness of the recipient unknown", reason=str(error))


async def answer_readiness(stream: LaneStream, broker: BrokerReadiness | None) -> None:
    """The recipient's side: answer the donor's questions until it ends the stream."""
    if broker is None:
        stream.reset("this node asks no broker")
        return
    asking = asyncio.ensure_future(broker.run())
    try:
        while await stream.read():
            await broker.wait_fresh(ANSWER_WITHIN_S)
            await stream.write(YES if broker.is_ready else NO)
        stream.write_eof()
    except (LaneError, StreamError) as error:
        log.debug("donor asks no more", reason=str(error))
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
