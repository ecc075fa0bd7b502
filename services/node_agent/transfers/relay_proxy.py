"""The donor's driver connection: moves bytes between its libvirtd and the lane as `libvirt_rpc.relay` says, and keeps
libvirtd's socket open for as long as the outcome of Finish is not known, whatever becomes of the lane.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

from services.node_agent.lanes.core.errors import LaneError, StreamError
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.libvirt_rpc.messages import FrameParser
from services.node_agent.libvirt_rpc.relay import (
    DonorAction,
    DonorRelay,
    FinishAnswered,
    FinishWanted,
    Prepared,
    ToLane,
    ToLocal,
    local_answer,
)
from services.node_agent.transfers.finish_guard import Outcome
from shared.logs import get_logger
from shared.tasks import first_error

log = get_logger(__name__)

_READ_BYTES = 256 * 1024
_HANG_UP_S = 5.0


class FinishGuard(Protocol):
    """Who knows what a Finish means."""

    async def before_finish(self) -> str | None:
        """The guest is paused and everything was sent. Finish goes out when this returns None; else libvirtd hears this
        reason, and lets the guest run on."""
        ...

    def finish_answered(self, error: str | None) -> None:
        """The recipient answered."""
        ...

    def lane_lost(self, reason: str) -> None:
        """No answer of the recipient will come."""
        ...

    async def outcome(self) -> Outcome:
        """Finish is out: return what libvirtd is to hear, when that is known."""
        ...


class RelayProxy:
    """One driver connection at the donor; `run` owns the socket."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        stream: LaneStream,
        relay: DonorRelay,
        guard: FinishGuard,
        *,
        before_it_moves: Callable[[], Awaitable[object]],
    ) -> None:
        """`before_it_moves` is waited for when the recipient is prepared, before libvirtd hears it."""
        self._reader = reader
        self._writer = writer
        self._stream = stream
        self._relay = relay
        self._guard = guard
        self._before_it_moves = before_it_moves
        self._lane_gone = False
        self._settling: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until libvirtd hangs up. Raises, after hanging up: `RpcError` where a side speaks no RPC, LaneError or
        StreamError where the recipient is gone before Finish.
        """
        try:
            async with asyncio.TaskGroup() as group:
                from_lane = group.create_task(self._from_lane())
                await self._from_local(group)
                if self._settling is not None:
                    # With libvirtd gone nothing can be told to it any more; whoever called migrate settles the rest.
                    self._settling.cancel()
                if not self._relay.finish_open:
                    # The recipient sees the end and ends its transfer, too; a stuck one is not waited for.
                    await asyncio.wait({from_lane}, timeout=_HANG_UP_S)
                from_lane.cancel()
        except ExceptionGroup as errors:
            raise first_error(errors) from None
        finally:
            self._stream.reset("the donor's hypervisor has hung up")
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    async def _from_local(self, group: asyncio.TaskGroup) -> None:
        goodbye = FrameParser()
        try:
            while data := await self._reader.read(_READ_BYTES):
                if self._lane_gone:
                    answers = (local_answer(frame) for frame in goodbye.receive_data(data))
                    await self._to_local(b"".join(answer.to_bytes() for answer in answers if answer is not None))
                    continue
                await self._perform(self._relay.receive_from_local(data))
                if self._relay.finish_open and self._settling is None:
                    self._settling = group.create_task(self._settle())
        except OSError as error:
            log.info("hypervisor connection lost", error=str(error))
        with contextlib.suppress(LaneError, StreamError):
            self._stream.write_eof()

    async def _from_lane(self) -> None:
        reason = "the recipient ended the connection"
        try:
            while data := await self._stream.read():
                await self._perform(self._relay.receive_from_lane(data))
        except (LaneError, StreamError) as error:
            if not self._relay.finish_open:
                raise
            reason = str(error)
        self._lane_gone = True
        if self._relay.finish_open:
            self._guard.lane_lost(reason)
        else:
            # libvirtd may be waiting for an answer that will never come; the end of the connection tells it.
            self._writer.close()

    async def _perform(self, actions: list[DonorAction]) -> None:
        for action in actions:
            match action:
                case ToLane(data):
                    await self._to_lane(data)
                case ToLocal(data):
                    await self._to_local(data)
                case Prepared(data):
                    await self._before_it_moves()
                    await self._to_local(data)
                case FinishWanted():
                    refusal = await self._guard.before_finish()
                    passed = self._relay.pass_finish() if refusal is None else self._relay.refuse(refusal)
                    await self._perform(passed)
                case FinishAnswered(error):
                    self._guard.finish_answered(error)

    async def _settle(self) -> None:
        outcome = await self._guard.outcome()
        answer = self._relay.confirm() if outcome.runs_there else self._relay.refuse(outcome.reason)
        await self._perform(answer)
        # libvirtd ends its connection by itself now; a dead one must not hold us.
        asyncio.get_running_loop().call_later(_HANG_UP_S, self._writer.close)

    async def _to_lane(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except (LaneError, StreamError) as error:
            # The reading direction hears of it, too, and decides; a Finish that may have gone out stays open.
            log.info("lane lost", error=str(error))

    async def _to_local(self, data: bytes) -> None:
        if not data:
            return
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            log.info("hypervisor connection lost", error=str(error))
