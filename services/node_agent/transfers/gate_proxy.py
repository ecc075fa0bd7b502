"""The recipient's driver connection: moves bytes between lane and libvirtd as `libvirt_rpc.gate` says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from services.node_agent.lanes.core.errors import LaneError, StreamError
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.libvirt_rpc.gate import (
    Action,
    FinishAnswered,
    PrepareAnswered,
    Refused,
    RpcGate,
    Step,
    SwitchoverWanted,
    ToDonor,
    ToLibvirtd,
)
from services.node_agent.libvirt_rpc.gate_terms import GateRefusal
from shared.logs import get_logger
from shared.messages.porting import SwitchoverDenied
from shared.tasks import first_error

log = get_logger(__name__)

_READ_BYTES = 256 * 1024


class FinishDecider(Protocol):
    """Who decides for the gate, and hears of it."""

    async def ask_switchover(self) -> SwitchoverDenied | None:
        """Ask the broker; None when the guest may run."""
        ...

    def finish_answered(self, error: str | None, *, hung_up: bool = False) -> None:
        """libvirtd answered Finish, or has hung up; without an error the guest runs here."""
        ...


class GateProxy:
    """One driver connection at the recipient; `run` owns libvirtd's socket. `post_copy_started` is set by its owner."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        stream: LaneStream,
        gate: RpcGate,
        owner: FinishDecider,
        *,
        prepared: Callable[[], None] = lambda: None,
    ) -> None:
        """`prepared` is called when libvirtd has made the incoming guest with its devices."""
        self._reader = reader
        self._writer = writer
        self._stream = stream
        self._gate = gate
        self._owner = owner
        self._prepared = prepared
        self._donor_gone = False
        self.post_copy_started = False

    @property
    def finish_in_flight(self) -> bool:
        """Whether the donor asked to run the guest and this host's libvirtd has not answered."""
        return self._gate.step in {Step.FINISH_HELD, Step.FINISHING}

    async def run(self) -> None:
        """Serve until both sides have hung up. Raises `GateRefusal`, `RpcError`, OSError."""
        try:
            async with asyncio.TaskGroup() as group:
                from_libvirtd = group.create_task(self._from_libvirtd())
                await self._from_donor(group)
                if self.finish_in_flight:
                    await from_libvirtd  # the guest is being started; how that ends must be known
                from_libvirtd.cancel()
            self._end_stream()
        except asyncio.CancelledError:
            self._stream.reset("the recipient's node agent stopped the transfer")
            raise
        except ExceptionGroup as errors:
            raise first_error(errors) from None
        finally:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    async def _from_donor(self, group: asyncio.TaskGroup) -> None:
        try:
            while data := await self._stream.read():
                await self._perform(self._gate.receive_from_donor(data), group)
        except (LaneError, StreamError) as error:
            log.info("driver connection lost", error=str(error))
        self._donor_gone = True

    async def _from_libvirtd(self) -> None:
        while data := await self._reader.read(_READ_BYTES):
            await self._perform(self._gate.receive_from_libvirtd(data), None)
            if self._donor_gone and not self.finish_in_flight:
                return
        if self.finish_in_flight:
            self._owner.finish_answered("this host's libvirtd ended the connection", hung_up=True)
        self._end_stream()

    def _end_stream(self) -> None:
        with contextlib.suppress(LaneError, StreamError):
            self._stream.write_eof()

    async def _perform(self, actions: list[Action], group: asyncio.TaskGroup | None) -> None:
        for action in actions:
            match action:
                case ToLibvirtd(data):
                    self._writer.write(data)
                    await self._writer.drain()
                case ToDonor(data):
                    await self._to_donor(data)
                case PrepareAnswered(error):
                    log.info("incoming domain prepared" if error is None else "incoming domain refused", error=error)
                    if error is None:
                        self._prepared()
                case SwitchoverWanted() if group is not None:
                    group.create_task(self._decide())
                case FinishAnswered(cancelled=cancelled, error=error):
                    self._owner.finish_answered("cancelled by the donor" if cancelled else error)
                case Refused(refusal):
                    raise GateRefusal(refusal.code, refusal.detail)
                case SwitchoverWanted():
                    pass  # only the donor's side can want it

    async def _decide(self) -> None:
        denied = await self._owner.ask_switchover()
        log.info(
            "switchover granted" if denied is None else "switchover denied",
            reason=None if denied is None else denied.detail,
        )
        await self._perform(self._gate.grant() if denied is None else self._gate.deny(), None)

    async def _to_donor(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except (LaneError, StreamError) as error:
            log.info("reply to the donor lost", error=str(error))
