"""The parties of the world as processes: the real shells over simulated ports, started from their disks."""

from __future__ import annotations

import asyncio
import contextvars
import shutil
import sys
from collections.abc import Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import UUID

from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from sqlalchemy import MetaData

from services.broker import service as broker_service
from services.broker.metrics import BrokerMetrics
from services.broker.migrate import migrate
from services.broker.service import BrokerService
from services.broker.settings import BrokerSettings
from services.donor_agent import records as donor_records
from services.donor_agent.metrics import DonorMetrics
from services.donor_agent.policy_file import PolicyFile
from services.donor_agent.service import DonorService
from services.donor_agent.settings import DonorSection
from services.node_agent.heartbeat import Heartbeat
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.lanes.keys import LaneKeys
from services.node_agent.lanes.testing import PlainSeal
from services.node_agent.messenger import Messenger
from services.node_agent.metrics import NodeMetrics
from services.node_agent.service import NodeService
from services.node_agent.settings import NodeSection
from services.node_agent.state import boot
from services.node_agent.state.given_away import ARRIVING
from services.node_agent.state.guest_ends import ENDED
from services.node_agent.state.journal import Journal
from services.node_agent.state.outbox import Outbox
from services.node_agent.transfers import manager
from services.node_agent.transfers.manager import Transfers
from services.node_agent.vm_commands import VmCommands
from services.recipient_agent import records as recipient_records
from services.recipient_agent.assessment import Terms
from services.recipient_agent.capacity import Overcommit, Quota
from services.recipient_agent.metrics import RecipientMetrics
from services.recipient_agent.network_map import NetworkMap
from services.recipient_agent.network_terms import ExtensionTerms
from services.recipient_agent.places import NodePlaces
from services.recipient_agent.pricing import InstanceType
from services.recipient_agent.quote import Promise
from services.recipient_agent.service import RecipientService
from services.recipient_agent.settings import RecipientSection
from shared.config import BusSettings
from shared.domain import VmFacts, describe
from shared.parties import BROKER, Party, donor, node, recipient, tenant
from shared.provider_agent import ProviderAgent
from shared.store import RelayPolicy, Store, StoreSettings, TimerRunner
from shared.store import store as store_module
from shared.testing import make_lane_endpoint
from shared.testing_lanes import MemoryLaneAdmin
from tests.simulation.inline_engine import InlineEngine
from tests.simulation.network import SimBroker, SimRoutes
from tests.simulation.process import CURRENT, Process

ACME = tenant("acme")
ALPHA, BETA = donor("alpha"), recipient("beta")
ALPHA_NODE, BETA_NODE = node("alpha", "alpha-1"), node("beta", "beta-1")
EVERYBODY = (BROKER, ACME, ALPHA, recipient("alpha"), donor("beta"), BETA, ALPHA_NODE, BETA_NODE)
POLICY = """
max_concurrent_ports = 4
[accounts.acme]
contract_start = 2024-01-01
vms = [{ name = "*" }]
"""
HEARTBEAT_S = 25.0
POLL_S = 60.0
"""How often what one process alone could have missed is looked for; what it commits itself it knows at once."""
NODE_METRICS = NodeMetrics(CollectorRegistry())
BROKER_METRICS = BrokerMetrics(CollectorRegistry())
DONOR_METRICS = DonorMetrics(CollectorRegistry())
RECIPIENT_METRICS = RecipientMetrics(CollectorRegistry())


def poll_seldom() -> None:
    """Most of a long wait would be spent on looking at tables that nobody else writes."""
    timers: Any = TimerRunner.__init__
    timers.__kwdefaults__["poll_s"] = POLL_S
    policy: Any = RelayPolicy.__init__
    policy.__defaults__ = (POLL_S, *policy.__defaults__[1:])
    broker_service.GAUGES_INTERVAL_S = 3600.0


async def _no_figures(_: object) -> None:
    """Nobody looks at gauges; counting for them reads the store after every message."""


def show_no_figures() -> None:
    """The agents' gauges stay as they are."""
    ProviderAgent.show_figures = _no_figures  # type: ignore[method-assign, assignment]  # of any agent


_ENGINES: dict[tuple[str, str], InlineEngine] = {}


def reuse_engines() -> None:
    """An engine's compiled statements are good for the next process and the next world; its connections are not."""
    store: Any = store_module

    def maker(kind: str) -> Callable[[str], InlineEngine]:
        def make(url: str) -> InlineEngine:
            engine = _ENGINES.get((kind, url))
            if engine is None:
                engine = _ENGINES[kind, url] = InlineEngine(url)
            engine.forget_connections()
            return engine

        return make

    store.make_engine, store.make_urgent_engine = maker("calm"), maker("urgent")


def remember_descriptions() -> None:
    """The same definition is read again and again, and a description of it cannot change."""
    told: dict[str, VmFacts] = {}

    def describe_once(source: Any) -> VmFacts:
        if not isinstance(source, str):
            return describe(source)
        if source not in told:
            told[source] = describe(source)
        return told[source]

    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in {"services", "shared"} and module.__dict__.get("describe") is describe:
            module.__dict__["describe"] = describe_once


def keep_memory() -> None:
    """What a transfer has used is used again at once: it is not returned to the machine."""
    cast("Any", manager).trim = lambda: None


class Parts(Protocol):
    """What the parties need of their world."""

    folder: Path
    net: SimBroker
    routes: SimRoutes
    lanes: MemoryLaneAdmin
    hosts: dict[Party, FakeHypervisor]


class _PlainTls:
    """Lanes without TLS: OpenSSL draws from the machine's randomness."""

    def seal(self) -> PlainSeal:
        """A lane's seal."""
        return PlainSeal()


class PlainKeys(LaneKeys):
    """A node's keys that are none."""

    def tls(self, *_: Any) -> Any:
        """No TLS."""
        return _PlainTls()


PLAIN_KEYS = PlainKeys(None, make_lane_endpoint(), {})  # type: ignore[arg-type]  # no identity is needed


class _BootId:
    """`/proc/sys/kernel/random/boot_id`, of the host of the process that reads it."""

    def __init__(self, hosts: dict[Party, FakeHypervisor]) -> None:
        self._hosts = hosts

    def read_text(self) -> str:
        """How often the host was booted."""
        process = CURRENT.get()
        boots = [host.boots for party, host in self._hosts.items() if process and party.owner == process.name]
        return f"boot {boots}"


def know_boots(hosts: dict[Party, FakeHypervisor]) -> None:
    """From now on a host's node agent knows by the kernel's name for the boot when its host was restarted."""
    boot.BOOT_ID = _BootId(hosts)  # type: ignore[assignment]  # only read as a text


_READS = frozenset(
    ["state", "vcpu_time_ns", "inventory", "platform", "capacity", "versions", "job", "describe", "is_running"]
)
"""What changes nothing at the host."""


class HostPort:
    """One process's way to its host's libvirt: nothing goes through once the process is dead."""

    def __init__(self, host: FakeHypervisor, process: Process) -> None:
        self._host = host
        self._process = process
        self._calls: dict[str, Any] = {}

    def listen(self, listener: Any) -> Any:
        """As the hypervisor's, until the process dies."""
        stop = self._host.listen(listener)
        stopped = False

        def stop_once() -> None:
            nonlocal stopped
            if not stopped:
                stopped = True
                stop()

        self._process.at_death(stop_once)
        return stop_once

    def __getattr__(self, name: str) -> Any:
        if name in self._calls:
            return self._calls[name]
        method = getattr(self._host, name)
        process = self._process
        reads = name in _READS

        async def call(*args: Any, **kwargs: Any) -> Any:
            process.touch("asks" if reads else "calls", name)
            if name in {"migrate", "is_running"}:
                # What libvirtd has begun it goes on with, whatever becomes of the caller.
                work = in_world(method(*args, **kwargs)) if name == "migrate" else method(*args, **kwargs)
                result = await (asyncio.shield(work) if name == "migrate" else work)
            else:
                result = await method(*args, **kwargs)
            if not reads:
                process.touch("called", name)
            return result

        self._calls[name] = call
        return call


def in_world(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run something that belongs to no process."""
    context = contextvars.copy_context()
    context.run(CURRENT.set, None)
    return asyncio.get_running_loop().create_task(work, context=context)


# ---- each party's main ----


_TEMPLATES: dict[str, Path] = {}


async def _open_store(world: Parts, name: str, party: Party, *metadata: MetaData) -> Store:
    """A store with its schema; the first one of this program is the template of all others. `metadata`: its tables,
    where it is not the ledger.
    """
    path = world.folder / f"{name}.db"
    url = f"sqlite:///{path}"
    if name not in _TEMPLATES:
        whose = CURRENT.set(None)  # no process's steps: the next process of this name does not take them
        store = Store(url, party)
        await (store.create_schema(*metadata) if metadata else migrate(store))
        await store.close()
        CURRENT.reset(whose)
        _TEMPLATES[name] = world.folder.parent / f"{name}-template.db"
        shutil.copy(path, _TEMPLATES[name])
    elif not path.exists():
        shutil.copy(_TEMPLATES[name], path)
    return Store(url, party)


async def run_broker(world: Parts, process: Process) -> None:
    """`vmport-broker`."""
    url = f"sqlite:///{world.folder}/broker.db"
    store = await _open_store(world, "broker", BROKER)
    await store.open()
    settings = BrokerSettings(
        bus=BusSettings(url=SecretStr("amqp://broker:x@127.0.0.1/vmport")), store=StoreSettings(url=SecretStr(url))
    )
    await BrokerService(settings, store, world.net.bus_of(BROKER, process), world.lanes, BROKER_METRICS).run()


async def run_donor(world: Parts, process: Process) -> None:
    """`vmport-donor` of alpha."""
    store = await _open_store(world, "donor", ALPHA, donor_records.metadata)
    settings = DonorSection(
        policy_file=world.folder / "policy.toml",
        quarantine_s=315_360_000.0,
        policy_check_s=3600.0,
        node_silent_after_s=60.0,
    )
    policy = PolicyFile.open(settings.policy_file)
    await DonorService(store, world.net.bus_of(ALPHA, process), policy, settings, DONOR_METRICS).run()


async def run_recipient(world: Parts, process: Process) -> None:
    """`vmport-recipient` of beta."""
    store = await _open_store(world, "recipient", BETA, recipient_records.metadata)
    places = NodePlaces(
        image_dir=str(world.folder / "beta" / "images"),
        emulator="/usr/bin/qemu-system-x86_64",
        uefi_loader=None,
        nvram_dir="/nvram",
        boot_dirs=("/boot-files",),
        console_log_dir=None,
        bridges=NetworkMap({}, ""),
    )
    small = InstanceType(name="small", vcpus=1, memory_mib=1024, disk_gib=20, price_per_month=Decimal("6.90"))
    terms = Terms(
        overcommit=Overcommit(),
        quota_total=Quota(),
        quota_per_tenant=Quota(),
        instance_types=(small,),
        promise=Promise(),
        places=places,
        places_of={},
        node_silent_after_s=60.0,
        extension=ExtensionTerms(),
    )
    settings = RecipientSection(node_silent_after_s=60.0)
    await RecipientService(store, world.net.bus_of(BETA, process), terms, settings, RECIPIENT_METRICS).run()


def node_settings(world: Parts, party: Party) -> NodeSection:
    """A node's settings."""
    folder = world.folder / party.owner
    return NodeSection(
        libvirt_socket=folder / "libvirt-sock",
        run_dir=folder / "run",
        state_dir=folder / "state",
        image_dir=folder / "images",
        base_image_dir=folder / "base-images",
        heartbeat_s=HEARTBEAT_S,
        progress_s=5.0,
        outage_probe=False,
        without=("base", "kept"),
    )


def hook(state_dir: Path, uuid: UUID) -> str | None:
    """What libvirt's hook says of a host whose node agent has this state directory: why a VM may not start, or None."""
    file = state_dir / "given-away" / str(uuid)
    if not file.exists() or Path(f"{file}{ARRIVING}").exists():
        return None
    return "it was given away"


def note_end(state_dir: Path, uuid: UUID, reason: str) -> None:
    """What libvirt's hook does when a guest has ended."""
    file = state_dir / "given-away" / f"{uuid}{ENDED}"
    if file.exists():
        file.write_text(f"{file.read_text()}{reason}\n")


async def run_node(world: Parts, process: Process, party: Party) -> None:
    """`vmport-node`, as `services.node_agent.main.serve` puts it together."""
    settings = node_settings(world, party)
    hypervisor: Any = HostPort(world.hosts[party], process)
    bus = world.net.bus_of(party, process)
    journal = Journal(settings.state_dir / "ports").open()
    outbox = Outbox(settings.state_dir / "outbox", bus)
    outbox.open()
    messenger = Messenger(bus, outbox)
    transfers = Transfers(
        settings,
        hypervisor=hypervisor,
        journal=journal,
        messenger=messenger,
        routes=world.routes.of(process),
        keys=PLAIN_KEYS,
        metrics=NODE_METRICS,
    )
    commands = VmCommands(
        hypervisor,
        journal,
        node=party.node,
        lane=PLAIN_KEYS.endpoint,
        metrics=NODE_METRICS,
        described=transfers.described,
    )
    service = NodeService(party, transfers, commands, messenger)
    heartbeat = Heartbeat(
        hypervisor,
        messenger,
        NODE_METRICS,
        lane=PLAIN_KEYS.endpoint,
        every_s=settings.heartbeat_s,
        agent_version="0",
        ports=transfers.ports,
        problems=transfers.problems,
    )
    transfers.recover()
    async with asyncio.TaskGroup() as group:
        group.create_task(outbox.run())
        group.create_task(heartbeat.run())
        group.create_task(bus.consume(service.handle))
