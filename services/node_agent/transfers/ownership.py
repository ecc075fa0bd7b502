"""Drives a transfer's machine: takes its events one after another, and has each command carried out in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError
from services.node_agent.state.journal import Phase, TransferJournal
from services.node_agent.switchover.start_fence import StartFence
from services.node_agent.transfers.machine import Donor, Guest, Recipient, step
from services.node_agent.transfers.machine.commands import Command
from services.node_agent.transfers.machine.events import Event, LibvirtSaid, Stored, StoreFailed
from shared.logs import get_logger
from shared.messages.porting import ServiceChangeAgreement
from shared.tasks import first_of

S = TypeVar("S", Donor, Recipient)
T = TypeVar("T")
Perform = Callable[[Command], Awaitable[Event | None]]

log = get_logger(__name__)


class Ownership(Generic[S]):
    """One side's machine and its state. `run` until cancelled; `tell` it events at any time, before that, too."""

    def __init__(self, state: S, perform: Perform) -> None:
        """`perform` carries out one command; the event that it returns is heard before any other."""
        self.state: S = state
        self._perform = perform
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._running: asyncio.Task[None] | None = None

    def tell(self, event: Event) -> None:
        """Something has happened."""
        self._events.put_nowait(event)

    async def run(self) -> None:
        """Take events, until cancelled."""
        self._running = asyncio.current_task()
        while True:
            await self.take(await self._events.get())

    async def take(self, event: Event) -> None:
        """Take one event, with all that follows from it at once. Not beside `run`."""
        pending = deque([event])
        while pending:
            event = pending.popleft()
            decision = step(self.state, event)
            if decision.state.phase is not self.state.phase:
                log.info("ownership", phase=decision.state.phase, was=self.state.phase, event_=type(event).__name__)
            self.state = decision.state
            for command in decision.commands:
                result = await self._perform(command)
                if result is not None:
                    pending.append(result)

    async def until(self, future: asyncio.Future[T]) -> T:
        """Wait for what a command brings. Raises what broke `run`, which then never brings it."""
        if self._running is None:
            return await asyncio.shield(future)
        if await first_of(future, self._running) == 1:
            self._running.result()
            raise asyncio.CancelledError
        return future.result()


def store_phase(journal: TransferJournal, phase: Phase) -> Stored | StoreFailed:
    """Carry out `Store`."""
    try:
        journal.enter(phase)
    except OSError as error:
        log.error("journal cannot be written", phase=phase, error=str(error))  # noqa: TRY400  # a full disk, no defect
        return StoreFailed(str(error))
    return Stored()


def store_donor_phase(journal: TransferJournal, fence: StartFence, phase: Phase) -> Stored | StoreFailed:
    """Carry out the donor's `Store`: where another host may run the guest from now on, this one must not boot it."""
    if phase in {Phase.POST_COPY, Phase.FINISH_PASSED}:
        try:
            fence.close("the switchover was asked for")
        except OSError as error:
            log.error("start fence not closed", phase=phase, error=str(error))  # noqa: TRY400  # a full disk, no defect
            return StoreFailed(str(error))
    return store_phase(journal, phase)


async def look_at_guest(hypervisor: Hypervisor, agreement: ServiceChangeAgreement) -> LibvirtSaid:
    """Carry out `LookAtGuest`. No answer of libvirt's is an answer, too: unknown."""
    try:
        return LibvirtSaid(Guest.of(await hypervisor.state(agreement.vm_uuid)))
    except HypervisorError as error:
        log.warning("guest state unknown", vm=str(agreement.vm_uuid), error=str(error))
        return LibvirtSaid(Guest.UNKNOWN)
