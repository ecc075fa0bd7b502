"""``vmport-node``: puts the node agent together and runs it. Decides nothing."""

from __future__ import annotations

import asyncio
import pwd
import ssl
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from services.node_agent import energy_command, install_hook, net_command
from services.node_agent.energy.model_file import ModelFile
from services.node_agent.gateway import serve_gateway
from services.node_agent.heartbeat import Heartbeat
from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.libvirt_adapter import LibvirtHypervisor
from services.node_agent.hypervisor.start_hook import StartHook
from services.node_agent.lanes.keys import LaneKeys, load_lane_keys
from services.node_agent.lanes.routes.caps import Caps
from services.node_agent.lanes.routes.caps_file import CapsError, CapsFile, read_caps
from services.node_agent.lanes.routes.direct import DirectListener
from services.node_agent.lanes.routes.factory import LaneRoutes
from services.node_agent.lanes.routes.link import LinkDown
from services.node_agent.malloc import use_one_arena
from services.node_agent.messenger import Messenger
from services.node_agent.metrics import NodeMetrics
from services.node_agent.network.addresses_file import AddressesError, read_addresses
from services.node_agent.network.announcer import Announcer
from services.node_agent.network.extension.ports import PortExtensions
from services.node_agent.network.guest_router import GuestRouters
from services.node_agent.network.host_addresses import HostAddresses
from services.node_agent.network.journal import NetworkJournal
from services.node_agent.network.keeper import NetworkKeeper
from services.node_agent.network.kept import KeptAddresses
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.moved import MovedVms, serve_moved
from services.node_agent.network.port_moments import PortMoments
from services.node_agent.network.tracking.taken import TakenConnections
from services.node_agent.network.vm_addresses import VmAddresses
from services.node_agent.network.voices import SegmentVoices
from services.node_agent.network_service import NetworkCommands, NetworkReports
from services.node_agent.service import NodeService
from services.node_agent.settings import NetworkSection, NodeSection, NodeSettings
from services.node_agent.state.journal import Journal
from services.node_agent.state.lock import StateInUse, StateLock
from services.node_agent.state.outbox import Outbox
from services.node_agent.transfers.manager import Transfers
from services.node_agent.vm_commands import VmCommands
from shared.config import ConfigError, Problem
from shared.config_files import Finding
from shared.logs import get_logger
from shared.rabbit.lanes import RabbitLanes
from shared.runtime import Runtime, run_service, version

ABOUT = (
    "Runs beside libvirtd on one host: moves VMs in and out, and tells its provider what the host has. "
    "`vmport-node install-hook --help`: libvirt's hook that keeps VMs which left from being started here. "
    "`vmport-node net --help`: what ports have changed in this host's network. "
    "`vmport-node calibrate-energy --help`: what a port costs this host in energy."
)

log = get_logger(__name__)


async def serve(runtime: Runtime[NodeSettings]) -> None:
    """Run until cancelled."""
    settings = runtime.settings.node
    if settings.role == "gateway":
        await serve_gateway(runtime)
        return
    caps = _open_caps(settings)
    metrics = NodeMetrics(runtime.metrics.registry)
    journal, outbox = _open_state(settings.state_dir, runtime)
    keys = await _open_keys(runtime)
    hypervisor = await _open_hypervisor(settings, runtime)
    routes = await _open_routes(runtime, metrics, caps)
    messenger = Messenger(runtime.bus, outbox)
    extensions = PortExtensions(routes.link, keys, forget=routes.forget_extension, metrics=metrics)
    announcer = Announcer()
    records = NetworkJournal(settings.state_dir / "network")
    network, network_commands = _open_network(records, messenger, extensions, announcer, runtime)
    moments = _open_moments(settings, messenger, network, announcer, runtime)
    transfers = Transfers(
        settings,
        hypervisor=hypervisor,
        journal=journal,
        messenger=messenger,
        routes=routes,
        keys=keys,
        metrics=metrics,
        network=moments,
    )
    addresses = _open_addresses(runtime.settings.network, hypervisor, records)
    commands = _make_commands(runtime, hypervisor, journal, transfers, keys=keys, metrics=metrics, addresses=addresses)
    service = NodeService(runtime.party, transfers, commands, messenger, network_commands)
    heartbeat = _make_heartbeat(
        runtime,
        transfers,
        messenger,
        hypervisor=hypervisor,
        metrics=metrics,
        keys=keys,
        addresses=addresses,
        problems=_problems(transfers, _make_hook(settings, metrics), network),
    )
    runtime.check("libvirt", heartbeat.check)
    await _recover(network, moments, transfers)
    runtime.running()
    loops = {"outbox": outbox.run(), "heartbeat": heartbeat.run(), "addresses": addresses.run()}
    loops |= {"network": network.run(), "inbox": runtime.bus.consume(service.handle), **_moved(runtime, journal)}
    try:
        await _run(loops, settings.caps_file, caps)
    finally:
        await service.close()
        await transfers.stop(runtime.settings.stop_within_s / 2)


def _open_addresses(settings: NetworkSection, hypervisor: LibvirtHypervisor, journal: NetworkJournal) -> VmAddresses:
    return VmAddresses(settings, reader=HostAddresses(hypervisor), kept=KeptAddresses(journal))


def _make_commands(
    runtime: Runtime[NodeSettings],
    hypervisor: LibvirtHypervisor,
    journal: Journal,
    transfers: Transfers,
    *,
    keys: LaneKeys,
    metrics: NodeMetrics,
    addresses: VmAddresses,
) -> VmCommands:
    return VmCommands(
        hypervisor,
        journal,
        node=runtime.party.node,
        lane=keys.endpoint,
        described=transfers.described,
        metrics=metrics,
        addresses=addresses,
    )


def _make_heartbeat(
    runtime: Runtime[NodeSettings],
    transfers: Transfers,
    messenger: Messenger,
    *,
    hypervisor: LibvirtHypervisor,
    metrics: NodeMetrics,
    keys: LaneKeys,
    addresses: VmAddresses,
    problems: Callable[[], tuple[str, ...]],
) -> Heartbeat:
    return Heartbeat(
        hypervisor,
        messenger,
        metrics,
        lane=keys.endpoint,
        every_s=runtime.settings.node.heartbeat_s,
        agent_version=version(),
        ports=transfers.ports,
        problems=problems,
        addresses=addresses,
        energy=ModelFile(runtime.settings.node.state_dir, runtime.settings.energy.estimate()).read,
    )


def _moved(runtime: Runtime[NodeSettings], journal: Journal) -> dict[str, Coroutine[Any, Any, None]]:
    settings = runtime.settings.network
    if settings.moved_listen is None:
        return {}
    return {"moved": serve_moved(MovedVms(journal, for_s=settings.moved_for_s), settings.moved_listen)}


async def _run(loops: Mapping[str, Coroutine[Any, Any, None]], caps_file: Path | None, caps: Caps) -> None:
    async with asyncio.TaskGroup() as group:
        for name, loop in loops.items():
            group.create_task(loop, name=name)
        if caps_file is not None:
            group.create_task(CapsFile(caps_file, caps).run(), name="caps")


def _open_state(state_dir: Path, runtime: Runtime[NodeSettings]) -> tuple[Journal, Outbox]:
    lock = StateLock(state_dir)
    runtime.stack.callback(lock.release)
    try:
        lock.acquire()
        journal = Journal(state_dir / "ports").open()
        outbox = Outbox(state_dir / "outbox", runtime.bus)
        outbox.open()
    except StateInUse as error:
        raise ConfigError((Problem("node.state_dir", "", str(error)),)) from error
    except OSError as error:
        raise ConfigError((Problem("node.state_dir", "", f"{state_dir} cannot be used: {error.strerror}"),)) from error
    return journal, outbox


def _open_caps(settings: NodeSection) -> Caps:
    """Caps that `CapsFile` will fill. Ports must not run without one that the operator wrote down and misspelled."""
    if findings := _check_caps(settings):
        raise ConfigError(tuple(Problem(".".join(each.location), "", each.what) for each in findings))
    return Caps()


def _check_caps(settings: NodeSection) -> list[Finding]:
    if settings.caps_file is not None:
        try:
            read_caps(settings.caps_file)
        except CapsError as error:
            return [Finding(("node", "caps_file"), str(error))]
    return []


def _check_qemu_user(settings: NodeSection) -> list[Finding]:
    if settings.qemu_user is not None:
        try:
            pwd.getpwnam(settings.qemu_user)
        except KeyError:
            return [Finding(("node", "qemu_user"), f"this host has no user {settings.qemu_user}")]
    return []


def _make_hook(settings: NodeSection, metrics: NodeMetrics) -> StartHook:
    return StartHook(
        settings.start_hook,
        settings.given_away_dir,
        run_dir=settings.libvirt_socket.parent.parent,
        required=settings.require_hook,
        metrics=metrics,
    )


async def _recover(network: NetworkKeeper, moments: PortMoments, transfers: Transfers) -> None:
    for name in await network.restore():
        log.error("damaged record of the network set aside; see vmport-node net list", file=name)
    moments.restored()
    for name in transfers.recover():
        log.error("damaged journal file set aside; check what its port left behind", file=name)


def _problems(transfers: Transfers, hook: StartHook, network: NetworkKeeper) -> Callable[[], tuple[str, ...]]:
    return lambda: (*transfers.problems(), *hook.problems(), *network.problems())


def _open_network(
    journal: NetworkJournal,
    messenger: Messenger,
    extensions: PortExtensions,
    announcer: Announcer,
    runtime: Runtime[NodeSettings],
) -> tuple[NetworkKeeper, NetworkCommands]:
    runtime.stack.push_async_callback(extensions.close_all)
    routers = GuestRouters()
    runtime.stack.push_async_callback(routers.close)
    keeper = NetworkKeeper(
        journal,
        StepMaker(),
        extensions=extensions,
        report=NetworkReports(messenger),
        voices=SegmentVoices(announcer, routers),
        withdraw_after_s=runtime.settings.network.withdraw_after_s,
    )
    return keeper, NetworkCommands(keeper, messenger)


def _open_moments(
    settings: NodeSection,
    messenger: Messenger,
    keeper: NetworkKeeper,
    announcer: Announcer,
    runtime: Runtime[NodeSettings],
) -> PortMoments:
    most = runtime.settings.network.connections_most
    taken = TakenConnections(settings.state_dir / "network", most=most)
    moments = PortMoments(keeper, taken, report=NetworkReports(messenger), announcer=announcer)
    runtime.stack.push_async_callback(moments.close)
    return moments


async def _open_routes(runtime: Runtime[NodeSettings], metrics: NodeMetrics, caps: Caps) -> LaneRoutes:
    lanes: RabbitLanes[LinkDown] = RabbitLanes(
        runtime.settings.bus, runtime.metrics.bus, link_down=lambda reason: LinkDown(reason=reason)
    )
    runtime.stack.push_async_callback(lanes.close)
    listener = await _open_listener(runtime)
    return LaneRoutes(lanes, runtime.settings.direct, metrics, caps=caps, listener=listener)


async def _open_listener(runtime: Runtime[NodeSettings]) -> DirectListener:
    address = runtime.settings.direct.listen
    listener = DirectListener()
    runtime.stack.push_async_callback(listener.close)
    if address is not None:
        try:
            await listener.listen(address)
        except (OSError, ValueError) as error:
            raise ConfigError((Problem("direct.listen", "", f"cannot listen at {address}: {error}"),)) from error
    return listener


async def _open_keys(runtime: Runtime[NodeSettings]) -> LaneKeys:
    settings = runtime.settings
    try:
        return await load_lane_keys(
            settings.tls, settings.direct, name=str(runtime.party), state_dir=settings.node.state_dir
        )
    except (OSError, ValueError) as error:
        raise ConfigError((Problem("tls", "", f"key or certificate cannot be used: {error}"),)) from error


async def _open_hypervisor(settings: NodeSection, runtime: Runtime[NodeSettings]) -> LibvirtHypervisor:
    hypervisor = LibvirtHypervisor(
        settings.libvirt_uri,
        image_dir=str(settings.image_dir),
        bridges=settings.bridges,
        accelerators=settings.accelerators,
        pid_dir=str(settings.qemu_pid_dir),
    )
    runtime.stack.push_async_callback(hypervisor.close)
    try:
        await hypervisor.connect()
    except HypervisorError as error:
        # It is tried again with every call; /readyz says why the node is not ready meanwhile.
        log.warning("libvirt unreachable", error=str(error))
    return hypervisor


def check(settings: NodeSettings) -> list[Finding]:
    """What ``--check-config`` tries besides files: caps, QEMU's user, addresses; do certificate and key fit?"""
    return [
        *_check_caps(settings.node),
        *_check_qemu_user(settings.node),
        *_check_certificate(settings),
        *_check_addresses(settings.network),
    ]


def _check_addresses(settings: NetworkSection) -> list[Finding]:
    if settings.addresses_file is not None:
        try:
            read_addresses(settings.addresses_file)
        except AddressesError as error:
            return [Finding(("network", "addresses_file"), str(error))]
    return []


def _check_certificate(settings: NodeSettings) -> list[Finding]:
    tls = settings.tls
    if settings.problems() or tls.certificate_file is None or tls.key_file is None:
        return []
    try:
        # Without a password: OpenSSL would ask for one at the terminal.
        ssl.create_default_context().load_cert_chain(tls.certificate_file, tls.key_file, password="")
        asyncio.run(load_lane_keys(tls, settings.direct, name=str(settings.party), state_dir=settings.node.state_dir))
    except (OSError, ValueError) as error:
        return [Finding(("tls", "certificate_file"), f"key or certificate cannot be used: {error}")]
    return []


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["install-hook"]:
        return install_hook.main(arguments[1:])
    if arguments[:1] == ["net"]:
        return net_command.main(arguments[1:])
    if arguments[:1] == ["calibrate-energy"]:
        return energy_command.main(arguments[1:])
    use_one_arena()
    return run_service("vmport-node", NodeSettings, serve, about=ABOUT, check=check, argv=arguments)


if __name__ == "__main__":
    sys.exit(main())
