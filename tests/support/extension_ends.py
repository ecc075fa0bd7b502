"""Both ends of an extension as processes of their own, between namespaces that are made for them."""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from services.donor_agent.testing import make_agreement
from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.lanes.routes.caps import Caps
from services.node_agent.lanes.routes.direct import DirectListener
from services.node_agent.lanes.routes.factory import LaneRoutes
from services.node_agent.lanes.routes.link import LinkDown
from services.node_agent.metrics import NodeMetrics
from services.node_agent.network.extension.carrier import Extension
from services.node_agent.network.tap import Tap
from services.node_agent.settings import DirectSection
from shared.bus import LaneEnds
from shared.config import BusSettings
from shared.messages.lanes import LaneEndpoint
from shared.metrics import BusMetrics
from shared.page_stream.bodies import LaneRole
from shared.parties import BROKER
from shared.parties import node as node_party
from shared.rabbit.lanes import RabbitLaneAdmin, RabbitLanes
from tests.support.card_frames import CARD
from tests.support.lane_credentials import Pair
from tests.support.namespaces import inside, ip, namespaces
from tests.support.rabbitmq_node import RabbitNode, free_port

NODES = {LaneRole.INITIATOR: node_party("alpha", "alpha-1"), LaneRole.ACCEPTOR: node_party("beta", "beta-1")}
BRIDGES = {LaneRole.INITIATOR: "vmbr0", LaneRole.ACCEPTOR: "vmpcard"}
GUEST_MAC, ROUTER_MAC = "52:54:00:aa:bb:01", "0a:58:a9:fe:01:01"
GUEST_4, ROUTER_4, GUEST_6, ROUTER_6 = "10.81.1.7", "10.81.1.1", "fd00:81:1::7", "fd00:81:1::1"


@dataclass(frozen=True)
class Networks:
    """Namespaces: the donor's with its bridge, the recipient's with the card's own bridge, and the guest."""

    donor: str
    recipient: str
    guest: str

    def of(self, role: LaneRole) -> str:
        """Where an end's device is."""
        return self.donor if role is LaneRole.INITIATOR else self.recipient


@contextmanager
def networks() -> Iterator[Networks]:
    """Two providers' networks and a guest that has arrived at the second with its address of the first."""
    with namespaces("donor", "recipient", "guest") as (donor, recipient, guest):
        for name, bridge in ((donor, "vmbr0"), (recipient, "vmpcard")):
            ip("-n", name, "link", "add", bridge, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        ip("-n", donor, "link", "set", "vmbr0", "address", ROUTER_MAC)
        ip("-n", guest, "link", "add", "eth0", "type", "veth", "peer", "name", "vnet0", "netns", recipient)
        ip("-n", guest, "link", "set", "eth0", "address", GUEST_MAC)
        ip("-n", recipient, "link", "set", "vnet0", "master", "vmpcard", "up")
        for name, device, four, six in (
            (donor, "vmbr0", ROUTER_4, ROUTER_6),
            (guest, "eth0", GUEST_4, GUEST_6),
        ):
            ip("-n", name, "link", "set", device, "up")
            ip("-n", name, "addr", "add", f"{four}/24", "dev", device)
            ip("-n", name, "addr", "add", f"{six}/64", "dev", device, "nodad")
        ip("-n", recipient, "link", "set", "vmpcard", "up")
        yield Networks(donor, recipient, guest)


class NoRelay:
    """A relay that is never there: the lane is direct."""

    def link(self, *_: Any, **__: Any) -> Any:
        """A link that does not come up."""
        return self

    async def wait_up(self) -> None:
        """Never."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Way:
    """How the lane goes: directly to a port of this host, or over a relay."""

    direct_port: int | None = None
    relay: dict[LaneRole, BusSettings] = field(default_factory=dict)


@dataclass
class EndProcess:
    """One end; `stop` returns what it has counted."""

    process: Any
    pipe: Any
    found: dict[str, Any] = field(default_factory=dict)

    def wait_connected(self) -> None:
        """Return when both ends speak."""
        if not self.pipe.poll(30) or self.pipe.recv() != "connected":
            raise AssertionError("the ends of the extension do not meet")

    def kill(self) -> None:
        """It dies at once."""
        self.process.kill()
        self.process.join(20)

    def stop(self) -> dict[str, Any]:
        """End it."""
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(EOFError):  # it was stopped before, or has died
            self.found = self.pipe.recv() if self.pipe.poll(20) else self.found
        self.process.join(20)
        return self.found


def start_end(
    role: LaneRole, where: Networks, way: Way, credentials: Pair, *, profile: Path | None = None
) -> EndProcess:
    """Begin one end."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_run_end, args=(role, where, way, credentials, there, profile))
    process.start()
    there.close()
    return EndProcess(process, here)


@contextmanager
def extension_ends(
    where: Networks, way: Way, credentials: Pair, *, profile: Path | None = None
) -> Iterator[dict[LaneRole, EndProcess]]:
    """Both ends, connected; ended with the block, also those that are put in their place meanwhile."""
    ends: dict[LaneRole, EndProcess] = {}
    try:
        for role in LaneRole:
            ends[role] = start_end(role, where, way, credentials, profile=profile)
        for end in ends.values():
            end.wait_connected()
        yield ends
    finally:
        for end in ends.values():
            end.stop()


def _run_end(role: LaneRole, where: Networks, way: Way, credentials: Pair, pipe: Any, profile: Path | None) -> None:
    profiler = cProfile.Profile() if profile is not None else None
    if profiler is not None:
        profiler.enable()
    asyncio.run(_serve_end(role, where, way, credentials, pipe))
    if profiler is not None and profile is not None:
        profiler.disable()
        profiler.dump_stats(profile / f"{role.name.lower()}.prof")
    sys.exit(0)


async def _serve_end(role: LaneRole, where: Networks, way: Way, credentials: Pair, pipe: Any) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    tap = inside(where.of(role), lambda: Tap("vmx0"))
    ip("-n", where.of(role), "link", "set", "vmx0", "master", BRIDGES[role])
    async with _routes(role, way) as routes:
        extension = Extension(
            LaneEnd(_agreement(way, credentials), role),
            routes.link,
            credentials.tls(role),
            {0: (tap, CARD)},
            activated=role is LaneRole.INITIATOR,
        )
        running = asyncio.ensure_future(extension.run())
        await extension.connected.wait()
        pipe.send("connected")
        await stopping.wait()
        stats = extension.stats()
        await extension.close()
        await running
    usage = resource.getrusage(resource.RUSAGE_SELF)
    card = stats.cards[0]
    pipe.send(
        {
            "out_frames": card.out_frames,
            "out_bytes": card.out_bytes,
            "into_frames": card.into_frames,
            "into_bytes": card.into_bytes,
            "dropped": {str(reason): count for reason, count in card.dropped.items()},
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        }
    )


def _agreement(way: Way, credentials: Pair) -> Any:
    direct = () if way.direct_port is None else (f"127.0.0.1:{way.direct_port}",)
    lanes = [
        LaneEndpoint(certificate=each.pinned.certificate, authority=each.pinned.authority, direct=where)
        for each, where in ((credentials.donor, ()), (credentials.recipient, direct))
    ]
    return make_agreement(donor_lane=lanes[0], recipient_lane=lanes[1])


@contextlib.asynccontextmanager
async def _routes(role: LaneRole, way: Way) -> AsyncIterator[LaneRoutes]:
    listener = DirectListener()
    listen = None
    if way.direct_port is not None and role is LaneRole.ACCEPTOR:
        listen = f"127.0.0.1:{way.direct_port}"
        await listener.listen(listen)
    relay: Any = NoRelay()
    if way.relay:
        relay = RabbitLanes(way.relay[role], BusMetrics(CollectorRegistry()), link_down=LinkDown)
    try:
        yield LaneRoutes(
            relay, DirectSection(listen=listen), NodeMetrics(CollectorRegistry()), caps=Caps(), listener=listener
        )
    finally:
        await relay.close()
        await listener.close()


@contextmanager
def relayed(rabbitmq: RabbitNode) -> Iterator[Way]:
    """Over this node, with the extension's lane declared by the broker."""
    port_id = make_agreement().port_id
    ends = LaneEnds(port_id, NODES[LaneRole.INITIATOR], NODES[LaneRole.ACCEPTOR])

    async def declare(*, wanted: bool) -> None:
        admin = RabbitLaneAdmin(rabbitmq.settings(BROKER), BusMetrics(CollectorRegistry()))
        try:
            await (admin.open_extension(ends) if wanted else admin.close_extension(ends))
        finally:
            await admin.close()

    asyncio.run(declare(wanted=True))
    try:
        yield Way(relay={role: rabbitmq.settings(NODES[role]) for role in LaneRole})
    finally:
        asyncio.run(declare(wanted=False))


def direct() -> Way:
    """To a free port of this host."""
    return Way(direct_port=free_port())
