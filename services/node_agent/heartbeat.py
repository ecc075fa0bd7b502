"""The node's heartbeat: inventory, capacity, platform and health, at intervals and soon after a VM changed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError, LifecycleEvent
from services.node_agent.messenger import Messenger
from services.node_agent.metrics import NodeMetrics
from services.node_agent.network.vm_addresses import VmAddresses
from shared.bus import BusDown, Undeliverable
from shared.logs import get_logger
from shared.messages.costs import EnergyModel
from shared.messages.lanes import LaneEndpoint
from shared.messages.nodes import NodeHeartbeat
from shared.messages.porting import Side
from shared.messages.vm import VmState, VmSummary
from shared.tasks import Tasks

log = get_logger(__name__)

SETTLE_S = 0.3
"""After a VM changed: several changes come together."""

INVENTORY_WITHIN_S = 3.0
"""libvirt may not answer about a domain that is being migrated for 30 s; a heartbeat does not wait for that."""


class Heartbeat:
    """Publishes heartbeats until cancelled. `ports`, `problems` and `energy` are called for each."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        messenger: Messenger,
        metrics: NodeMetrics,
        *,
        lane: LaneEndpoint,
        every_s: float,
        agent_version: str,
        ports: Callable[[], tuple[UUID, ...]],
        problems: Callable[[], tuple[str, ...]],
        addresses: VmAddresses | None = None,
        energy: Callable[[], EnergyModel | None] = lambda: None,
        inventory_within_s: float = INVENTORY_WITHIN_S,
    ) -> None:
        self._hypervisor = hypervisor
        self._messenger = messenger
        self._metrics = metrics
        self._lane = lane
        self._every_s = every_s
        self._version = agent_version
        self._ports = ports
        self._problems = problems
        self._addresses = addresses
        self._energy = energy
        self._inventory_within_s = inventory_within_s
        self._changed = asyncio.Event()
        self._trouble: str | None = "libvirt has not been asked yet"
        self._last: NodeHeartbeat | None = None
        self._tasks = Tasks("heartbeat")
        self._listing: asyncio.Task[tuple[VmSummary, ...] | HypervisorError] | None = None

    async def check(self) -> str | None:
        """For ``/readyz``: why libvirt cannot be used, or None."""
        return self._trouble

    async def run(self) -> None:
        """Publish heartbeats until cancelled."""
        stop_listening = self._hypervisor.listen(self._on_event)
        try:
            while True:
                self._changed.clear()
                beat = await self._beat()
                if beat is not None:
                    await self._publish(beat)
                try:
                    async with asyncio.timeout(self._every_s):
                        await self._changed.wait()
                    await asyncio.sleep(SETTLE_S)
                except TimeoutError:
                    continue
        finally:
            stop_listening()
            await self._tasks.close()

    def _on_event(self, _: LifecycleEvent) -> None:
        self._changed.set()

    async def _beat(self) -> NodeHeartbeat | None:
        try:
            platform = await self._hypervisor.platform()
            capacity = await self._hypervisor.capacity()
            vms = await self._inventory()
        except HypervisorError as error:
            if self._trouble is None:
                log.warning("libvirt does not answer", error=str(error))
            self._trouble = str(error)
            if self._last is None:
                return None
            problems = (*self._problems(), self._trouble)
            return self._last.model_copy(update={"at": datetime.now(UTC), "healthy": False, "problems": problems})
        self._trouble = None
        if vms is None:
            return self._last and self._last.model_copy(update={"at": datetime.now(UTC), "ports": self._ports()})
        states = Counter(vm.state for vm in vms)
        for state in VmState:
            self._metrics.vms.labels(state).set(states[state])
        if self._addresses is not None:
            platform = platform.model_copy(update={"network": self._addresses.node})
            vms = self._addresses.with_addresses(vms)
        platform = platform.model_copy(update={"energy": self._energy()})
        problems = self._problems()
        self._last = NodeHeartbeat(
            at=datetime.now(UTC),
            healthy=not problems,
            problems=problems,
            agent_version=self._version,
            platform=platform,
            capacity=capacity,
            lane=self._lane,
            vms=vms,
            ports=self._ports(),
        )
        return self._last

    async def _inventory(self) -> tuple[VmSummary, ...] | None:
        """All VMs, or None while libvirt does not answer; the same call is waited for at the next beat."""
        if self._listing is None:
            self._listing = self._tasks.spawn(self._list_vms(), name="inventory")
        await asyncio.wait({self._listing}, timeout=self._inventory_within_s)
        if not self._listing.done():
            return None
        listed, self._listing = self._listing.result(), None
        if isinstance(listed, HypervisorError):
            raise listed
        return listed

    async def _list_vms(self) -> tuple[VmSummary, ...] | HypervisorError:
        try:
            return await self._hypervisor.inventory()
        except HypervisorError as error:
            return error
        except Exception as error:  # a defect here is told in each heartbeat, and must not end them
            log.exception("VMs cannot be listed")
            return HypervisorError("list VMs", f"{type(error).__name__}: {error}")

    async def _publish(self, beat: NodeHeartbeat) -> None:
        for side in Side:
            try:
                await self._messenger.publish(self._messenger.agent(side), beat)
            except (BusDown, Undeliverable) as error:
                log.debug("heartbeat lost", to=str(self._messenger.agent(side)), error=str(error))
