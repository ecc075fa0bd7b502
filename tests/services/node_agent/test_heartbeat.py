"""The heartbeat: both agents hear what the node has; a libvirt that is gone is a problem, not a silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from prometheus_client import CollectorRegistry

from services.node_agent.heartbeat import Heartbeat
from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.messenger import Messenger
from services.node_agent.metrics import NodeMetrics
from services.node_agent.network.vm_addresses import VmAddresses
from services.node_agent.settings import NetworkSection
from services.node_agent.state.outbox import Outbox
from shared.messages.costs import EnergyModel
from shared.messages.nodes import NodeHeartbeat
from shared.messages.vm import VmSummary
from shared.parties import donor, node, recipient
from shared.testing import MemoryBroker, make_lane_endpoint
from tests.support.transfer_pair import DOMAIN, VM

ME, DONOR, RECIPIENT = node("alpha", "alpha-1"), donor("alpha"), recipient("alpha")
PORT = uuid4()
LANE = make_lane_endpoint()


class Broken(FakeHypervisor):
    """A host whose libvirtd can be taken away."""

    broken = False
    defect: Exception | None = None

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()
        self.free.set()

    async def inventory(self) -> tuple[VmSummary, ...]:
        """Fails while broken, and waits while it is not free."""
        await self.free.wait()
        if self.defect is not None:
            raise self.defect
        if self.broken:
            raise HypervisorError("list VMs", "no connection")
        return await super().inventory()


ENERGY = EnergyModel(joules_per_byte=5e-7)


class Beating:
    """A heartbeat on a bus in memory."""

    def __init__(self, tmp_path: Path) -> None:
        self.broker = MemoryBroker(ME, DONOR, RECIPIENT)
        bus = self.broker.bus(ME)
        self.hypervisor = Broken()
        self.registry = CollectorRegistry()
        self.heartbeat = Heartbeat(
            self.hypervisor,
            Messenger(bus, Outbox(tmp_path, bus)),
            NodeMetrics(self.registry),
            lane=LANE,
            every_s=0.02,
            agent_version="1.2.3",
            ports=lambda: (PORT,),
            problems=lambda: (),
            energy=lambda: ENERGY,
            inventory_within_s=0.02,
        )

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Until the block ends."""
        task = asyncio.get_running_loop().create_task(self.heartbeat.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def beat(self, *, after: int = 0) -> NodeHeartbeat:
        """The beat that comes after so many, as the donor agent hears it."""
        async with asyncio.timeout(5):
            while len(self.broker.received(DONOR)) <= after:  # noqa: ASYNC110  # what was published has no event
                await asyncio.sleep(0.005)
        message = self.broker.received(DONOR)[after].data
        assert isinstance(message, NodeHeartbeat)
        return message


async def test_both_agents_hear_the_same(tmp_path: Path) -> None:
    """VMs, platform, ports and version; the metric counts VMs by state."""
    made = Beating(tmp_path)
    made.hypervisor.add(DOMAIN % "/x.raw")
    async with made.beating():
        beat = await made.beat()
        await made.beat(after=1)
    assert [vm.uuid for vm in beat.vms] == [VM]
    assert (beat.healthy, beat.agent_version, beat.ports) == (True, "1.2.3", (PORT,))
    assert (beat.platform.bridges, beat.platform.energy) == (("vmbr0",), ENERGY)
    assert isinstance(made.broker.received(RECIPIENT)[0].data, NodeHeartbeat)
    assert made.registry.get_sample_value("vmport_node_vms", {"state": "running"}) == 1
    assert await made.heartbeat.check() is None


async def test_a_libvirt_that_is_gone_is_told(tmp_path: Path) -> None:
    """The last known inventory, unhealthy, with the reason; readiness says so, too; it heals."""
    made = Beating(tmp_path)
    async with made.beating():
        await made.beat()
        made.hypervisor.broken = True
        count = len(made.broker.received(DONOR))
        sick = await made.beat(after=count + 1)
        assert not sick.healthy
        assert "no connection" in sick.problems[0]
        assert "no connection" in str(await made.heartbeat.check())
        made.hypervisor.broken = False
        assert (await made.beat(after=len(made.broker.received(DONOR)) + 1)).healthy


async def test_a_vm_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    """It is listed with its problem; the node is healthy."""
    made = Beating(tmp_path)
    made.hypervisor.add(DOMAIN % "/x.raw")
    made.hypervisor.vms[VM].unreadable = "domain_xml: too large"
    async with made.beating():
        beat = await made.beat()
    assert [(vm.uuid, vm.problem) for vm in beat.vms] == [(VM, "domain_xml: too large")]
    assert beat.healthy


async def test_whatever_breaks_the_list_the_node_is_heard(tmp_path: Path) -> None:
    """Unhealthy, with the reason; it heals, and the process goes on."""
    made = Beating(tmp_path)
    async with made.beating():
        await made.beat()
        made.hypervisor.defect = RuntimeError("nobody thought of this")
        sick = await made.beat(after=len(made.broker.received(DONOR)) + 1)
        assert not sick.healthy
        assert "nobody thought of this" in sick.problems[0]
        made.hypervisor.defect = None
        assert (await made.beat(after=len(made.broker.received(DONOR)) + 1)).healthy


async def test_a_look_that_libvirt_holds_up_delays_no_beat(tmp_path: Path) -> None:
    """While a domain is locked by its migration the node is heard, healthy, with the VMs of before."""
    made = Beating(tmp_path)
    made.hypervisor.add(DOMAIN % "/x.raw")
    async with made.beating():
        await made.beat()
        made.hypervisor.free.clear()
        held = await made.beat(after=len(made.broker.received(DONOR)) + 1)
        assert (held.healthy, [vm.uuid for vm in held.vms]) == (True, [VM])
        made.hypervisor.free.set()
        assert (await made.beat(after=len(made.broker.received(DONOR)) + 1)).healthy


async def test_without_libvirt_from_the_start_there_is_nothing_to_tell(tmp_path: Path) -> None:
    """No inventory is made up."""
    made = Beating(tmp_path)
    made.hypervisor.broken = True
    async with made.beating():
        await asyncio.sleep(0.1)
    assert made.broker.received(DONOR) == []
    assert await made.heartbeat.check() is not None


async def test_what_is_known_of_addresses_is_told(tmp_path: Path) -> None:
    """What the node can do to keep them, and those that its operator has declared."""
    made = Beating(tmp_path)
    made.hypervisor.add(DOMAIN % "/x.raw")
    listed = tmp_path / "addresses.toml"
    mac = (await made.hypervisor.inventory())[0].macs[0]
    listed.write_text(f'[cards."{mac}"]\naddresses = ["192.0.2.7"]\n')
    settings = NetworkSection(segments={"vmbr0": "tenants"}, addresses_file=listed)
    made.heartbeat._addresses = VmAddresses(settings)
    async with made.beating():
        beat = await made.beat()
    assert beat.platform.network.segments == {"vmbr0": "tenants"}
    assert [vm.addresses for vm in beat.vms] == [("192.0.2.7",)]
