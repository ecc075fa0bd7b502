"""One connection to libvirtd: blocking calls in threads, libvirt's errors as ours, lifecycle events on the event loop.

libvirt's event loop runs on a thread of its own, one per process. Events are stamped there, at once, and then handed to
asyncio. Which calls are made is `libvirt_adapter`'s matter.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar, cast
from uuid import UUID

import libvirt

from services.node_agent.hypervisor.interface import (
    EventListener,
    HypervisorError,
    Lifecycle,
    LifecycleEvent,
    MigrationAborted,
    VmNotFound,
)
from services.node_agent.hypervisor.libvirt_types import LibvirtConnection, LibvirtDomain

R = TypeVar("R")
MAX_BLOCKING_CALLS = 32
"""Threads for libvirt. A migration holds one for as long as it runs."""
KEEPALIVE_S, KEEPALIVE_MISSES = 5, 6
"""libvirtd is given up after 30 s without an answer."""

_LIFECYCLES: Mapping[int, Lifecycle] = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: Lifecycle.STARTED,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: Lifecycle.SUSPENDED,
    libvirt.VIR_DOMAIN_EVENT_RESUMED: Lifecycle.RESUMED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED: Lifecycle.STOPPED,
    libvirt.VIR_DOMAIN_EVENT_CRASHED: Lifecycle.STOPPED,
}


class _EventThread:
    """libvirt's default event loop on a daemon thread; one for the process, since libvirt has one per process."""

    _lock = threading.Lock()
    _started = False

    @classmethod
    def start(cls) -> None:
        with cls._lock:
            if cls._started:
                return
            libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised; libvirt would print them as well
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=cls._run, name="libvirt-events", daemon=True).start()
            cls._started = True

    @staticmethod
    def _run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()


class LibvirtSession:
    """A connection that reopens itself. Make it on the event loop that is to hear its events."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._questions = Questions()
        self._pool = ThreadPoolExecutor(MAX_BLOCKING_CALLS, thread_name_prefix="libvirt")
        self._connection: LibvirtConnection | None = None
        self._connecting = threading.Lock()
        self._listeners: list[EventListener] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def connect(self) -> None:
        """Open the connection and subscribe to events."""
        self._loop = asyncio.get_running_loop()
        await self.call("connect to libvirt", self.open)

    async def close(self) -> None:
        """Close the connection; calls that still block end with it."""
        self._questions.abandon()
        connection, self._connection = self._connection, None
        if connection is not None:
            await self.call("close libvirt", connection.close)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def listen(self, listener: EventListener) -> Callable[[], None]:
        """Hear lifecycle events on the event loop."""
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def open(self) -> LibvirtConnection:
        """The connection, reopened where libvirtd was restarted. Blocking: call it in a worker thread."""
        with self._connecting:
            if self._connection is not None and self._connection.isAlive():
                return self._connection
            _EventThread.start()
            connection = cast("LibvirtConnection", libvirt.open(self._uri))
            connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_MISSES)
            connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle, None)
            self._connection = connection
            return connection

    def _on_lifecycle(
        self, _connection: object, domain: LibvirtDomain, event: int, detail: int, _opaque: object
    ) -> None:
        at_s = time.monotonic()  # here, not on the event loop: a busy loop would make every outage longer
        kind = _LIFECYCLES.get(event, Lifecycle.OTHER)
        # During a migration libvirt gives every pause as the migration's (qemuDomainSuspend).
        asked_for = event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED and detail == libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED
        event_seen = LifecycleEvent(UUID(domain.UUIDString()), kind, at_s, f"{event}.{detail}", by_operator=asked_for)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._notify, event_seen)

    def _notify(self, event: LifecycleEvent) -> None:
        for listener in tuple(self._listeners):
            listener(event)

    async def call(self, doing: str, function: Callable[[], R]) -> R:
        """Run a blocking call in a worker thread. Raises `HypervisorError` for libvirt's own errors."""
        with _our_errors(doing):
            return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def ask(
        self, doing: str, uuid: UUID, function: Callable[[LibvirtConnection, LibvirtDomain], R], *, within_s: float
    ) -> R:
        """Ask what a VM's QEMU has to answer, which may hang: on a connection that nothing else uses.

        Raises `HypervisorError`, also where there is no answer in time, and `VmNotFound`.
        """

        def question() -> R:
            connection = self._questions.open(self._uri)
            return function(connection, _lookup(connection, uuid))

        doing = f"{doing} VM {uuid}"
        with _our_errors(doing):
            return await self._questions.ask(doing, uuid, question, within_s=within_s)

    async def with_domain(self, doing: str, uuid: UUID, function: Callable[[LibvirtDomain], R]) -> R:
        """As `call`, with the VM's domain. Raises `VmNotFound`, too."""
        return await self.call(f"{doing} VM {uuid}", lambda: function(_lookup(self.open(), uuid)))


class Questions:
    """Questions that a QEMU may never answer. Each VM has one at a time, so a QEMU that hangs holds one thread.

    libvirtd reads five calls of one connection at once, so a connection on which one hangs is used no more.
    """

    def __init__(self) -> None:
        self._connection: LibvirtConnection | None = None
        self._opening = threading.Lock()
        self._waiting: dict[UUID, asyncio.Future[Any]] = {}

    def open(self, uri: str) -> LibvirtConnection:
        """The connection, opened again where it was abandoned or broke. Blocking."""
        with self._opening:
            if self._connection is None or not self._connection.isAlive():
                _EventThread.start()
                self._connection = cast("LibvirtConnection", libvirt.open(uri))
                self._connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_MISSES)
            return self._connection

    def abandon(self) -> None:
        """Use this connection no more. It closes when the last call on it has ended."""
        self._connection = None

    async def ask(self, doing: str, uuid: UUID, question: Callable[[], R], *, within_s: float) -> R:
        """Raises `HypervisorError` where there is no answer in time, and whatever the question raises."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + within_s
        while (earlier := self._waiting.get(uuid)) is not None:
            await asyncio.wait({earlier}, timeout=max(0.0, end_s - loop.time()))
            if not earlier.done():
                raise HypervisorError(doing, f"its QEMU has not answered an earlier question for {within_s:g} s")
        answer: asyncio.Future[R] = _in_a_thread(loop, question)
        self._waiting[uuid] = answer
        answer.add_done_callback(lambda done: self._answered(uuid, done))
        await asyncio.wait({answer}, timeout=max(0.0, end_s - loop.time()))
        if not answer.done():
            self.abandon()
            raise HypervisorError(doing, f"its QEMU has not answered within {within_s:g} s")
        return answer.result()

    def _answered(self, uuid: UUID, answer: asyncio.Future[Any]) -> None:
        if self._waiting.get(uuid) is answer:
            del self._waiting[uuid]
        answer.exception()  # whoever asked may wait no more


def _in_a_thread(loop: asyncio.AbstractEventLoop, question: Callable[[], R]) -> asyncio.Future[R]:
    """Run in a thread that does not keep this process from ending, as a pool's would."""
    answer: asyncio.Future[R] = loop.create_future()

    def tell(result: R | None, error: BaseException | None) -> None:
        if answer.cancelled():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(cast("R", result))

    def run() -> None:
        try:
            result, error = question(), None
        except Exception as raised:  # noqa: BLE001  # raised again where the answer is waited for
            result, error = None, raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name="libvirt-question", daemon=True).start()
    return answer


@contextmanager
def _our_errors(doing: str) -> Iterator[None]:
    """Turn libvirt's errors into ours."""
    try:
        yield
    except libvirt.libvirtError as error:
        reason = error.get_error_message() or str(error)
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_ABORTED:
            raise MigrationAborted(doing, reason) from error
        raise HypervisorError(doing, reason) from error


def _lookup(connection: LibvirtConnection, uuid: UUID) -> LibvirtDomain:
    try:
        return connection.lookupByUUIDString(str(uuid))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            raise VmNotFound(uuid) from error
        raise
