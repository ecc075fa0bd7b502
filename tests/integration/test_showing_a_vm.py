"""A tenant looks at its VM: its client, the broker, the donor agent and the node's commands, on a bus in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from services.broker.metrics import BrokerMetrics
from services.broker.migrate import migrate
from services.broker.service import BrokerService
from services.donor_agent.metrics import DonorMetrics
from services.donor_agent.policy_file import PolicyFile
from services.donor_agent.service import DonorService
from services.donor_agent.settings import DonorSection
from services.donor_agent.testing import make_heartbeat
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.metrics import NodeMetrics
from services.node_agent.state.journal import Journal
from services.node_agent.vm_commands import VmCommands
from shared.client.errors import PortNotAllowed, QuestionFailed
from shared.client.sdk import TenantClient
from shared.client.vm_check import check_of, stopped
from shared.exit_codes import ExitCode
from shared.messages import AnyEnvelope, Message, seal
from shared.messages.nodes import DescribeVm
from shared.messages.porting import QuoteOffered, QuoteRequested
from shared.messages.service_change import PortRequested
from shared.parties import BROKER, Party, recipient
from shared.store import Store, utc_now
from shared.testing import MemoryBroker, breathe, make_lane_endpoint
from shared.testing_lanes import MemoryLaneAdmin
from tests.support.broker_samples import ACME, capacity, quote
from tests.support.broker_world import GLOBEX, settings
from tests.support.donor_world import ALPHA, NODE, POLICY
from tests.support.transfer_pair import DOMAIN, VM

BETA = recipient("beta")


class Site:
    """One provider with one VM of acme, one that offers a place, and the broker. The services are real."""

    def __init__(self, folder: Path) -> None:
        self.bus = MemoryBroker(BROKER, ACME, GLOBEX, ALPHA, NODE, BETA)
        self.hypervisor = FakeHypervisor()
        self.hypervisor.add(DOMAIN % (folder / "web.raw"))
        (folder / "web.raw").write_bytes(b"data")
        policy = folder / "policy.toml"
        policy.write_text(POLICY.replace("web-*", "*"))
        self._folder = folder
        self._policy = policy
        self._commands = VmCommands(
            self.hypervisor,
            Journal(folder / "ports").open(),
            node="alpha-1",
            lane=make_lane_endpoint(),
            described=lambda _: None,
            metrics=NodeMetrics(CollectorRegistry()),
        )
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """All services run, and the broker knows of the VM."""
        broker_store = await self._stack.enter_async_context(Store(self._url("broker"), BROKER))
        await migrate(broker_store)
        donor_store = await self._stack.enter_async_context(Store(self._url("donor"), ALPHA))
        broker = BrokerService(
            settings(self._url("broker")),
            broker_store,
            self.bus.bus(BROKER),
            MemoryLaneAdmin(),
            BrokerMetrics(CollectorRegistry()),
        )
        donor = DonorService(
            donor_store,
            self.bus.bus(ALPHA),
            PolicyFile.open(self._policy),
            DonorSection(policy_file=self._policy, describe_within_s=0.5),
            DonorMetrics(CollectorRegistry()),
        )
        for work in (broker.run(), donor.run(), self._play(NODE, self._node), self._play(BETA, self._beta)):
            self._begin(work)
        vms = await self.hypervisor.inventory()
        await self.say(NODE, ALPHA, make_heartbeat(utc_now(), vms=vms))
        await self.say(BETA, BROKER, capacity(utc_now()))

    async def stop(self) -> None:
        """Everything ends."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def say(self, sender: Party, to: Party, message: Message, *, cause: AnyEnvelope | None = None) -> None:
        envelope = seal(message, source=sender, message_id=uuid4(), now=utc_now(), cause=cause)
        await self.bus.bus(sender).publish(to, envelope)

    async def known_vm(self, client: TenantClient) -> UUID:
        """The VM, as soon as the broker has it."""
        async with asyncio.timeout(10):
            while not (vms := await client.vms()):
                await breathe()
        return vms[0].uuid

    def _url(self, name: str) -> str:
        return f"sqlite:///{self._folder}/{name}.db"

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    async def _play(self, party: Party, handler: Any) -> None:
        await self.bus.bus(party).consume(handler)

    async def _node(self, envelope: AnyEnvelope) -> None:
        if isinstance(envelope.data, DescribeVm):
            await self.say(NODE, ALPHA, await self._commands.describe(envelope.data), cause=envelope)

    async def _beta(self, envelope: AnyEnvelope) -> None:
        if isinstance(envelope.data, QuoteRequested):
            offer = quote("beta", valid_until=envelope.data.answer_by)
            await self.say(BETA, BROKER, QuoteOffered(port_id=envelope.data.port_id, quote=offer), cause=envelope)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Everything runs."""
    made = Site(tmp_path)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def dry_run() -> PortRequested:
    return PortRequested(port_id=uuid4(), vm_uuid=VM, donor="alpha", recipient="best", dry_run=True)


async def test_owner_sees_the_vm_and_what_a_port_would_meet(site: Site) -> None:
    """As its node reads it; no path of the host comes along, and nothing of it is a port."""
    async with TenantClient(site.bus.session(ACME)) as client:
        await site.known_vm(client)
        shown = await client.vm(VM)
        assert shown.details is not None
        assert (shown.details.uuid, shown.refusals) == (VM, ())
        assert [disk.target for disk in shown.details.disks] == ["vda"]
        assert "web.raw" not in shown.model_dump_json()
        assert await client.ports() == ()
        check = check_of(shown.vm, await client.plan(dry_run()))
        assert [(each.provider, each.can_take) for each in check.providers] == [("beta", True)]


async def test_what_speaks_against_it_is_told_by_both(site: Site) -> None:
    """The look names what the check is refused for."""
    site.hypervisor.vms[VM].domain_xml = site.hypervisor.vms[VM].domain_xml.replace(
        "</devices>",
        "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='0' function='0'/></source>"
        "</hostdev></devices>",
    )
    async with TenantClient(site.bus.session(ACME)) as client:
        await site.known_vm(client)
        shown = await client.vm(VM)
        assert shown.details is not None
        with pytest.raises(PortNotAllowed) as refused:
            await client.plan(dry_run())
    assert "vm_blocked" in {reason.code for reason in shown.refusals}
    assert set(refused.value.refusals) == set(shown.refusals)
    assert stopped(shown.vm, refused.value).exit_code is ExitCode.REFUSED


async def test_others_see_nothing(site: Site) -> None:
    """As if there were no such VM."""
    async with TenantClient(site.bus.session(ACME)) as client:
        await site.known_vm(client)
    async with TenantClient(site.bus.session(GLOBEX)) as client:
        with pytest.raises(QuestionFailed, match="there is no VM") as failed:
            await client.vm(VM)
    assert failed.value.code == "not_found"
