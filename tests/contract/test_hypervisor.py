"""The hypervisor port's contract, over the fake in memory and over a real libvirt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from services.node_agent.hypervisor.interface import (
    MAX_PEEK_BYTES,
    Hypervisor,
    HypervisorError,
    Lifecycle,
    LifecycleEvent,
    ObstacleCode,
    SecretError,
    VmNotFound,
)
from services.node_agent.hypervisor.secret_values import SecretValue, spec_for
from services.node_agent.hypervisor.testing import FakeHypervisor
from shared.domain import LayerFacts, SecretUsage, SecretUse, describe
from shared.messages.vm import CpuFacts, CpuFeature, CpuMode, VmState
from tests.support.two_hosts import TwoHosts, two_hosts

MAC = "52:54:00:77:00:01"


@dataclass
class Host:
    """A host under test: `shut_off` is a definition of a VM that is not there, `running` the UUID of one that runs.

    Its disk is an overlay on `base`.
    """

    hypervisor: Hypervisor
    shut_off_xml: str
    running: UUID
    base: Path


@pytest.fixture(scope="module")
def real_hosts() -> Iterator[TwoHosts]:
    """Real hosts, for this module."""
    with two_hosts("contract") as hosts:
        yield hosts


@pytest.fixture(scope="module")
def real_guest(real_hosts: TwoHosts) -> UUID:
    """A real guest that runs at alpha."""
    record, xml = real_hosts.guest(workload="idle", memory_mib=128, overlaid=True)
    real_hosts.start("alpha", record, xml)
    return UUID(record.uuid)


def small_definition(folder: Path, *, base: Path | None = None) -> str:
    """A VM without devices to trip over; with `base` as libvirt tells of a running one whose disk is an overlay."""
    disk = folder / f"{uuid4()}.raw"
    disk.write_bytes(bytes(1 << 20))
    beneath = (
        f"""<backingStore type='file'><format type='raw'/><source file='{base}'/>
<backingStore/></backingStore>"""
        if base
        else ""
    )
    return f"""<domain type='qemu'><name>small-{uuid4().hex[:8]}</name><uuid>{uuid4()}</uuid>
<memory unit='KiB'>65536</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
<cpu mode='custom'><model>qemu64</model></cpu><devices><disk type='file' device='disk'><driver name='qemu' type='raw'/>
<source file='{disk}'/>{beneath}<target dev='vda' bus='virtio'/></disk>
<interface type='bridge'><mac address='{MAC}'/><source bridge='vmbr0'/><model type='virtio'/></interface>
</devices></domain>"""


@pytest.fixture(params=["fake", pytest.param("libvirt", marks=pytest.mark.lab)])
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Host]:
    """The fake, then the real one."""
    if request.param == "fake":
        fake = FakeHypervisor()
        base = tmp_path / "base.raw"
        yield Host(fake, small_definition(tmp_path), fake.add(small_definition(tmp_path, base=base)), base)
        return
    hosts: TwoHosts = request.getfixturevalue("real_hosts")
    running: UUID = request.getfixturevalue("real_guest")
    real = hosts.hypervisor("alpha")
    await real.connect()
    try:
        yield Host(real, small_definition(hosts.folder), running, hosts.base(running))
    finally:
        await real.close()


async def test_a_host_says_what_it_is(host: Host) -> None:
    """Versions, platform and capacity are told, and make sense."""
    platform, capacity = await host.hypervisor.platform(), await host.hypervisor.capacity()
    assert platform.versions == await host.hypervisor.versions()
    assert platform.versions.libvirt > (9, 0, 0)
    assert platform.architecture == "x86_64"
    assert platform.accelerators == ("qemu",)
    assert any(machine.startswith("pc-q35-") for machine in platform.machines)
    assert "qemu64" in platform.cpu_models
    assert {"raw", "qcow2"} <= set(platform.disk_formats)
    assert platform.machine_aliases["q35"] in platform.machines
    newest = platform.machine_aliases["q35"]
    (offered,) = [each for each in platform.device_offers if newest in each.machines]
    assert offered.accelerator == "qemu"
    assert {"virtio", "sata"} <= set(offered.offers["disk_bus"])
    assert "vnc" in offered.offers["graphics"]
    assert {"vga", "virtio"} <= set(offered.offers["video"])
    assert 0 < capacity.memory_free_bytes <= capacity.memory_bytes
    assert 0 < capacity.disk_free_bytes <= capacity.disk_bytes


async def test_a_cpu_is_compared_by_its_features(host: Host) -> None:
    """A model that runs everywhere does; a required feature that is missing is named, a disabled one is not."""
    hypervisor, platform = host.hypervisor, await host.hypervisor.platform()
    machine = platform.machine_aliases["q35"]

    async def problem(model: str, **features: str) -> str | None:
        named = tuple(CpuFeature(name=name, policy=policy) for name, policy in features.items())
        cpu = CpuFacts(mode=CpuMode.CUSTOM, model=model, features=named)
        return await hypervisor.compare_cpu(cpu, architecture="x86_64", machine=machine, accelerator="qemu")

    assert await problem("qemu64") is None
    assert await problem("qemu64", avx512f="disable") is None
    assert "avx512f" in (await problem("qemu64", avx512f="require") or "")
    with pytest.raises(HypervisorError):
        await hypervisor.compare_cpu(CpuFacts(), architecture="x86_64", machine=machine, accelerator="qemu")


async def test_what_a_cpu_and_the_hosts_have_in_common(host: Host) -> None:
    """It runs here, and has no feature that one of the two lacks; a CPU without a definition has nothing in common."""
    hypervisor, platform = host.hypervisor, await host.hypervisor.platform()
    under = {"architecture": "x86_64", "machine": platform.machine_aliases["q35"], "accelerator": "qemu"}
    features = tuple(CpuFeature(name=name, policy="require") for name in ("aes", "avx512f"))
    cpu = CpuFacts(mode=CpuMode.CUSTOM, model="qemu64", features=features)
    assert await hypervisor.compare_cpu(cpu, **under) is not None

    common = await hypervisor.common_cpu(cpu, **under)

    assert common is not None
    assert await hypervisor.compare_cpu(common, **under) is None
    assert "avx512f" not in {each.name for each in common.features if each.policy == "require"}
    assert "aes" in {each.name for each in common.features}
    with pytest.raises(HypervisorError):
        await hypervisor.common_cpu(CpuFacts(), **under)


async def test_a_vm_that_is_not_there(host: Host) -> None:
    """Reading its state says so; what has an end in mind is content; the rest raises."""
    nobody = uuid4()
    hypervisor = host.hypervisor
    assert await hypervisor.state(nobody) is None
    assert await hypervisor.job(nobody) is None
    assert not await hypervisor.is_left_behind(nobody)
    assert not await hypervisor.is_paused_after_start(nobody)
    await hypervisor.destroy(nobody)
    await hypervisor.abort_job(nobody)
    await hypervisor.thaw(nobody)
    for call in (
        hypervisor.describe(nobody),
        hypervisor.peek_memory(nobody, 0, 4096),
        hypervisor.undefine(nobody, keep_nvram=True),
        hypervisor.set_autostart(nobody, enabled=True),
    ):
        with pytest.raises(VmNotFound):
            await call


async def test_a_definition_comes_and_goes(host: Host) -> None:
    """A defined VM is shut off, in the inventory, described with its blocker; undefined it is gone."""
    uuid = UUID(describe(host.shut_off_xml).uuid)
    await host.hypervisor.define(host.shut_off_xml)
    assert await host.hypervisor.state(uuid) is VmState.SHUT_OFF
    (summary,) = [vm for vm in await host.hypervisor.inventory() if vm.uuid == uuid]
    assert (summary.memory_bytes, summary.disk_bytes, summary.macs) == (64 << 20, 1 << 20, (MAC,))
    await host.hypervisor.set_autostart(uuid, enabled=True)
    vm = (await host.hypervisor.describe(uuid)).description
    assert (vm.persistent, vm.autostart, vm.state) == (True, True, VmState.SHUT_OFF)
    assert any(blocker.startswith("not_running") for blocker in vm.blockers)
    await host.hypervisor.undefine(uuid, keep_nvram=True)
    assert await host.hypervisor.state(uuid) is None


async def test_a_running_vm_is_described_as_it_runs(host: Host) -> None:
    """Its XML is one that another host can run, and its files are named."""
    live = await host.hypervisor.describe(host.running)
    facts = describe(live.domain_xml)
    assert (live.description.uuid, live.description.state) == (host.running, VmState.RUNNING)
    assert live.description.blockers == ()
    assert live.description.domain_type == "qemu"
    assert live.description.disks[0].target == "vda"
    assert live.description.disks[0].virtual_size_bytes > 0
    assert live.files == tuple(disk.source for disk in facts.disks)
    assert "<alias" not in live.domain_xml


async def test_the_cards_of_a_running_vm_are_seen(host: Host) -> None:
    """In their order, with the MACs of the definition; a guest without an agent is no problem."""
    seen = await host.hypervisor.seen_cards(host.running)
    described = await host.hypervisor.describe(host.running)
    assert [card.mac for card in seen.cards] == [nic.mac for nic in described.description.nics]
    assert seen.problems == ()
    assert {card.guest_mac for card in seen.cards} <= {None}
    with pytest.raises(VmNotFound):
        await host.hypervisor.seen_cards(uuid4())


async def test_nothing_speaks_against_a_vm_that_can_move(host: Host) -> None:
    """Asking moves nothing and is not noticed: it runs on, without an event and without a job."""
    heard: list[LifecycleEvent] = []
    stop = host.hypervisor.listen(heard.append)
    assert await host.hypervisor.obstacles(host.running) == ()
    stop()
    assert heard == []
    assert await host.hypervisor.state(host.running) is VmState.RUNNING
    assert await host.hypervisor.job(host.running) is None
    with pytest.raises(VmNotFound):
        await host.hypervisor.obstacles(uuid4())


async def test_a_snapshot_in_an_image_speaks_against_moving(host: Host, tmp_path: Path) -> None:
    """Whoever made it; a VM that is off is looked at, too."""
    image = tmp_path / f"{uuid4()}.qcow2"
    for command in (("create", "-q", "-f", "qcow2", image, "1M"), ("snapshot", "-c", "one", image)):
        await (await asyncio.create_subprocess_exec("qemu-img", *map(str, command))).wait()
    (disk,) = describe(host.shut_off_xml).disks
    xml = host.shut_off_xml.replace("type='raw'", "type='qcow2'", 1).replace(disk.source, str(image), 1)
    uuid = UUID(describe(xml).uuid)
    await host.hypervisor.define(xml)
    (obstacle,) = await host.hypervisor.obstacles(uuid)
    assert obstacle.code is ObstacleCode.INTERNAL_SNAPSHOTS
    assert "vda" in obstacle.detail
    await host.hypervisor.undefine(uuid, keep_nvram=True)


async def test_a_qemu_that_does_not_answer_is_an_obstacle(host: Host) -> None:
    """Told in time; list and state are there meanwhile, and it heals."""
    assert await host.hypervisor.freeze(host.running)
    async with asyncio.timeout(20):
        codes = [obstacle.code for obstacle in await host.hypervisor.obstacles(host.running)]
        assert codes == [ObstacleCode.NOT_ANSWERED]
        assert host.running in {vm.uuid for vm in await host.hypervisor.inventory()}
        assert await host.hypervisor.state(host.running) is VmState.RUNNING
    await host.hypervisor.thaw(host.running)
    async with asyncio.timeout(30):
        while await host.hypervisor.obstacles(host.running):  # noqa: ASYNC110  # the host's own state
            await asyncio.sleep(0.1)


async def test_a_lasting_vm_has_a_lasting_definition(host: Host) -> None:
    """Beside the one it runs with."""
    live = await host.hypervisor.describe(host.running)
    assert live.lasting_xml is not None
    assert describe(live.lasting_xml).uuid == str(host.running)


async def test_memory_is_read_while_the_guest_runs(host: Host) -> None:
    """As much as was asked for, up to the most that may be; the guest goes on. Of a VM that is off there is none."""
    hypervisor = host.hypervisor
    for size in (4096, MAX_PEEK_BYTES):
        assert len(await hypervisor.peek_memory(host.running, 1 << 20, size)) == size
    assert await hypervisor.state(host.running) is VmState.RUNNING
    uuid = UUID(describe(host.shut_off_xml).uuid)
    await hypervisor.define(host.shut_off_xml)
    with pytest.raises(HypervisorError):
        await hypervisor.peek_memory(uuid, 0, 4096)
    await hypervisor.undefine(uuid, keep_nvram=True)


async def test_what_lies_beneath_a_disk_is_told_apart_from_it(host: Host) -> None:
    """It is named, and it is none of the VM's own files, which are put away when the VM has left."""
    live = await host.hypervisor.describe(host.running)
    assert live.layers == {"vda": (LayerFacts(str(host.base), "raw"),)}
    assert live.description.disks[0].beneath_bytes > 0
    assert str(host.base) not in live.files


async def test_files_in_use_are_named_with_their_vm(host: Host) -> None:
    """Of all VMs, running or defined, with what lies beneath their disks; not of the one that does not count."""
    hypervisor = host.hypervisor
    live = await hypervisor.describe(host.running)
    await hypervisor.define(host.shut_off_xml)
    off = describe(host.shut_off_xml)
    in_use = await hypervisor.files_in_use()
    for path in (*live.files, str(host.base)):
        assert in_use[path] == live.description.name
    assert in_use[off.disks[0].source] == off.name
    others = await hypervisor.files_in_use(besides=host.running)
    assert not {*live.files, str(host.base)} & set(others)
    assert off.disks[0].source in others
    await hypervisor.undefine(UUID(off.uuid), keep_nvram=True)
    assert off.disks[0].source not in await hypervisor.files_in_use()


async def test_a_vm_that_runs_is_not_started_again(host: Host) -> None:
    """Nothing happens; a VM that is not there cannot be started."""
    await host.hypervisor.start(host.running)
    assert await host.hypervisor.state(host.running) is VmState.RUNNING
    with pytest.raises(VmNotFound):
        await host.hypervisor.start(uuid4())


async def test_a_vm_without_a_migration_has_no_job(host: Host) -> None:
    """And aborting nothing is no error."""
    assert await host.hypervisor.job(host.running) is None
    await host.hypervisor.abort_job(host.running)
    assert await host.hypervisor.state(host.running) is VmState.RUNNING


async def test_post_copy_of_nothing_is_refused(host: Host) -> None:
    """The reason is the hypervisor's."""
    with pytest.raises(HypervisorError):
        await host.hypervisor.start_post_copy(host.running)


async def test_the_maximum_downtime_can_be_set_before_a_migration(host: Host) -> None:
    """The first rounds then have it already."""
    await host.hypervisor.set_max_downtime(host.running, 50)


async def test_what_a_switchover_is_planned_with_can_be_given(host: Host) -> None:
    """By the versions that these tests run with."""
    assert await host.hypervisor.takes_switchover_bandwidth()


async def test_a_frozen_vm_can_still_be_looked_at_and_thaws(host: Host) -> None:
    """Inventory and state ask no QEMU, so they do not hang."""
    assert await host.hypervisor.freeze(host.running)
    async with asyncio.timeout(5):
        assert await host.hypervisor.state(host.running) is VmState.RUNNING
        assert host.running in {vm.uuid for vm in await host.hypervisor.inventory()}
    await host.hypervisor.thaw(host.running)
    await host.hypervisor.resume(host.running)


async def test_frozen_vms_are_known_and_only_they_are_killed(host: Host) -> None:
    """A VM whose process is not stopped is left alone."""
    hypervisor = host.hypervisor
    assert await hypervisor.frozen() == frozenset()
    assert not await hypervisor.kill_frozen(host.running)
    assert await hypervisor.freeze(host.running)
    assert await hypervisor.frozen() == {host.running}
    await hypervisor.thaw(host.running)
    assert await hypervisor.state(host.running) is VmState.RUNNING
    assert not await hypervisor.kill_frozen(uuid4())


async def test_the_cpu_time_of_vcpus_is_read_from_a_process(host: Host) -> None:
    """A VM that is off has none, nor has one that is not there."""
    hypervisor = host.hypervisor
    assert await hypervisor.vcpu_time_ns(uuid4()) is None
    used_ns = await hypervisor.vcpu_time_ns(host.running)
    assert used_ns is not None
    assert used_ns >= 0
    await hypervisor.destroy(host.running)
    assert await hypervisor.vcpu_time_ns(host.running) is None
    await hypervisor.start(host.running)


async def test_only_what_a_transfer_made_is_ended(host: Host) -> None:
    """A VM with other disks is somebody else's; a lasting one is no transfer's."""
    (disk,) = (await host.hypervisor.describe(host.running)).files
    await host.hypervisor.destroy_created(host.running, disks=("/nowhere/web.raw",))
    with pytest.raises(HypervisorError, match="lasting"):
        await host.hypervisor.destroy_created(host.running, disks=(disk,))
    assert await host.hypervisor.state(host.running) is VmState.RUNNING
    await host.hypervisor.destroy_created(uuid4(), disks=(disk,))


async def test_the_end_of_a_vm_is_heard(host: Host) -> None:
    """A destroyed VM, frozen even, is shut off at once, and an event says so."""
    heard: asyncio.Queue[LifecycleEvent] = asyncio.Queue()
    stop = host.hypervisor.listen(heard.put_nowait)
    await host.hypervisor.freeze(host.running)
    async with asyncio.timeout(10):
        await host.hypervisor.destroy(host.running)
        while (event := await heard.get()).kind is not Lifecycle.STOPPED:
            pass
    stop()
    assert event.vm_uuid == host.running
    assert await host.hypervisor.state(host.running) is VmState.SHUT_OFF
    await host.hypervisor.destroy(host.running)
    await host.hypervisor.start(host.running)
    assert await host.hypervisor.state(host.running) is VmState.RUNNING


async def test_a_frozen_vm_is_killed_and_its_host_notices(host: Host, request: pytest.FixtureRequest) -> None:
    """Without being asked: it finds the process gone, and the VM shut off."""
    running = host.running
    if not isinstance(host.hypervisor, FakeHypervisor):
        hosts: TwoHosts = request.getfixturevalue("real_hosts")
        record, xml = hosts.guest(workload="idle", memory_mib=128)
        await asyncio.to_thread(hosts.start, "alpha", record, xml)
        running = UUID(record.uuid)
    assert await host.hypervisor.freeze(running)
    assert await host.hypervisor.kill_frozen(running)
    async with asyncio.timeout(10):
        while await host.hypervisor.state(running) is not VmState.SHUT_OFF:  # noqa: ASYNC110  # libvirtd's own state
            await asyncio.sleep(0.05)
    assert await host.hypervisor.frozen() == frozenset()


async def test_a_secret_comes_and_goes(host: Host) -> None:
    """It is found by UUID and by usage, tells its value, is never overwritten, and only its port's removal takes it."""
    secrets, port = host.hypervisor.secrets, uuid4()
    assert "vtpm" in (await host.hypervisor.platform()).secret_usages
    value = SecretValue(bytes(range(256)))
    for usage in SecretUsage:
        use = SecretUse("tpm", usage, uuid=str(uuid4()))
        spec = spec_for(use, port, "web & co")
        with pytest.raises(SecretError):
            await secrets.find(use)
        with pytest.raises(SecretError):
            await secrets.read(spec.uuid)
        await secrets.keep(spec, value)
        assert await secrets.find(use) == spec.uuid
        assert await secrets.find(SecretUse("tpm", usage, usage_id=spec.usage_id)) == spec.uuid
        assert await secrets.read(spec.uuid) == value
        for taken in (spec, replace(spec, uuid=uuid4())):
            with pytest.raises(HypervisorError):
                await secrets.keep(taken, SecretValue(b"another"))
        assert await secrets.read(spec.uuid) == value
        await secrets.discard(spec.uuid, owner=uuid4())
        assert await secrets.read(spec.uuid) == value
        await secrets.discard(spec.uuid, owner=port)
        await secrets.discard(spec.uuid)
        with pytest.raises(SecretError):
            await secrets.find(use)


async def test_who_uses_a_secret_is_known(host: Host) -> None:
    """A VM that is off counts; of an unknown secret, too."""
    secrets, uuid = host.hypervisor.secrets, uuid4()
    assert await secrets.user_of(uuid) is None
    tpm = f"<tpm model='tpm-crb'><backend type='emulator' version='2.0'><encryption secret='{uuid}'/></backend></tpm>"
    xml = host.shut_off_xml.replace("</devices>", f"{tpm}</devices>")
    await host.hypervisor.define(xml)
    assert await secrets.user_of(uuid) == describe(xml).name
    await host.hypervisor.undefine(UUID(describe(xml).uuid), keep_nvram=True)
    assert await secrets.user_of(uuid) is None
