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
from services.node_agent.switchover.verdict import Verdict
from shared.logs import get_logger
from shared.tasks import first_error

log = get_logger(__name__)

_READ_BYTES = 256 * 1024
_HANG_UP_S = 5.0


class FinishGuard(Protocol):
    """Who knows what a Finish means."""

    async def before_finish(self) -> None:
        """The guest is paused and everything was sent: fence it and remember. Finish goes out when this returns."""
        ...

    async def after_finish(self, error: str | None) -> Verdict:
        """The recipient answered. Return where the guest runs; never `WAIT`."""
        ...

    async def ask_broker(self) -> Verdict:
        """Finish is out: return where the guest runs as soon as the broker's ledger says so. Runs beside the
        waiting."""
        ...

    async def lift_fence(self) -> None:
        """libvirtd, which still waits, hears the outcome next."""
        ...

    async def outcome_unknown(self, reason: str) -> Verdict:
        """The lane is gone and no answer came. Return where the guest runs; never `WAIT`."""
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
        self._asking: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve until libvirtd hangs up. Raises, after hanging up: `RpcError` where a side speaks no RPC, LaneError or
        StreamError where the recipient is gone before Finish.
        """
        try:
            async with asyncio.TaskGroup() as group:
                from_lane = group.create_task(self._from_lane())
                await self._from_local(group)
                self._stop_asking()
                if not self._relay.finish_open:
                    # The recipient sees the end and ends its transfer, too; a stuck one is not waited for.
                    await asyncio.wait({from_lane}, timeout=_HANG_UP_S)
                # With libvirtd gone nothing can be told to it any more; whoever called migrate settles the rest.
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
                if self._relay.finish_open and self._asking is None:
                    self._asking = group.create_task(self._ask())
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
            self._stop_asking()
            await self._settle(await self._guard.outcome_unknown(reason), reason)
        else:
            # libvirtd may be waiting for an answer that will never come; the end of the connection tells it.
            self._writer.close()

    async def _ask(self) -> None:
        verdict = await self._guard.ask_broker()
        if self._relay.finish_open:
            await self._settle(verdict, "the broker settled the switchover before the recipient answered")

    def _stop_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

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
                    await self._guard.before_finish()
                    await self._perform(self._relay.pass_finish())
                case FinishAnswered(error):
                    self._stop_asking()
                    verdict = await self._guard.after_finish(error)
                    if (verdict is Verdict.RUNS_THERE) == (error is None):
                        await self._guard.lift_fence()
                        await self._perform(self._relay.release())
                    else:
                        await self._settle(verdict, error or "the broker gave the VM back")

    async def _settle(self, verdict: Verdict, reason: str) -> None:
        await self._guard.lift_fence()
        if verdict is Verdict.RUNS_THERE:
            await self._perform(self._relay.confirm())
        else:
            await self._perform(self._relay.refuse(f"the port failed: {reason}"))
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
