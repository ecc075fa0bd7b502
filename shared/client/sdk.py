"""A tenant's access to vmport: questions, ports, and the events of a port while it runs; over a bus `Session`.

Owns the conversation (which message answers which, time limits, what ends it), not the connection, and prints nothing.
Every call is bounded: it returns, or raises `NoAnswer`, `BusDown` or what the broker said (`shared.client.errors`).
`vmport.connect` opens one; with a session at hand:

    async with TenantClient(bus) as client:
        [vm] = await client.vms()
        await client.create_port(request)
        async for envelope in client.watch(request.port_id):
            print(envelope.data)
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Self, TypeVar
from uuid import UUID, uuid4

from shared.bus import BusDown, Session
from shared.client.errors import (
    CancelNotPossible,
    NoAnswer,
    NotFixedInTime,
    NotUnderstood,
    PortEndedOtherwise,
    QuestionFailed,
)
from shared.client.plan_calls import PlanCalls
from shared.client.port_ends import agreement_in, is_end, settled
from shared.clocks import ClockOffsets
from shared.messages import AnyEnvelope, Message, PortMessage, seal
from shared.messages.addresses import EndExtension, LocateVm, NetworkShown, ShowNetwork, VmLocated
from shared.messages.billing import BillShown, ShowBill
from shared.messages.costs import Bill
from shared.messages.porting import ServiceChangeAgreement
from shared.messages.queries import (
    Answer,
    ListPorts,
    ListProviders,
    ListVms,
    PortShown,
    PortsListed,
    PortSummary,
    ProvidersListed,
    ProviderStatus,
    QueryFailed,
    Question,
    RegisteredVm,
    ShowPort,
    ShowVm,
    VmShown,
    VmsListed,
)
from shared.messages.rules import CheckRules, ListRules, RulesChecked, RulesListed, ShownRule
from shared.messages.service_change import (
    CancelPort,
    MessageRejected,
    PortAccepted,
    PortCancelled,
    PortPhase,
    PortPlanned,
    PortRequested,
)
from shared.parties import BROKER
from shared.tasks import Tasks

A = TypeVar("A", bound=Answer)
M = TypeVar("M", bound=Message)

SHOW_VM_S = 30.0
"""The broker gives the VM's provider 25 s."""
MAX_WAITING_EVENTS = 1000
"""A watcher that reads too slowly loses the oldest events beyond these, never the end of the port."""


class _Subscription:
    """The events of one port, for one reader; bounded, oldest dropped."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[AnyEnvelope] = asyncio.Queue(MAX_WAITING_EVENTS)

    def put(self, envelope: AnyEnvelope) -> None:
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(envelope)

    async def get(self, timeout_s: float) -> AnyEnvelope | None:
        """The next event, or None after this long."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._queue.get()
        except TimeoutError:
            return None


REMEMBERED = 16
"""Messages whose answers still show the broker's clock."""


class TenantClient(PlanCalls):
    """One tenant's conversation with the broker. Use as an async context manager; it listens while it is open."""

    def __init__(
        self,
        bus: Session,
        *,
        timeout_s: float = 10.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._bus = bus
        self._timeout_s = timeout_s
        self._now = now
        self._new_id = new_id
        self._tasks = Tasks("tenant client")
        self._answers: dict[UUID, asyncio.Future[AnyEnvelope]] = {}
        self._subscriptions: dict[UUID, list[_Subscription]] = {}
        self._ports_of_messages: dict[str, UUID] = {}
        self._clocks = ClockOffsets()
        self._sent_at: dict[UUID, datetime] = {}

    @property
    def clock_ahead(self) -> timedelta:
        """By how much this host's clock is ahead of the broker's, by its answers; zero: not noticeably."""
        return -self._clocks.ahead(str(BROKER), self._now())

    async def __aenter__(self) -> Self:
        """Listen before anything is sent: an answer to a queue that is not bound yet is lost. Raises `BusDown`."""
        self._tasks.spawn(self._bus.consume(self._receive), name="listen")
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._bus.wait_listening()
        except TimeoutError as error:
            await self._close()
            raise BusDown(f"the bus gave {self._bus.party} no queue within {self._timeout_s:g} s; try again") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _close(self) -> None:
        try:
            await self._tasks.close()
        finally:
            await self._bus.close()

    # Questions

    async def ask(self, question: Question, expected: type[A], *, timeout_s: float | None = None) -> A:
        """Ask the broker; raises `NoAnswer`, `QuestionFailed`, `NotUnderstood` or `BusDown`."""
        answer = (await self._ask(question, timeout_s=timeout_s)).data
        if not isinstance(answer, expected):
            raise NotUnderstood("unexpected_answer", f"{type(answer).__name__} instead of {expected.__name__}")
        return answer

    async def vms(self) -> tuple[RegisteredVm, ...]:
        """All VMs of this tenant."""
        return (await self.ask(ListVms(), VmsListed)).vms

    async def vm(self, vm_uuid: UUID, *, timeout_s: float = SHOW_VM_S) -> VmShown:
        """One VM of this tenant, as its provider's node reads it now, and what speaks against a port of it."""
        return await self.ask(ShowVm(vm_uuid=vm_uuid), VmShown, timeout_s=max(timeout_s, self._timeout_s))

    async def providers(self) -> tuple[ProviderStatus, ...]:
        """All providers that the broker serves."""
        return (await self.ask(ListProviders(), ProvidersListed)).providers

    async def ports(self, *, limit: int = 100, active_only: bool = False) -> tuple[PortSummary, ...]:
        """This tenant's ports, the newest first."""
        return (await self.ask(ListPorts(limit=limit, active_only=active_only), PortsListed)).ports

    async def port(self, port_id: UUID) -> PortShown:
        """All about one port."""
        return await self.ask(ShowPort(port_id=port_id), PortShown)

    async def bill(self, port_id: UUID) -> Bill:
        """What a completed port has cost. Raises `QuestionFailed` for one that has not completed."""
        return (await self.ask(ShowBill(port_id=port_id), BillShown)).bill

    async def rules(self, *, regime: str | None = None, code: str | None = None) -> tuple[ShownRule, ...]:
        """The rules that the broker knows; with ``code`` those of this name, or that refuse with it."""
        return (await self.ask(ListRules(regime=regime, code=code), RulesListed)).rules

    async def check_rules(
        self, vm_uuid: UUID, *, recipient: str | None = None, timeout_s: float = SHOW_VM_S
    ) -> RulesChecked:
        """What the rules would say of a port of this VM now; its provider is asked, nothing moves."""
        question = CheckRules(vm_uuid=vm_uuid, recipient=recipient)
        return await self.ask(question, RulesChecked, timeout_s=max(timeout_s, self._timeout_s))

    async def locate(self, vm_uuid: UUID) -> VmLocated:
        """Who serves a VM, at which addresses, by which epoch. Raises `QuestionFailed` for one that is not yours."""
        return await self.ask(LocateVm(vm_uuid=vm_uuid), VmLocated)

    async def network(self, *, port_id: UUID | None = None, vm_uuid: UUID | None = None) -> NetworkShown:
        """How the VM of a port keeps its addresses; with ``vm_uuid`` by its newest port that keeps them."""
        return await self.ask(ShowNetwork(port_id=port_id, vm_uuid=vm_uuid), NetworkShown)

    async def end_extension(self, port_id: UUID) -> NetworkShown:
        """End the donor's help with a completed port's addresses. Raises `QuestionFailed` where there is none."""
        return await self.ask(EndExtension(port_id=port_id), NetworkShown)

    # Ports

    async def create_port(self, request: PortRequested, *, timeout_s: float | None = None) -> PortAccepted:
        """Ask for a port; returns when the broker has recorded it. Raises `PortNotAllowed` when it refuses."""
        if request.dry_run:
            raise ValueError("a dry run ends with its plan: use plan()")
        return await self._command(request, PortAccepted, timeout_s=timeout_s or self._timeout_s)

    async def plan(self, request: PortRequested, *, timeout_s: float = 60.0) -> PortPlanned:
        """A dry run: verify and collect quotes. Raises `PortNotAllowed` or `PortEndedOtherwise`."""
        if not request.dry_run:
            raise ValueError("this request is not a dry run: use create_port()")
        return await self._command(request, PortPlanned, timeout_s=timeout_s)

    async def wait_fixed(self, port_id: UUID, *, timeout_s: float = 120.0) -> ServiceChangeAgreement:
        """Wait until the port is fixed: donor, recipient and tenant have agreed, and it will be carried out.

        Raises `PortNotAllowed` when a party refuses it, `PortEndedOtherwise` when it failed or was cancelled before,
        and `NotFixedInTime` after ``timeout_s``; then the port goes on.
        """
        try:
            async with asyncio.timeout(timeout_s), contextlib.aclosing(self.watch(port_id)) as events:
                async for envelope in events:
                    if (agreement := agreement_in(envelope.data)) is not None:
                        return agreement
        except TimeoutError as error:
            raise NotFixedInTime(port_id, timeout_s) from error
        raise PortEndedOtherwise(port_id, PortPhase.PLANNED, code="dry_run", detail="")

    async def cancel(self, port_id: UUID, *, reason: str | None = None, timeout_s: float = 120.0) -> PortCancelled:
        """Cancel a port; returns when it is undone, or at once when it was cancelled before: ``phase`` is then
        `PortPhase.CANCELLED`. Raises `CancelNotPossible` or `PortEndedOtherwise`.
        """
        command = CancelPort(port_id=port_id, reason=reason) if reason else CancelPort(port_id=port_id)
        try:
            return await self._command(command, PortCancelled, timeout_s=timeout_s)
        except CancelNotPossible as error:
            if error.code != "already_ended" or (await self.port(port_id)).summary.phase is not PortPhase.CANCELLED:
                raise
            return PortCancelled(port_id=port_id, phase=PortPhase.CANCELLED)

    async def watch(
        self, port_id: UUID, *, poll_s: float = 5.0, poll_max_s: float = 30.0, give_up_s: float = 180.0
    ) -> AsyncGenerator[AnyEnvelope, None]:
        """The port's record now, then every event until its end.

        Events can be lost while RabbitMQ is away, so after ``poll_s`` without one the record is asked for, and
        yielded when it has changed. `NoAnswer` is raised after ``give_up_s`` without any answer; the port goes on.
        """
        with self._subscribed(port_id) as events:
            shown = await self._ask(ShowPort(port_id=port_id))
            yield shown
            silence_s, heard_at_s = poll_s, time.monotonic()
            while not is_end(shown.data):
                envelope = await events.get(silence_s)
                if envelope is None:
                    envelope = await self._asked_again(port_id)
                    if envelope is None and time.monotonic() - heard_at_s > give_up_s:
                        advice = f"the port goes on without a watcher; 'vmport port watch {port_id}' follows it again"
                        raise NoAnswer("for the port's record", give_up_s, advice=advice)
                    silence_s = min(silence_s * 2, poll_max_s)
                else:
                    silence_s = poll_s
                if envelope is None:
                    continue
                heard_at_s = time.monotonic()
                if envelope.data != shown.data:
                    yield envelope
                if isinstance(envelope.data, PortShown):
                    shown = envelope
                elif is_end(envelope.data):
                    return

    # Inside

    async def _asked_again(self, port_id: UUID) -> AnyEnvelope | None:
        with contextlib.suppress(NoAnswer, BusDown):
            return await self._ask(ShowPort(port_id=port_id))
        return None

    async def _ask(self, question: Question, *, timeout_s: float | None = None) -> AnyEnvelope:
        timeout_s = timeout_s or self._timeout_s
        question_id = self._new_id()
        future: asyncio.Future[AnyEnvelope] = asyncio.get_running_loop().create_future()
        self._answers[question_id] = future
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(question, question_id, correlation_id=question_id, deadline_s=timeout_s)
                answer = await future
        except TimeoutError as error:
            raise NoAnswer(type(question).__name__, timeout_s) from error
        finally:
            del self._answers[question_id]
        match answer.data:
            case QueryFailed(code=code, detail=detail):
                raise QuestionFailed(code, detail)
            case MessageRejected(code=code, reason=reason):
                raise NotUnderstood(code, reason)
            case _:
                return answer

    async def _command(self, command: PortRequested | CancelPort, wanted: type[M], *, timeout_s: float) -> M:
        """Send a command about a port and wait for the event that settles it."""
        command_id = self._new_id()
        ends_at_s = time.monotonic() + timeout_s
        advice = f"it may still act on it; see 'vmport port show {command.port_id}'"
        with self._subscribed(command.port_id, message_id=command_id) as events:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._send(command, command_id)
            except TimeoutError as error:
                raise NoAnswer(type(command).__name__, timeout_s, advice=advice) from error
            while (left_s := ends_at_s - time.monotonic()) > 0:
                envelope = await events.get(left_s)
                if envelope is not None and (outcome := settled(envelope.data, wanted)) is not None:
                    return outcome
        raise NoAnswer(type(command).__name__, timeout_s, advice=advice)

    async def _send(
        self, message: Message, message_id: UUID, *, correlation_id: UUID | None = None, deadline_s: float | None = None
    ) -> None:
        now = self._now()
        while len(self._sent_at) >= REMEMBERED:
            del self._sent_at[next(iter(self._sent_at))]
        self._sent_at[message_id] = now
        envelope = seal(
            message,
            source=self._bus.party,
            message_id=message_id,
            now=now,
            correlation_id=correlation_id,
            deadline=now + timedelta(seconds=deadline_s) if deadline_s else None,
        )
        await self._bus.publish(BROKER, envelope)

    @contextmanager
    def _subscribed(self, port_id: UUID, *, message_id: UUID | None = None) -> Iterator[_Subscription]:
        subscription = _Subscription()
        self._subscriptions.setdefault(port_id, []).append(subscription)
        if message_id:
            self._ports_of_messages[str(message_id)] = port_id
        try:
            yield subscription
        finally:
            self._subscriptions[port_id].remove(subscription)
            if not self._subscriptions[port_id]:
                del self._subscriptions[port_id]
            self._ports_of_messages.pop(str(message_id), None)

    async def _receive(self, envelope: AnyEnvelope) -> None:
        """Give a message to what waits for it. The queue also has answers to other sessions of this tenant."""
        asked_at = self._sent_at.get(envelope.causationid) if envelope.causationid else None
        if asked_at is not None and envelope.sender == BROKER:
            self._clocks.answered(str(BROKER), asked_at=asked_at, sent_at=envelope.time, now=self._now())
        match envelope.data:
            case Answer():
                self._answer(envelope.correlationid, envelope)
            case MessageRejected(message_id=message_id):
                if port_id := self._ports_of_messages.get(message_id):
                    self._tell(port_id, envelope)
                with contextlib.suppress(ValueError):
                    self._answer(UUID(message_id), envelope)
            case PortMessage(port_id=port_id):
                self._tell(port_id, envelope)

    def _answer(self, question_id: UUID, envelope: AnyEnvelope) -> None:
        future = self._answers.get(question_id)
        if future is not None and not future.done():
            future.set_result(envelope)

    def _tell(self, port_id: UUID, envelope: AnyEnvelope) -> None:
        for subscription in self._subscriptions.get(port_id, ()):
            subscription.put(envelope)
