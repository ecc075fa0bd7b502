"""Node agents' network parts, each in a process of its own in its host's namespace, told by a pipe what has happened.

What changes the kernel is the product's: keeper, journal, extension, announcer, and a gateway's list of served VMs.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from services.node_agent.lanes.routes.caps import Caps
from services.node_agent.lanes.routes.direct import DirectListener
from services.node_agent.lanes.routes.factory import LaneRoutes
from services.node_agent.metrics import NodeMetrics
from services.node_agent.network.extension.ports import PortExtensions
from services.node_agent.network.journal import NetworkJournal
from services.node_agent.network.keeper import NetworkKeeper
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.port_moments import PortMoments
from services.node_agent.network.served import ServedVms
from services.node_agent.network.steps import NftTable, Step
from services.node_agent.network.tracking.taken import TakenConnections
from services.node_agent.settings import DirectSection
from shared.messages.addresses import NetworkState, ServeAddresses
from shared.messages.porting import ServiceChangeAgreement, Side
from tests.bench.network_switch_bench.places import LANE_PORT, Places
from tests.support.extension_ends import NoRelay
from tests.support.lane_credentials import Pair

_CLONE_NEWNET = 0x40000000


class WatchedMaker(StepMaker):
    """Remembers when a table was last made or removed: nothing is known to the kernel before."""

    def __init__(self) -> None:
        super().__init__()
        self.committed_ns = 0

    async def make(self, steps: Iterable[Step]) -> None:
        """As ever."""
        wanted = tuple(steps)
        await super().make(wanted)
        self._note(wanted)

    async def undo(self, steps: Iterable[Step]) -> tuple[str, ...]:
        """As ever."""
        unwanted = tuple(steps)
        left = await super().undo(unwanted)
        self._note(unwanted)
        return left

    def _note(self, steps: Iterable[Step]) -> None:
        if any(isinstance(step, NftTable) for step in steps):
            self.committed_ns = time.time_ns()


class Host:
    """What a process does with the words of its pipe. `maker` has the time of its last rule."""

    def __init__(self, maker: WatchedMaker) -> None:
        self.maker = maker

    async def do(self, word: str, *values: Any) -> Any:
        """Carry out a word; what it returns is the answer."""
        return await getattr(self, word)(*values)

    async def committed(self) -> int:
        """When its last rule was in the kernel, in nanoseconds since 1970."""
        return self.maker.committed_ns

    async def close(self) -> None:
        """End."""


class SideHost(Host):
    """A provider's node."""

    def __init__(self, places: Places, side: Side, credentials: Pair, directory: Path) -> None:
        super().__init__(WatchedMaker())
        self._side, self._places, self._credentials, self._directory = side, places, credentials, directory
        self._agreed: dict[Any, ServiceChangeAgreement] = {}
        self._listener = DirectListener()

    async def start(self) -> None:
        """Have everything that a node agent has."""
        inbound = self._side is Side.INBOUND
        listen = f"{self._places.plan.wan_address('beta')}:{LANE_PORT}" if inbound else None
        if listen is not None:
            await self._listener.listen(listen)
        metrics = NodeMetrics(CollectorRegistry())
        relay: Any = NoRelay()
        routes = LaneRoutes(relay, DirectSection(listen=listen), metrics, caps=Caps(), listener=self._listener)
        keys = (self._credentials.recipient if inbound else self._credentials.donor).keys
        if listen is not None:
            endpoint = keys.endpoint.model_copy(update={"direct": (listen,)})
            keys = type(keys)(keys.identity, endpoint, {})
        self._journal = NetworkJournal(self._directory / "network")
        self._extensions = PortExtensions(routes.link, keys)
        keeper = NetworkKeeper(self._journal, self.maker, extensions=self._extensions, report=_tell_nobody)
        self._moments = PortMoments(keeper, TakenConnections(self._directory / "network"), report=_tell_nobody)
        self._watching = asyncio.ensure_future(keeper.run())

    async def prepare(self, agreement: ServiceChangeAgreement, taps: dict[str, str]) -> None:
        """Before the switchover; at the donor until the extension's ends have met."""
        self._agreed[agreement.port_id] = agreement
        await self._moments.prepare(self._side, agreement, taps)

    async def met(self, port_id: Any) -> None:
        """Return when both ends of an extension speak; at once where there is none."""
        extension = self._extensions._open.get(port_id)
        if extension is not None:
            await extension.connected.wait()

    async def moment(self, name: str, port_id: Any) -> None:
        """`guest_stands_still` or `guest_runs_on`, which take a port's id, or one that takes the agreement."""
        by_id = name in {"guest_stands_still", "guest_runs_on"}
        getattr(self._moments, name)(port_id if by_id else self._agreed[port_id])

    async def undo(self, port_id: Any) -> tuple[str, ...]:
        """The VM is the donor's again, as if the ledger had taken the move back: another port would bring it home."""
        self._journal.note(port_id, self._side, there=False)
        return await self._moments.undo(port_id, self._side)

    async def close(self) -> None:
        """End."""
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching
        await self._moments.close()
        await self._extensions.close_all()
        await self._listener.close()


class GatewayHost(Host):
    """A gateway of the neutral prefix."""

    def __init__(self, directory: Path) -> None:
        super().__init__(WatchedMaker())
        self._served = ServedVms(directory / "served", self.maker)

    async def start(self) -> None:
        """Nothing is known yet."""

    async def serve(self, told: ServeAddresses) -> int:
        """As the broker says."""
        return await self._served.serve(told)


def _tell_nobody(agreement: ServiceChangeAgreement, state: NetworkState, detail: str = "") -> None:
    if state is NetworkState.FAILED:
        raise AssertionError(f"port {agreement.port_id}: {detail}")


@dataclass
class Process:
    """A process in a namespace. `say` returns at once, `ask` with the answer."""

    process: Any
    pipe: Any

    def say(self, *words: Any) -> None:
        """Nobody waits for it."""
        self.pipe.send((False, *words))

    def ask(self, *words: Any, within_s: float = 20.0) -> Any:
        """Raises AssertionError where there is no answer, or it is an error's text."""
        self.pipe.send((True, *words))
        if not self.pipe.poll(within_s):
            raise AssertionError(f"no answer to {words[0]}")
        done, answer = self.pipe.recv()
        if not done:
            raise AssertionError(f"{words[0]}: {answer}")
        return answer

    def end(self) -> None:
        """It ends in order, or by force."""
        with suppress(OSError):
            self.pipe.send(None)
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(10)


def spawn(work: Callable[..., None], *values: Any) -> Process:
    """A process that gets the far end of a pipe as its last value."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(*values, there), daemon=True)
    process.start()
    there.close()
    return Process(process, here)


def spawn_host(namespace: Path, make: Callable[[], Any]) -> Process:
    """A host's process; it is ready for words."""
    return spawn(_run_host, namespace, make)


def _run_host(namespace: Path, make: Callable[[], Any], pipe: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with namespace.open("rb") as entry:
        if ctypes.CDLL(None, use_errno=True).setns(entry.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot enter the namespace")
    asyncio.run(_serve(make(), pipe))


async def _serve(host: Any, pipe: Any) -> None:
    await host.start()
    loop = asyncio.get_running_loop()
    words: asyncio.Queue[Any] = asyncio.Queue()

    def listen() -> None:
        while (heard := _receive(pipe)) is not None:
            loop.call_soon_threadsafe(words.put_nowait, heard)
        loop.call_soon_threadsafe(words.put_nowait, None)

    threading.Thread(target=listen, daemon=True).start()
    while (heard := await words.get()) is not None:
        wanted, *said = heard
        found = await _attempt(host.do(*said))
        if wanted:
            pipe.send(found)
        elif not found[0]:
            raise AssertionError(found[1])
    await host.close()


def _receive(pipe: Any) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        return None


async def _attempt(work: Coroutine[Any, Any, Any]) -> tuple[bool, Any]:
    try:
        return True, await work
    except Exception as error:  # noqa: BLE001  # the other process raises it
        return False, f"{type(error).__name__}: {error}"
