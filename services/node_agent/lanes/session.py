"""LaneSession: the asyncio shell around one lane. Feeds the protocol, sends its frames, keeps timers, wakes waiters.

It decides nothing about the wire (protocol.py) and does not know what the bytes mean.

    async with asyncio.TaskGroup() as group:
        tls = LaneTls(identity, peer, LaneRole.INITIATOR)
        session = LaneSession(link, LaneSettings(lane="p1.memory", role=LaneRole.INITIATOR), seal=tls.seal())
        group.create_task(session.run())      # returns after close(), raises the LaneError that ended the lane
        stream = session.open_stream(StreamKind.MEMORY, "precopy")
        await stream.write(b"...")
        await session.close()
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable

from services.node_agent.lanes.core.errors import (
    LaneAbortedError,
    LaneCancelledError,
    LaneClosedError,
    LaneError,
    LaneRouteError,
    StreamResetError,
)
from services.node_agent.lanes.core.events import (
    DataReceived,
    EofReceived,
    LaneClosed,
    LaneEvent,
    LaneReady,
    LaneResumed,
    StreamOpened,
    StreamReset,
)
from services.node_agent.lanes.core.protocol import LaneProtocol
from services.node_agent.lanes.core.seal import LaneSeal
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.core.stats import LaneStats
from services.node_agent.lanes.routes.link import LaneLink, LinkDown
from services.node_agent.lanes.stream import LaneStream, StreamInbox
from shared.page_stream.bodies import StreamKind
from shared.tasks import first_error, run_together

_GOODBYE_S = 1.0  # bound for the best-effort ABORT, and for releasing the link
_RETRY_FIRST_S = 0.05  # pause when a link breaks again at once; doubles up to the limit
_RETRY_LIMIT_S = 1.0


class LaneSession:
    """One end of one lane; owns `link` from `run` on. `epoch` is random unless a test gives one."""

    def __init__(self, link: LaneLink, settings: LaneSettings, *, seal: LaneSeal, epoch: int | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._protocol = LaneProtocol(
            settings,
            seal=seal,
            epoch=secrets.randbelow(2**64 - 1) + 1 if epoch is None else epoch,
            now_s=self._loop.time(),
        )
        self._inboxes: dict[int, StreamInbox] = {}
        self._opened: deque[LaneStream] = deque()
        self._failure: LaneError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turn = asyncio.Lock()  # writers wait for the window one after the other, first come first served
        self._changed = asyncio.Event()  # something arrived or ended: waiters check again
        self._to_send = asyncio.Event()
        self._sender_idle = True
        self._over = asyncio.Event()

    @property
    def lane(self) -> str:
        """The lane's name."""
        return self._protocol.settings.lane

    @property
    def max_payload_bytes(self) -> int:
        """Largest payload that both ends accept."""
        return self._protocol.max_send_bytes

    def stats(self) -> LaneStats:
        """Counters so far."""
        return self._protocol.stats()

    @property
    def is_away(self) -> bool:
        """Whether the other end cannot be heard now."""
        return self._protocol.is_away(self._loop.time())

    # The application's side ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the lane until `close`; once.

        Raises the LaneError that ended it; cancelling it ends the lane at both ends.
        """
        try:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(self._serve())
                self._arm_timer()
                await self._over.wait()
                serving.cancel()
        except asyncio.CancelledError:
            self._fail(LaneCancelledError(lane=self.lane))
            raise
        except ExceptionGroup as errors:
            self._fail(LaneRouteError(lane=self.lane, cause=first_error(errors)))
        finally:
            self._over.set()
            if self._timer is not None:
                self._timer.cancel()
            await self._say_goodbye()
        if self._failure is not None:
            raise self._failure

    async def wait_ready(self) -> None:
        """Return when the other end has answered. Raises the LaneError that ended the lane."""
        await self._wait_until(lambda: self._protocol.ready)

    def open_stream(self, kind: StreamKind, label: str) -> LaneStream:
        """A new stream, usable at once. Raises the LaneError that ended the lane, ValueError when too many are open."""
        self._check_alive()
        inbox = self._new_inbox(self._protocol.open_stream(kind, label))
        self._to_send.set()
        return LaneStream(self, inbox, kind=kind, label=label)

    async def accept(self) -> LaneStream:
        """The next stream that the other end opened.

        Raises the LaneError that ended the lane, LaneClosedError included.
        """
        while not self._opened:
            self._check_alive()
            if self._protocol.peer_closed:
                raise LaneClosedError(lane=self.lane, by_peer=True)
            await self._wait_for_change()
        return self._opened.popleft()

    async def close(self, *, flush_s: float = 5.0) -> bool:
        """End the lane in order; True when the other application has consumed everything. `run` then returns.
        Idempotent.

        What is not consumed after `flush_s` is lost. Never raises a LaneError: a lane that has failed is closed
        already.
        """
        if self._over.is_set():
            return self._failure is None and self._protocol.flushed
        self._protocol.close()
        self._to_send.set()
        with contextlib.suppress(TimeoutError, LaneError):
            async with asyncio.timeout(flush_s):
                await self._wait_until(self._is_settled)
        self._end_streams(LaneClosedError(lane=self.lane, by_peer=False))
        self._over.set()
        self._changed.set()
        return self._failure is None and self._protocol.flushed

    # The streams' side: StreamOwner -------------------------------------------------------------------------------

    async def send_payload(
        self, inbox: StreamInbox, payload: bytes | memoryview, *, raw_bytes: int, raw_lead_bytes: int
    ) -> None:
        """Wait for room in the window, then queue one payload; FIFO between writers."""
        if self._turn.locked() or not self._can_send(inbox, len(payload), raw_lead_bytes):
            async with self._turn:
                while not self._can_send(inbox, len(payload), raw_lead_bytes):
                    await self._wait_for_change()
                self._put(inbox, payload, raw_bytes, raw_lead_bytes)
        else:
            self._put(inbox, payload, raw_bytes, raw_lead_bytes)
        self._to_send.set()

    def _put(self, inbox: StreamInbox, payload: bytes | memoryview, raw_bytes: int, raw_lead_bytes: int) -> None:
        self._protocol.send_data(
            inbox.stream_id, payload, self._loop.time(), raw_bytes=raw_bytes, raw_lead_bytes=raw_lead_bytes
        )

    def send_eof(self, inbox: StreamInbox) -> None:
        """Queue an EOF."""
        self._protocol.send_eof(inbox.stream_id)
        inbox.eof_sent = True
        self._forget_if_done(inbox)
        self._to_send.set()

    def send_reset(self, inbox: StreamInbox, reason: str) -> None:
        """Queue a RESET and forget the stream."""
        self._drop(inbox)
        if self._failure is None and not self._protocol.peer_closed:
            self._protocol.send_reset(inbox.stream_id, reason)
        self._to_send.set()

    def consumed(self, sequence: int) -> None:
        """The application is done with one payload."""
        self._protocol.data_consumed(sequence)
        self._to_send.set()

    # The route's side ---------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        pause_s = _RETRY_FIRST_S
        while True:
            await self._link.wait_up()
            up_s = self._loop.time()
            self._protocol.link_up(up_s)
            self._to_send.set()
            try:
                await run_together(self._send_loop(), self._receive_loop())
            except* LinkDown:
                pass  # expected: the lane resyncs when the route is back
            self._protocol.link_down(self._loop.time())
            self._sender_idle = True
            lasted_s = self._loop.time() - up_s
            pause_s = _RETRY_FIRST_S if lasted_s > _RETRY_LIMIT_S else min(2 * pause_s, _RETRY_LIMIT_S)
            await asyncio.sleep(pause_s)

    async def _send_loop(self) -> None:
        while True:
            frame = self._protocol.next_frame(self._loop.time())
            if frame is not None:
                self._sender_idle = False
                await self._link.send(frame)
                continue
            self._sender_idle = True
            self._changed.set()
            self._to_send.clear()
            self._arm_timer()
            await self._to_send.wait()

    async def _receive_loop(self) -> None:
        while True:
            data = await self._link.receive()
            if self._over.is_set():
                return  # the streams are gone; run() is about to end this task
            try:
                events = self._protocol.receive_frame(data, self._loop.time())
            except LaneError as error:
                self._fail(error)
                return
            for event in events:
                self._dispatch(event)
            self._changed.set()
            self._to_send.set()

    def _dispatch(self, event: LaneEvent) -> None:
        match event:
            case DataReceived(stream_id=stream_id):
                self._inboxes[stream_id].deliver(event)
            case StreamOpened(stream_id=stream_id, kind=kind, label=label):
                self._opened.append(LaneStream(self, self._new_inbox(stream_id), kind=kind, label=label))
            case EofReceived(stream_id=stream_id):
                inbox = self._inboxes[stream_id]
                inbox.deliver_eof()
                self._forget_if_done(inbox)
            case StreamReset(stream_id=stream_id, reason=reason):
                inbox = self._inboxes[stream_id]
                inbox.fail(StreamResetError(lane=self.lane, stream_id=stream_id, reason=reason, by_peer=True))
                self._drop(inbox)
            case LaneClosed():
                self._end_streams(LaneClosedError(lane=self.lane, by_peer=True))
            case LaneReady() | LaneResumed():
                pass  # who waits looks at `ready`; resuming needs nobody's help

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self._protocol.tick(self._loop.time())
        except LaneError as error:
            self._fail(error)
            return
        self._to_send.set()
        self._arm_timer()

    def _arm_timer(self) -> None:
        if self._over.is_set():
            return
        due_s = self._protocol.next_tick_s()
        if self._timer is not None:
            if self._timer.when() <= due_s:
                return  # it fires early at worst, and is armed again then
            self._timer.cancel()
        self._timer = self._loop.call_at(due_s, self._on_timer)

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(LinkDown, TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                if self._failure is not None and not isinstance(self._failure, LaneAbortedError | LaneRouteError):
                    await self._link.send(self._protocol.abort_frame(str(self._failure)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await self._link.close()

    async def _wait_until(self, is_true: Callable[[], bool]) -> None:
        self._check_alive()
        while not is_true():
            await self._wait_for_change()
            self._check_alive()

    async def _wait_for_change(self) -> None:
        self._changed.clear()  # cannot lose a wake-up: set() has released its waiters already
        await self._changed.wait()

    # Bookkeeping --------------------------------------------------------------------------------------------------

    def _can_send(self, inbox: StreamInbox, payload_bytes: int, raw_lead_bytes: int) -> bool:
        if inbox.error is not None:
            raise inbox.error
        return self._protocol.ready and self._protocol.has_room(payload_bytes, raw_lead_bytes=raw_lead_bytes)

    def _is_settled(self) -> bool:
        told = self._protocol.flushed or self._protocol.peer_closed
        return told and self._sender_idle and not self._to_send.is_set()

    def _new_inbox(self, stream_id: int) -> StreamInbox:
        inbox = StreamInbox(stream_id)
        self._inboxes[stream_id] = inbox
        return inbox

    def _forget_if_done(self, inbox: StreamInbox) -> None:
        if inbox.eof_sent and inbox.eof_received:
            self._inboxes.pop(inbox.stream_id, None)

    def _drop(self, inbox: StreamInbox) -> None:
        """What has arrived will not be read: report it as consumed, so that it leaves the window."""
        self._inboxes.pop(inbox.stream_id, None)
        for sequence in inbox.discard_unread():
            self._protocol.data_consumed(sequence)
        self._changed.set()

    def _end_streams(self, error: LaneError) -> None:
        for inbox in self._inboxes.values():
            inbox.fail(error)
        self._inboxes.clear()
        self._changed.set()

    def _fail(self, error: LaneError) -> None:
        if self._failure is None:
            self._failure = error
            for inbox in self._inboxes.values():
                inbox.received.clear()
            self._end_streams(error)
            self._over.set()

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._over.is_set():
            raise LaneClosedError(lane=self.lane, by_peer=False)
