"""A node that is a gateway of a neutral prefix: it runs no VM, and sends packets for VMs to whoever serves them.

The provider's own routing daemon on this host announces the prefix all the time; with two gateways one may die. What a
gateway knows it keeps as files, and has in the kernel again before it hears the broker.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.node_agent.messenger import Messenger
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.netlink import NetlinkError
from services.node_agent.network.nft import NftError
from services.node_agent.network.served import ServedVms
from services.node_agent.network_service import serve_addresses
from services.node_agent.settings import NodeSettings
from services.node_agent.state.lock import StateInUse, StateLock
from services.node_agent.state.outbox import Outbox
from shared.bus import Reject
from shared.config import ConfigError, Problem
from shared.logs import get_logger
from shared.messages import AnyEnvelope
from shared.messages.addresses import ServeAddresses
from shared.runtime import Runtime
from shared.tasks import Tasks

log = get_logger(__name__)


class GatewayService:
    """Handles a gateway's inbox."""

    def __init__(self, served: ServedVms, messenger: Messenger) -> None:
        self._served = served
        self._messenger = messenger
        self._tasks = Tasks("gateway")

    async def handle(self, envelope: AnyEnvelope) -> None:
        """Act on one message. Raises `Reject` for what can never be acted on."""
        if not isinstance(envelope.data, ServeAddresses):
            raise Reject("unexpected_message", f"a gateway has no use for {type(envelope.data).__name__}")
        self._tasks.spawn(serve_addresses(envelope.data, self._served, self._messenger), name="serve addresses")

    async def close(self) -> None:
        """End what still runs; the broker says it again."""
        await self._tasks.close()


async def serve_gateway(runtime: Runtime[NodeSettings]) -> None:
    """Run until cancelled."""
    state_dir = runtime.settings.node.state_dir
    outbox = _open_state(state_dir, runtime)
    served = ServedVms(state_dir / "served", StepMaker())
    try:
        for name in await served.restore():
            log.error("damaged file about a served VM; the broker's next word replaces it", file=name)
    except (NetlinkError, NftError) as error:
        raise ConfigError(
            (Problem("node.role", "gateway", f"this host's network cannot be changed: {error}"),)
        ) from error
    service = GatewayService(served, Messenger(runtime.bus, outbox))
    runtime.running()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(outbox.run(), name="outbox")
            group.create_task(runtime.bus.consume(service.handle), name="inbox")
    finally:
        await service.close()


def _open_state(state_dir: Path, runtime: Runtime[NodeSettings]) -> Outbox:
    lock = StateLock(state_dir)
    runtime.stack.callback(lock.release)
    try:
        lock.acquire()
        outbox = Outbox(state_dir / "outbox", runtime.bus)
        outbox.open()
    except StateInUse as error:
        raise ConfigError((Problem("node.state_dir", "", str(error)),)) from error
    except OSError as error:
        raise ConfigError((Problem("node.state_dir", "", f"{state_dir} cannot be used: {error.strerror}"),)) from error
    return outbox
