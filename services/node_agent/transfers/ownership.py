"""Drives a transfer's machine: takes its events one after another, and has each command carried out in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar
from uuid import UUID

from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError
from services.node_agent.lanes.core.errors import QuestionError
from services.node_agent.state.journal import Phase
from services.node_agent.switchover.post_copy_request import PostCopyDenied
from services.node_agent.switchover.vcpu_watch import VcpuWatch
from services.node_agent.transfers.machine import Donor, Guest, Recipient, step
from services.node_agent.transfers.machine import commands as do
from services.node_agent.transfers.machine import events as ev
from services.node_agent.transfers.machine.commands import Command
from services.node_agent.transfers.machine.events import Event, FreezeFailed, Frozen, LibvirtSaid, Stored, StoreFailed
from shared.logs import get_logger
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


def store_phase(store: Callable[[Phase], None], phase: Phase) -> Stored | StoreFailed:
    """Carry out `Store`."""
    try:
        store(phase)
    except OSError as error:
        log.error("journal cannot be written", phase=phase, error=str(error))  # noqa: TRY400  # a full disk, no defect
        return StoreFailed(str(error))
    return Stored()


async def look_at_guest(
    hypervisor: Hypervisor,
    vm_uuid: UUID,
    vcpus: VcpuWatch | None = None,
    ended_by_itself: Callable[[], bool] = lambda: False,
) -> LibvirtSaid:
    """Carry out `LookAtGuest`. No answer of libvirt's is an answer, too: unknown. Then `vcpus` judges the process.
    `ended_by_itself`: what libvirt's hook knows of a guest that is gone.
    """
    # Before libvirt is asked: what it ends once it is back must not look as if it had ended by itself.
    used_ns = await hypervisor.vcpu_time_ns(vm_uuid) if vcpus is not None else None
    try:
        guest = Guest.of(await hypervisor.state(vm_uuid))
        if guest is Guest.PAUSED and await hypervisor.is_left_behind(vm_uuid):
            guest = Guest.LEFT_BEHIND
        if guest is Guest.PAUSED:
            return LibvirtSaid(guest, ran=await hypervisor.is_paused_after_start(vm_uuid))
        return LibvirtSaid(guest, ran=guest is Guest.NOT_THERE and ended_by_itself())
    except HypervisorError as error:
        ran = vcpus is not None and vcpus.has_run(used_ns)
        log.warning("guest state unknown", vm=str(vm_uuid), error=str(error), ran=ran)
        return LibvirtSaid(Guest.UNKNOWN, ran=ran)


async def freeze_guest(hypervisor: Hypervisor, vm_uuid: UUID) -> Frozen | FreezeFailed:
    """Carry out `Freeze`."""
    try:
        fenced = await hypervisor.freeze(vm_uuid)
    except HypervisorError as error:
        log.warning("guest not frozen", vm=str(vm_uuid), error=str(error))
        return FreezeFailed(str(error))
    log.info("guest frozen for the switchover", fence=fenced)
    return Frozen(fenced)


async def let_run(hypervisor: Hypervisor, vm_uuid: UUID, command: do.Thaw | do.AbortJob | do.Resume) -> None:
    """Carry out one of these; what fails is tried again when the guest is looked at."""
    try:
        match command:
            case do.Thaw():
                await hypervisor.thaw(vm_uuid)
            case do.AbortJob():
                await hypervisor.abort_job(vm_uuid)
            case do.Resume():
                log.warning("guest left paused by libvirt; resuming it", vm=str(vm_uuid))
                await hypervisor.resume(vm_uuid)
    except HypervisorError as error:
        log.warning("guest not let run yet", vm=str(vm_uuid), step=type(command).__name__, error=str(error))


async def ask_for_post_copy(
    ask: Callable[[], Awaitable[None]],
) -> ev.PostCopyGranted | ev.PostCopyDenied | ev.PostCopyUnanswered:
    """Carry out `AskForPostCopy`. `ask` raises `QuestionError`."""
    try:
        await ask()
    except PostCopyDenied as error:
        log.info("post-copy denied", reason=str(error))
        return ev.PostCopyDenied()
    except QuestionError as error:
        log.warning("post-copy not granted yet; asking again", reason=str(error))
        return ev.PostCopyUnanswered()
    return ev.PostCopyGranted()


async def start_post_copy(hypervisor: Hypervisor, vm_uuid: UUID) -> ev.PostCopyStarted | ev.PostCopyFailed:
    """Carry out `StartPostCopy`."""
    try:
        await hypervisor.start_post_copy(vm_uuid)
    except HypervisorError as error:
        log.warning("post-copy not started", error=str(error))
        return ev.PostCopyFailed()
    log.info("post-copy started")
    return ev.PostCopyStarted()


async def clear_copy(hypervisor: Hypervisor, vm_uuid: UUID, *, again_s: float) -> None:
    """Carry out `Destroy`: its process first, which needs no libvirtd, then libvirt's view of it, however long."""
    while True:
        try:
            await hypervisor.kill_frozen(vm_uuid)
            await hypervisor.destroy(vm_uuid)
            if Guest.of(await hypervisor.state(vm_uuid)) is Guest.NOT_THERE:
                return
        except HypervisorError as error:
            log.warning("copy of the guest that has left not cleared yet", vm=str(vm_uuid), error=str(error))
        await asyncio.sleep(again_s)
