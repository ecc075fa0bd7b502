"""What a real libvirt and a real QEMU say when they are asked whether a VM can leave, and what removing it takes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import libvirt
import pytest

from services.node_agent.hypervisor.interface import LifecycleEvent, ObstacleCode
from services.node_agent.hypervisor.libvirt_adapter import LibvirtHypervisor
from shared.messages.vm import VmState
from tests.support.libvirt_daemon import LibvirtDaemon, file_disk, guest_xml, libvirt_daemon

pytestmark = pytest.mark.servers

COPY = "<disk type='file'><source file='{}'/><driver type='qcow2'/></disk>"


@pytest.fixture(scope="module")
def daemon() -> Iterator[LibvirtDaemon]:
    """One for this module."""
    with libvirt_daemon() as running:
        yield running


@pytest.fixture
def connection(daemon: LibvirtDaemon) -> Iterator[libvirt.virConnect]:
    """The operator's."""
    opened = daemon.connect()
    yield opened
    opened.close()


@pytest.fixture
async def hypervisor(daemon: LibvirtDaemon) -> AsyncIterator[LibvirtHypervisor]:
    """The node agent's, which waits for a QEMU only shortly."""
    made = LibvirtHypervisor(
        daemon.uri,
        image_dir=str(daemon.folder),
        accelerators=("qemu",),
        pid_dir=str(daemon.folder / "run/libvirt/qemu"),
        qemu_within_s=4.0,
    )
    await made.connect()
    yield made
    await made.close()


@contextmanager
def served_image(daemon: LibvirtDaemon) -> Iterator[Path]:
    """An image of 64 MiB at a server of network disks; its socket."""
    socket, image = daemon.folder / "nbd.sock", daemon.image("raw")
    server = subprocess.Popen(["qemu-nbd", "--persistent", "-f", "raw", "-x", "data", "-k", str(socket), str(image)])
    try:
        until_s = time.monotonic() + 10
        while not socket.exists() and time.monotonic() < until_s:
            time.sleep(0.05)
        yield socket
    finally:
        server.terminate()
        server.wait()


def internal_snapshots(image: Path) -> str:
    """As qemu-img lists them."""
    return subprocess.run(["qemu-img", "snapshot", "-l", image], check=True, capture_output=True, text=True).stdout


class Guest:
    """A VM that runs, with one QCOW2 disk."""

    def __init__(self, daemon: LibvirtDaemon, connection: libvirt.virConnect, image: Path | None = None) -> None:
        self.name = f"g{uuid4().hex[:8]}"
        self.image = image or daemon.image()
        self.domain = daemon.run(connection, guest_xml(self.name, file_disk(self.image, image_format=self.format)))
        self.uuid = UUID(self.domain.UUIDString())

    @property
    def format(self) -> str:
        """Of the image."""
        return self.image.suffix[1:]


@pytest.fixture
def guest(daemon: LibvirtDaemon, connection: libvirt.virConnect) -> Guest:
    """One of its own for each test."""
    return Guest(daemon, connection)


async def codes(hypervisor: LibvirtHypervisor, guest: Guest) -> list[ObstacleCode]:
    """What speaks against moving it."""
    return [obstacle.code for obstacle in await hypervisor.obstacles(guest.uuid)]


async def test_asking_leaves_no_trace(hypervisor: LibvirtHypervisor, guest: Guest) -> None:
    """Nothing speaks against a plain VM; it runs on without an event, without a job, and is not marked as tainted."""
    heard: list[LifecycleEvent] = []
    before = guest.domain.XMLDesc(0)
    tainted = guest.domain.messages(libvirt.VIR_DOMAIN_MESSAGE_TAINTING)
    stop = hypervisor.listen(heard.append)
    for _ in range(3):
        assert await hypervisor.obstacles(guest.uuid) == ()
    await asyncio.sleep(0.3)
    stop()
    assert heard == []
    assert await hypervisor.state(guest.uuid) is VmState.RUNNING
    assert guest.domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE
    assert guest.domain.messages(libvirt.VIR_DOMAIN_MESSAGE_TAINTING) == tainted
    assert guest.domain.XMLDesc(0) == before


async def test_asking_calls_no_hook(daemon: LibvirtDaemon, hypervisor: LibvirtHypervisor, guest: Guest) -> None:
    """A hook of the operator's may do anything when a migration arrives, and none does."""
    assert await hypervisor.obstacles(guest.uuid) == ()
    called = [line.split()[:2] for line in daemon.hook_calls.read_text().splitlines()]
    assert [guest.name, "start"] in called
    assert [guest.name, "migrate"] not in called


async def test_qemus_own_reasons_are_told(
    daemon: LibvirtDaemon, connection: libvirt.virConnect, hypervisor: LibvirtHypervisor
) -> None:
    """By QEMU's words, before anything moves: here a format that cannot be migrated."""
    guest = Guest(daemon, connection, daemon.image("vmdk"))
    (obstacle,) = await hypervisor.obstacles(guest.uuid)
    assert obstacle.code is ObstacleCode.NOT_MIGRATABLE
    assert "vmdk" in obstacle.detail
    assert await hypervisor.state(guest.uuid) is VmState.RUNNING


async def test_checkpoints_snapshots_and_jobs_are_named(
    daemon: LibvirtDaemon, hypervisor: LibvirtHypervisor, guest: Guest
) -> None:
    """Each by itself, with its names, and gone when it is gone."""
    guest.domain.checkpointCreateXML("<domaincheckpoint><name>backup.0</name></domaincheckpoint>", 0)
    (checkpoint,) = await hypervisor.obstacles(guest.uuid)
    assert checkpoint.code is ObstacleCode.CHECKPOINTS
    assert "backup.0" in checkpoint.detail
    guest.domain.checkpointLookupByName("backup.0").delete(0)

    guest.domain.snapshotCreateXML("<domainsnapshot><name>before-upgrade</name></domainsnapshot>", 0)
    snapshot, inside = await hypervisor.obstacles(guest.uuid)
    assert (snapshot.code, inside.code) == (ObstacleCode.SNAPSHOTS, ObstacleCode.INTERNAL_SNAPSHOTS)
    assert "1 internal, 0 external" in snapshot.detail
    guest.domain.snapshotLookupByName("before-upgrade").delete(0)

    copy = COPY.format(daemon.folder / f"{uuid4()}.qcow2")
    guest.domain.blockCopy("vda", copy, {}, libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    assert await codes(hypervisor, guest) == [ObstacleCode.BLOCK_JOB]
    guest.domain.blockJobAbort("vda", 0)
    assert await codes(hypervisor, guest) == []


async def test_a_backup_is_named_at_once(daemon: LibvirtDaemon, hypervisor: LibvirtHypervisor, guest: Guest) -> None:
    """libvirt would keep a question waiting for half a minute."""
    socket = daemon.folder / f"{uuid4().hex[:8]}.sock"
    backup = f"<domainbackup mode='pull'><server transport='unix' socket='{socket}'/></domainbackup>"
    guest.domain.backupBegin(backup, None, 0)
    async with asyncio.timeout(5):
        (obstacle,) = await hypervisor.obstacles(guest.uuid)
    assert obstacle.code is ObstacleCode.ACTIVE_JOB
    assert "backup" in obstacle.detail
    guest.domain.abortJob()


async def test_a_paused_vm_says_why(hypervisor: LibvirtHypervisor, guest: Guest) -> None:
    """And stays paused."""
    guest.domain.suspend()
    (obstacle,) = await hypervisor.obstacles(guest.uuid)
    assert obstacle.code is ObstacleCode.PAUSED
    assert "operator" in obstacle.detail
    assert await hypervisor.state(guest.uuid) is VmState.PAUSED


async def test_a_qemu_that_hangs_stops_nobody_else(
    daemon: LibvirtDaemon, connection: libvirt.virConnect, hypervisor: LibvirtHypervisor, guest: Guest
) -> None:
    """More of them than libvirtd reads calls of one connection: each is told in time, and the others are answered."""
    hung = [Guest(daemon, connection) for _ in range(6)]
    pids = [daemon.qemu_pid(each.name) for each in hung]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            async with asyncio.timeout(15):
                found = await asyncio.gather(*(codes(hypervisor, each) for each in hung))
            assert found == [[ObstacleCode.NOT_ANSWERED]] * 6
            async with asyncio.timeout(5):
                assert await codes(hypervisor, guest) == []
                assert len(await hypervisor.inventory()) >= 7
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    for _ in range(20):
        if await codes(hypervisor, hung[0]) == []:
            break
        await asyncio.sleep(0.2)
    assert await codes(hypervisor, hung[0]) == []


async def test_a_vm_with_checkpoints_can_be_removed(
    daemon: LibvirtDaemon, connection: libvirt.virConnect, hypervisor: LibvirtHypervisor
) -> None:
    """Else its donor keeps a definition that can be started, for ever."""
    uuid = uuid4()
    xml = guest_xml("left", file_disk(daemon.image()), uuid=uuid)
    domain = connection.defineXML(xml)
    for number in range(2):
        parent = f"<parent><name>b.{number - 1}</name></parent>" if number else ""
        checkpoint = f"""<domaincheckpoint><name>b.{number}</name>{parent}<creationTime>170000000{number}</creationTime>
<disks><disk name='vda' checkpoint='bitmap' bitmap='b.{number}'/></disks>{domain.XMLDesc(0)}</domaincheckpoint>"""
        domain.checkpointCreateXML(checkpoint, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
    with pytest.raises(libvirt.libvirtError, match="checkpoints"):
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
    await hypervisor.undefine(uuid, keep_nvram=True)
    assert await hypervisor.state(uuid) is None


async def test_a_vm_with_snapshots_and_a_saved_state_can_be_removed(
    hypervisor: LibvirtHypervisor, guest: Guest
) -> None:
    """Its image keeps the snapshot: it may be needed when the port fails."""
    guest.domain.snapshotCreateXML("<domainsnapshot><name>one</name></domainsnapshot>", 0)
    guest.domain.managedSave(0)
    assert guest.domain.hasManagedSaveImage(0)
    assert ObstacleCode.MANAGED_SAVE in await codes(hypervisor, guest)
    await hypervisor.undefine(guest.uuid, keep_nvram=True)
    assert await hypervisor.state(guest.uuid) is None
    assert "one" in internal_snapshots(guest.image)


async def test_one_vm_that_cannot_be_read_is_one_entry(
    connection: libvirt.virConnect, hypervisor: LibvirtHypervisor, guest: Guest
) -> None:
    """With libvirt's own figures and the reason; the others are listed as ever."""
    uuid = uuid4()
    note = f"<metadata><n:note xmlns:n='urn:example:note'>{'x' * 1_200_000}</n:note></metadata>"
    domain = connection.defineXML(guest_xml("huge note ", uuid=uuid, metadata=note))
    found = {vm.uuid: vm for vm in await hypervisor.inventory()}
    assert (found[uuid].name, found[uuid].vcpus, found[uuid].memory_bytes) == ("huge note ", 1, 64 << 20)
    assert found[uuid].unsized_disks == ("all",)
    assert "bytes" in found[uuid].problem
    assert (found[guest.uuid].problem, found[guest.uuid].disk_bytes) == ("", 64 << 20)
    domain.undefine()


async def test_volumes_and_network_disks_are_counted(
    daemon: LibvirtDaemon, connection: libvirt.virConnect, hypervisor: LibvirtHypervisor
) -> None:
    """A volume by its pool, a network disk by QEMU; of a VM that is off nobody knows, and that is said."""
    folder = daemon.folder / "pool"
    folder.mkdir()
    pool = connection.storagePoolCreateXML(
        f"<pool type='dir'><name>fast</name><target><path>{folder}</path></target></pool>", 0
    )
    pool.createXML(
        "<volume><name>v1</name><capacity unit='MiB'>96</capacity><target><format type='qcow2'/></target></volume>", 0
    )
    with served_image(daemon) as socket:
        volume = """<disk type='volume' device='disk'><driver name='qemu' type='qcow2'/>
<source pool='fast' volume='v1'/><target dev='vda' bus='virtio'/></disk>"""
        network = f"""<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd'
name='data'><host transport='unix' socket='{socket}'/></source><target dev='vdb' bus='virtio'/></disk>"""
        running = daemon.run(connection, guest_xml("disks", volume, network))
        off = connection.defineXML(guest_xml("disks-off", volume, network))
        found = {vm.name: vm for vm in await hypervisor.inventory()}
        assert (found["disks"].disk_bytes, found["disks"].unsized_disks) == (160 << 20, ())
        assert (found["disks-off"].disk_bytes, found["disks-off"].unsized_disks) == (96 << 20, ("vdb",))
        running.destroy()
        running.undefine()
        off.undefine()
    pool.destroy()


async def test_the_lasting_definition_is_read_too(
    connection: libvirt.virConnect, hypervisor: LibvirtHypervisor, guest: Guest
) -> None:
    """As it will be after the next start; a transient VM has none."""
    connection.defineXML(
        guest_xml(guest.name, file_disk(guest.image), uuid=guest.uuid).replace("<vcpu>1</vcpu>", "<vcpu>2</vcpu>")
    )
    live = await hypervisor.describe(guest.uuid)
    assert live.lasting_xml is not None
    assert ">2</vcpu>" in live.lasting_xml
    assert ">1</vcpu>" in live.domain_xml
    guest.domain.undefine()
    assert (await hypervisor.describe(guest.uuid)).lasting_xml is None
