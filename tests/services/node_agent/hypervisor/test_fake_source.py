"""The fake migration's source ends as libvirt's does: Confirm kills its copy before anybody says goodbye."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from services.node_agent.hypervisor.interface import HypervisorError, MigrationPlan
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.libvirt_rpc.messages import FrameParser, Procedure
from shared.messages.vm import VmState
from tests.support.transfer_pair import DOMAIN, VM


class Hosts:
    """Two hosts, and a wire between their libvirtds that can be cut at a procedure."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source, self.destination = FakeHypervisor(), FakeHypervisor()
        self.image = folder / "web.raw"
        self.image.write_bytes(bytes(4096))
        self.xml = DOMAIN % self.image
        self.source.add(self.xml, memory=b"page" * 1000)
        self.cut_at: Procedure | None = None
        self.called: list[int] = []
        self.wires: list[asyncio.StreamWriter] = []
        self.tasks: list[asyncio.Task[None]] = []

    def plan(self) -> MigrationPlan:
        """Move the VM, its memory only."""
        return MigrationPlan(
            vm_uuid=VM,
            driver_uri=f"qemu+unix:///system?socket={self.folder}/driver.sock",
            memory_uri=f"unix://{self.folder}/mem.sock",
            disks_uri=f"unix://{self.folder}/nbd.sock",
            domain_xml=self.xml,
            disks=(),
        )

    def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be the wire of the driver connection."""
        self.wires.append(writer)
        self.tasks.append(asyncio.ensure_future(self._forward(reader, writer)))

    async def close(self) -> None:
        """End the wire; on return no socket of it is open."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for end in self.wires:
            end.transport.abort()
            with suppress(ConnectionError):
                await end.wait_closed()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_unix_connection(self.folder / "libvirtd.sock")
        self.wires.append(to_there)
        back = asyncio.ensure_future(self._back(there, writer))
        self.tasks.append(back)
        calls = FrameParser()
        while data := await reader.read(65536):
            frames = calls.receive_data(data)
            self.called += [frame.procedure for frame in frames]
            if self.cut_at is not None and self.cut_at in self.called:
                writer.transport.abort()
                break
            to_there.write(data)
        to_there.close()
        await back
        writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)


@pytest.fixture
async def hosts() -> AsyncIterator[Hosts]:
    """Both, joined."""
    async with AsyncExitStack() as stack:
        made = Hosts(Path(stack.enter_context(TemporaryDirectory(prefix="vmport-"))))
        await stack.enter_async_context(made.destination.serve(made.folder / "libvirtd.sock"))
        wire = await asyncio.start_unix_server(made.join, made.folder / "driver.sock")
        stack.callback(wire.close)
        yield made
        await made.close()


async def test_a_guest_moves_and_its_copy_is_gone(hosts: Hosts) -> None:
    """The goodbye comes last."""
    await hosts.source.migrate(hosts.plan())
    assert hosts.source.vms[VM].state is VmState.SHUT_OFF
    assert hosts.destination.vms[VM].state is VmState.RUNNING
    assert hosts.called[-2:] == [Procedure.UNREGISTER_CLOSE_CALLBACK, Procedure.CONNECT_CLOSE]


async def test_a_lost_goodbye_means_nothing(hosts: Hosts) -> None:
    """Confirm was before it: this copy is killed and does not run again."""
    hosts.cut_at = Procedure.UNREGISTER_CLOSE_CALLBACK
    began = len(hosts.source.vms[VM].ran_at_s)
    await hosts.source.migrate(hosts.plan())
    assert hosts.source.vms[VM].state is VmState.SHUT_OFF
    assert len(hosts.source.vms[VM].ran_at_s) == began
    assert hosts.destination.vms[VM].state is VmState.RUNNING


async def test_a_lost_finish_resumes_the_source(hosts: Hosts) -> None:
    """As libvirt does, which is why the agent holds the connection."""
    hosts.cut_at = Procedure.MIGRATE_FINISH3_PARAMS
    with pytest.raises(HypervisorError):
        await hosts.source.migrate(hosts.plan())
    assert hosts.source.vms[VM].state is VmState.RUNNING


async def test_what_the_guest_wrote_moves_with_it(hosts: Hosts) -> None:
    """The version of its disk is the same there, and the memory is."""
    hosts.source.guest_writes(VM)
    hosts.source.guest_writes(VM)
    await hosts.source.migrate(hosts.plan())
    assert hosts.destination.vms[VM].content == 2
    assert hosts.destination.vms[VM].memory == b"page" * 1000


async def test_libvirtd_dies_in_the_migration(hosts: Hosts) -> None:
    """The caller hears an error, and the VM stays in its phase until libvirtd is back."""
    hosts.source.memory_flows.clear()
    hosts.source.vms[VM].memory = bytes(200_000)
    migration = asyncio.ensure_future(hosts.source.migrate(hosts.plan()))
    await hosts.destination.prepared.wait()
    hosts.source.kill_libvirtd()
    with pytest.raises(HypervisorError):
        await migration
    assert hosts.source.vms[VM].runs
    hosts.source.start_libvirtd()
    assert await hosts.source.state(VM) is VmState.RUNNING
