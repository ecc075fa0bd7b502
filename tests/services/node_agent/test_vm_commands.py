"""The short commands about a VM: each may come twice and then answers the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prometheus_client import CollectorRegistry

from services.node_agent.hypervisor.interface import HypervisorError, LiveVm, Obstacle, ObstacleCode
from services.node_agent.hypervisor.secret_values import SecretSpec
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.metrics import NodeMetrics
from services.node_agent.network.vm_addresses import VmAddresses
from services.node_agent.settings import NetworkSection
from services.node_agent.state.given_away import GivenAwayVm
from services.node_agent.state.journal import Journal, Phase, PortRecord
from services.node_agent.vm_commands import VmCommands
from shared.domain import SecretUsage, describe, portable
from shared.ejecting import without_media
from shared.messages.network import NetworkMode, NetworkPlan, NetworkTerms
from shared.messages.nodes import CheckVm, DescribeFailed, DescribeVm, VmDescribed
from shared.messages.porting import (
    CompletionFailed,
    DisconnectVm,
    DisksErased,
    ProvisionVm,
    Side,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.vm import CpuFacts, CpuFeature, CpuMode, Need, VmDescription, VmState
from shared.testing import make_lane_endpoint
from tests.support.transfer_pair import DOMAIN, VM, make_agreement


class Host:
    """A host with one VM whose disk is a file."""

    def __init__(self, folder: Path) -> None:
        self.disk = folder / "web.raw"
        self.disk.write_bytes(b"data" * 1024)
        self.domain_xml = DOMAIN % self.disk
        self.hypervisor = FakeHypervisor()
        self.hypervisor.add(self.domain_xml)
        self.journal = Journal(folder / "ports").open()
        self.agreement = make_agreement(folder / "x.raw", domain_xml=self.domain_xml)
        self.port_id = self.agreement.port_id
        self.described: list[LiveVm] = []
        self.registry = CollectorRegistry()
        self.commands = VmCommands(
            self.hypervisor,
            self.journal,
            node="alpha-1",
            lane=make_lane_endpoint(),
            described=self.described.append,
            metrics=NodeMetrics(self.registry),
        )

    def guest_left(self, *more_disks: Path, phase: Phase = Phase.DONE, folders: tuple[str, ...] = ()) -> None:
        """The port has succeeded: the VM is shut off here, and given away."""
        self.hypervisor.vms[VM].state = VmState.SHUT_OFF
        disks = (str(self.disk), *map(str, more_disks))
        record = PortRecord(side=Side.OUTBOUND, agreement=self.agreement, phase=phase, disks=disks)
        self.journal.store(record.model_copy(update={"state_folders": folders}))
        self.journal.given_away.store(GivenAwayVm.by(self.agreement, since="2026-01-01T00:00:00+00:00", reason="x"))

    def guest_arrived(self, phase: Phase = Phase.DONE) -> ProvisionVm:
        """The port that brought it has succeeded here; the guest is transient, as libvirt has it. The command."""
        self.hypervisor.vms[VM].persistent = False
        self.journal.store(PortRecord(side=Side.INBOUND, agreement=self.agreement, phase=phase))
        return ProvisionVm(
            port_id=self.port_id,
            vm_uuid=VM,
            autostart=True,
            donor_xml=portable(self.domain_xml),
            lasting_xml=self.agreement.domain_xml.replace("<vcpu>1<", "<vcpu>4<"),
        )

    def second_copies(self) -> float | None:
        """How many were counted."""
        return self.registry.get_sample_value("vmport_node_second_copies_total")

    async def disconnect(self) -> VmDisconnected | CompletionFailed:
        """As the donor agent asks."""
        return await self.commands.disconnect(DisconnectVm(port_id=self.port_id, vm_uuid=VM))


def kept_disks(answer: VmDisconnected) -> list[Path]:
    """The disks in quarantine."""
    return [Path(disk) for disk in answer.quarantined_disks]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def test_a_description_is_passed_on(host: Host) -> None:
    """What reads base images ahead gets every VM that a port may follow, and none that is only shown."""
    shown = DescribeVm(port_id=host.port_id, vm_uuid=VM, port_may_follow=False)
    assert isinstance(await host.commands.describe(shown), VmDescribed)
    assert host.described == []
    answer = await host.commands.describe(DescribeVm(port_id=host.port_id, vm_uuid=VM))
    assert isinstance(answer, VmDescribed)
    assert (answer.identity.vm.uuid, answer.identity.node) == (VM, "alpha-1")
    assert [vm.domain_xml for vm in host.described] == [host.domain_xml]


async def test_only_the_portable_form_leaves_the_host(host: Host) -> None:
    """Of both definitions: no path and no bridge of this host is in what is sent."""
    host.hypervisor.vms[VM].lasting_xml = host.domain_xml.replace("<vcpu>1<", "<vcpu>4<")

    answer = await host.commands.describe(DescribeVm(port_id=host.port_id, vm_uuid=VM))

    assert isinstance(answer, VmDescribed)
    identity = answer.identity
    assert identity.domain_xml == portable(host.domain_xml)
    assert identity.lasting_xml is not None
    assert describe(identity.lasting_xml).vcpus == 4
    for text in (identity.domain_xml, identity.lasting_xml):
        assert str(host.disk) not in text
        assert "vmbr0" not in text


async def test_a_definition_that_only_the_next_start_brings_is_judged_too(host: Host) -> None:
    """A disk that is only in the lasting definition would be lost."""
    disk = "<disk><source file='/b'/><target dev='vdb' bus='virtio'/></disk>"
    host.hypervisor.vms[VM].lasting_xml = host.domain_xml.replace("</devices>", f"{disk}</devices>")

    answer = await host.commands.describe(DescribeVm(port_id=host.port_id, vm_uuid=VM))

    assert isinstance(answer, VmDescribed)
    assert [blocker.partition(":")[0] for blocker in answer.identity.vm.blockers] == ["pending_disk"]


async def test_what_only_the_next_start_would_lose_or_need_is_told(host: Host) -> None:
    """It is no blocker, but the recipient must have what it needs."""
    tuned = "<memtune><hard_limit>9</hard_limit></memtune><os>"
    lasting = host.domain_xml.replace("<os>", tuned).replace("<vcpu>1", "<vcpu>4")
    lasting = lasting.replace("</devices>", "<video><model type='qxl'/></video></devices>")
    host.hypervisor.vms[VM].lasting_xml = lasting

    answer = await host.commands.describe(DescribeVm(port_id=host.port_id, vm_uuid=VM))

    assert isinstance(answer, VmDescribed)
    assert answer.identity.vm.blockers == ()
    assert any(line.startswith("memtune: ") for line in answer.identity.vm.not_kept)
    assert Need(kind="video", value="qxl") in answer.identity.vm.needs
    assert Need(kind="next_vcpus", value="4") in answer.identity.vm.needs


@pytest.mark.parametrize(
    ("device", "asked"),
    [("", True), ("<hostdev mode='subsystem' type='pci'/>", False)],
)
async def test_a_medium_that_may_stay_behind_hides_nothing_of_the_next_start(
    host: Host, device: str, *, asked: bool
) -> None:
    """The VM can leave without it, and the recipient must have what it needs; of a VM that cannot nobody asks."""
    drive = "<disk device='cdrom'><source protocol='https' name='/x'/><target dev='sda' bus='sata'/></disk>"
    live = host.domain_xml.replace("</devices>", f"{drive}{device}</devices>")
    host.hypervisor.vms[VM].domain_xml = live
    host.hypervisor.vms[VM].lasting_xml = live.replace("<vcpu>1", "<vcpu>4")

    answer = await host.commands.describe(DescribeVm(port_id=host.port_id, vm_uuid=VM))

    assert isinstance(answer, VmDescribed)
    assert (Need(kind="next_vcpus", value="4") in answer.identity.vm.needs) is asked
    assert without_media(answer.identity.vm, ("sda",)).blockers == answer.identity.vm.blockers[1:]


async def test_a_missing_vm_cannot_be_described(host: Host) -> None:
    """With a code; nobody is told of it."""
    answer = await host.commands.describe(DescribeVm(port_id=host.port_id, vm_uuid=uuid4()))
    assert isinstance(answer, DescribeFailed)
    assert answer.code == "vm_not_found"
    assert host.described == []


async def test_provisioning_names_what_differs(host: Host) -> None:
    """Compared with the donor's XML; autostart as it was there."""
    donor_xml = host.domain_xml.replace("52:54:00:00:00:01", "52:54:00:00:00:02")
    command = ProvisionVm(
        port_id=host.port_id, vm_uuid=VM, autostart=True, donor_xml=donor_xml, lasting_xml=host.domain_xml
    )
    answer = await host.commands.provision(command)
    assert isinstance(answer, VmProvisioned)
    assert any("52:54:00:00:00:02" in difference for difference in answer.identity_differences)
    assert host.hypervisor.vms[VM].autostart


async def test_disconnecting_puts_the_disk_into_quarantine_once(host: Host) -> None:
    """A second command finds it done and answers the same."""
    host.guest_left()
    first, second = await host.disconnect(), await host.disconnect()
    assert isinstance(first, VmDisconnected)
    assert first == second
    (kept,) = kept_disks(first)
    assert kept.read_bytes() == b"data" * 1024
    assert kept.stat().st_mode & 0o777 == 0o600
    assert not host.disk.exists()
    assert host.journal.quarantined_disks(VM) == [kept]


async def test_a_running_vm_is_not_disconnected(host: Host) -> None:
    """Its files stay."""
    answer = await host.disconnect()
    assert isinstance(answer, CompletionFailed)
    assert answer.side is Side.OUTBOUND
    assert host.disk.exists()


async def test_a_vm_on_its_way_to_its_end_is_not_disconnected(host: Host) -> None:
    """It may still write; it is asked again."""
    host.hypervisor.vms[VM].state = VmState.OTHER
    answer = await host.disconnect()
    assert isinstance(answer, CompletionFailed)
    assert host.disk.exists()


async def test_erasing_removes_the_disks_once(host: Host) -> None:
    """Asked again, also by one who lost the first answer, it says the same."""
    host.guest_left()
    await host.disconnect()
    first, second = await host.commands.erase(host.port_id), await host.commands.erase(host.port_id)
    assert isinstance(first, DisksErased)
    assert first.erased_bytes > 0
    assert first == second
    assert host.journal.quarantined_disks(VM) == []
    assert not list(host.disk.parent.glob("*.quarantine"))


async def test_the_state_of_a_tpm_goes_the_way_of_the_disks(host: Host) -> None:
    """Into quarantine, told, and erased; it is no source of blocks for a VM that comes back."""
    folder = host.disk.parent / "swtpm" / str(VM)
    folder.mkdir(parents=True)
    (folder / "permall").write_bytes(b"sealed")
    host.guest_left(folders=(str(folder),))
    first, second = await host.disconnect(), await host.disconnect()
    assert isinstance(first, VmDisconnected)
    assert first == second
    disk, kept = kept_disks(first)
    assert (kept / "permall").read_bytes() == b"sealed"
    assert not folder.exists()
    assert host.journal.quarantined_disks(VM) == [disk]
    erased = await host.commands.erase(host.port_id)
    assert isinstance(erased, DisksErased)
    assert erased == await host.commands.erase(host.port_id)
    assert list(folder.parent.iterdir()) == []


async def test_a_disk_that_cannot_be_erased_stays_recorded(host: Host) -> None:
    """The next command tries again."""
    host.guest_left()
    answer = await host.disconnect()
    assert isinstance(answer, VmDisconnected)
    (kept,) = kept_disks(answer)
    kept.unlink()
    kept.mkdir()
    failed = await host.commands.erase(host.port_id)
    assert isinstance(failed, CompletionFailed)
    assert "not a regular file" in failed.detail
    assert host.journal.quarantined_disks(VM) == [kept]


@pytest.mark.parametrize(("keep_s", "erased"), [(3600, False), (-1, True)])
async def test_nothing_is_erased_before_a_rule_allows_it(host: Host, keep_s: int, erased: object) -> None:
    """Whatever the provider's agent asks for; it asks again later."""
    host.guest_left()
    until = datetime.now(UTC) + timedelta(seconds=keep_s)
    answer = await host.commands.disconnect(DisconnectVm(port_id=host.port_id, vm_uuid=VM, keep_until=until))
    assert isinstance(answer, VmDisconnected)
    said = await host.commands.erase(host.port_id)
    assert isinstance(said, DisksErased) is erased
    if isinstance(said, CompletionFailed):
        assert (said.code, until.isoformat() in said.detail) == ("kept_by_rule", True)
    assert [kept.exists() for kept in kept_disks(answer)] == [not erased]


async def test_nothing_is_erased_without_a_record(host: Host) -> None:
    """ "Erased 0 bytes" would end the quarantine of disks that still lie there."""
    answer = await host.commands.erase(uuid4())
    assert isinstance(answer, CompletionFailed)
    assert (answer.code, answer.side) == ("unknown_port", Side.OUTBOUND)
    assert "nothing is known of this port's disks" in answer.detail
    host.guest_left()
    assert isinstance(await host.commands.erase(host.port_id), CompletionFailed)


async def test_what_another_vm_uses_is_left_alone(host: Host) -> None:
    """It is neither renamed nor erased, and the answer names it and who has it; again the same."""
    shared = host.disk.with_name("shared.raw")
    shared.write_bytes(b"both")
    host.hypervisor.add(other_vm(host.disk.with_name("other.raw"), shared), state=VmState.SHUT_OFF)
    host.guest_left(shared)
    first, second = await host.disconnect(), await host.disconnect()
    assert isinstance(first, VmDisconnected)
    assert first == second
    assert [disk.name for disk in kept_disks(first)] == [f"web.raw.{host.port_id}.quarantine"]
    (sentence,) = first.left_disks
    assert str(shared) in sentence
    assert "VM other" in sentence
    assert shared.read_bytes() == b"both"
    await host.commands.erase(host.port_id)
    assert shared.read_bytes() == b"both"


async def test_what_another_vm_uses_by_now_is_not_erased(host: Host) -> None:
    """The others are; the answer is an error that names it, so that it is asked again."""
    second = host.disk.with_name("second.raw")
    second.write_bytes(b"data")
    host.guest_left(second)
    answer = await host.disconnect()
    assert isinstance(answer, VmDisconnected)
    first_kept, second_kept = kept_disks(answer)
    host.hypervisor.add(other_vm(first_kept), state=VmState.SHUT_OFF)
    failed = await host.commands.erase(host.port_id)
    assert isinstance(failed, CompletionFailed)
    assert failed.code == "disk_in_use"
    assert str(first_kept) in failed.detail
    assert first_kept.read_bytes() == b"data" * 1024
    assert not second_kept.exists()


async def test_a_second_copy_of_a_vm_that_left_is_destroyed(host: Host) -> None:
    """Booted by its host or by somebody: the ledger has given the VM away, and this port's file proves it."""
    host.guest_left()
    host.hypervisor.vms[VM].state = VmState.RUNNING
    answer = await host.disconnect()
    assert isinstance(answer, VmDisconnected)
    assert VM not in host.hypervisor.vms
    assert not host.disk.exists()
    assert host.second_copies() == 1


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.PAUSED])
async def test_a_copy_without_proof_is_not_destroyed(host: Host, state: VmState) -> None:
    """The transfer is not over; or the VM was given back; or it has come again by a later port."""
    vm = host.hypervisor.vms[VM]
    host.guest_left(phase=Phase.FINISH_PASSED)
    vm.state = state
    assert isinstance(await host.disconnect(), CompletionFailed)
    host.guest_left()
    vm.state = state
    host.journal.given_away.take_back(VM, host.port_id)
    assert isinstance(await host.disconnect(), CompletionFailed)
    later = GivenAwayVm.by(host.agreement.model_copy(update={"port_id": uuid4(), "epoch": 4}), since="", reason="")
    host.journal.given_away.store(later)
    assert isinstance(await host.disconnect(), CompletionFailed)
    assert (vm.state, host.disk.exists(), host.second_copies()) == (state, True, 0)


@pytest.mark.parametrize("phase", [Phase.DONE, Phase.KEPT])
async def test_a_vm_that_ended_before_it_was_defined_is_defined_as_agreed(host: Host, phase: Phase) -> None:
    """Its owner switched it off, QEMU crashed, or the host was restarted: libvirt has nothing of it any more. KEPT: it
    was not seen here, and the broker says that it is this provider's all the same.
    """
    command = host.guest_arrived(phase)
    await host.hypervisor.destroy(VM)
    assert VM not in host.hypervisor.vms
    first, second = await host.commands.provision(command), await host.commands.provision(command)
    assert isinstance(first, VmProvisioned)
    assert first == second
    assert first.identity_differences == ()
    vm = host.hypervisor.vms[VM]
    assert (vm.domain_xml, vm.persistent, vm.autostart) == (command.lasting_xml, True, True)
    assert vm.state is VmState.SHUT_OFF


async def test_the_lasting_definition_is_kept_and_not_the_live_one(host: Host) -> None:
    """What is to be at the VM's next start comes along with it."""
    command = host.guest_arrived()

    answer = await host.commands.provision(command)

    assert isinstance(answer, VmProvisioned)
    assert answer.identity_differences == ()
    vm = host.hypervisor.vms[VM]
    assert (vm.persistent, vm.autostart, vm.lasting_xml) == (True, True, command.lasting_xml)
    assert vm.domain_xml == host.domain_xml


class OtherAddresses(VmAddresses):
    """The guest has another address than was agreed."""

    def __init__(self) -> None:
        super().__init__(NetworkSection())

    async def differences(self, plan: NetworkPlan | None, vm: VmDescription) -> tuple[str, ...]:
        return (f"{vm.name}: an address differs",) if plan is not None else ()


async def test_addresses_of_the_arrived_vm_are_compared(host: Host) -> None:
    """One that has ended meanwhile says nothing."""
    terms = NetworkTerms(carry=NetworkMode.JOINED)
    host.agreement = host.agreement.model_copy(update={"network": NetworkPlan(terms=terms, cards=())})
    host.commands._addresses = OtherAddresses()
    command = host.guest_arrived()
    answer = await host.commands.provision(command)
    assert isinstance(answer, VmProvisioned)
    assert answer.address_differences == ("web: an address differs",)
    await host.hypervisor.destroy(VM)
    answer = await host.commands.provision(command)
    assert isinstance(answer, VmProvisioned)
    assert answer.address_differences == ()


async def test_a_transient_vm_stays_transient(host: Host) -> None:
    """Nothing is defined, also where it has ended meanwhile."""
    command = host.guest_arrived().model_copy(update={"lasting_xml": None})

    assert isinstance(await host.commands.provision(command), VmProvisioned)
    assert not host.hypervisor.vms[VM].persistent
    await host.hypervisor.destroy(VM)
    assert isinstance(await host.commands.provision(command), VmProvisioned)
    assert VM not in host.hypervisor.vms


async def test_a_lasting_definition_of_another_vm_is_not_defined(host: Host) -> None:
    """A command that mixes two VMs fails."""
    command = host.guest_arrived()
    wrong = (command.lasting_xml or "").replace(str(VM), str(uuid4()))

    answer = await host.commands.provision(command.model_copy(update={"lasting_xml": wrong}))

    assert isinstance(answer, CompletionFailed)
    assert not host.hypervisor.vms[VM].persistent


@pytest.mark.parametrize("phase", [Phase.OPEN, Phase.FINISH_PASSED, Phase.FAILED])
async def test_a_vm_that_never_arrived_is_not_defined(host: Host, phase: Phase) -> None:
    """It would be a second definition of a VM that is another host's."""
    command = host.guest_arrived(phase)
    await host.hypervisor.destroy(VM)
    answer = await host.commands.provision(command)
    assert isinstance(answer, CompletionFailed)
    assert answer.code == "vm_not_found"
    assert VM not in host.hypervisor.vms


async def test_a_vm_that_came_back_may_be_started_here_again(host: Host) -> None:
    """The file of the port by which it had left goes; that of a later one stays."""
    earlier = host.agreement.model_copy(update={"port_id": uuid4(), "epoch": host.agreement.epoch - 1})
    later = host.agreement.model_copy(update={"port_id": uuid4(), "epoch": host.agreement.epoch + 1})
    command = host.guest_arrived()
    for agreement, stays in ((earlier, False), (later, True)):
        host.journal.given_away.store(GivenAwayVm.by(agreement, since="", reason=""))
        assert isinstance(await host.commands.provision(command), VmProvisioned)
        assert (host.journal.given_away.get(VM) is not None) is stays


def other_vm(*disks: Path) -> str:
    """Another VM of this host, with these disks."""
    first, *more = disks
    xml = (DOMAIN % first).replace(str(VM), str(uuid4())).replace("<name>web<", "<name>other<")
    for number, disk in enumerate(more):
        xml = xml.replace(
            "<interface",
            f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>"
            f"<target dev='vd{'bcd'[number]}' bus='virtio'/></disk><interface",
        )
    return xml


async def test_what_hypervisor_and_images_say_is_told_before_any_quote(tmp_path: Path) -> None:
    """Each with its code, once, beside what the definition says."""
    host = Host(tmp_path)
    host.hypervisor.vms[VM].obstacles = (Obstacle(ObstacleCode.CHECKPOINTS, "the VM has checkpoints"),) * 2

    answer = await host.commands.describe(DescribeVm(port_id=uuid4(), vm_uuid=VM))

    assert isinstance(answer, VmDescribed)
    assert answer.identity.vm.blockers == ("checkpoints: the VM has checkpoints",)


@pytest.mark.parametrize(
    ("old", "new", "code", "limit"),
    [
        ("<devices>", f"<!--{'x' * 1_010_000}--><devices>", "domain_xml", "more than 1000000"),
        ("dev='vda'", "dev='vda1'", "domain_xml", "<disk vda1>"),
    ],
    ids=["the parser's", "the message's"],
)
async def test_a_vm_beyond_a_limit_is_refused_with_the_limit(
    tmp_path: Path, old: str, new: str, code: str, limit: str
) -> None:
    """A definition that is too large, or that does not fit into a message, is answered, too."""
    host = Host(tmp_path)
    host.hypervisor.vms[VM].domain_xml = host.domain_xml.replace(old, new, 1)

    answer = await host.commands.describe(DescribeVm(port_id=uuid4(), vm_uuid=VM))

    assert isinstance(answer, DescribeFailed)
    assert answer.code == code
    assert limit in answer.detail
    assert len(answer.detail) < 500


async def test_a_description_that_breaks_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever broke: the donor waits for the answer, and other VMs for the node."""
    host = Host(tmp_path)

    async def break_it(_: UUID) -> LiveVm:
        raise OverflowError("nobody thought of this")

    monkeypatch.setattr(host.hypervisor, "describe", break_it)

    answer = await host.commands.describe(DescribeVm(port_id=uuid4(), vm_uuid=VM))

    assert isinstance(answer, DescribeFailed)
    assert answer.code == "unreadable"
    assert "nobody thought of this" in answer.detail


async def test_the_host_compares_a_vms_cpu(tmp_path: Path) -> None:
    """Nothing is against one that runs here; otherwise the hypervisor's own reason, or why it could not compare."""
    host = Host(tmp_path)

    async def codes(cpu: CpuFacts, machine: str = "pc-q35-10.0") -> list[str]:
        question = CheckVm(port_id=host.port_id, architecture="x86_64", domain_type="qemu", machine=machine, cpu=cpu)
        answer = await host.commands.check(question)
        return [f"{refusal.code}: {refusal.evidence}" for refusal in answer.refusals]

    plain = CpuFacts(mode=CpuMode.CUSTOM, model="qemu64")
    features = tuple(CpuFeature(name=name, policy="require") for name in ("aes", "avx512f"))
    wide = CpuFacts(mode=CpuMode.CUSTOM, model="qemu64", features=features)
    assert await codes(plain) == []
    (lacking,) = await codes(wide)
    assert lacking.startswith("cpu_incompatible: node alpha-1: qemu64")
    assert "avx512f" in lacking
    assert lacking.endswith("; it could come with this CPU, once it was started with it: qemu64 with aes")
    (unknown,) = await codes(plain, "pc-q35-99.0")
    assert unknown.startswith("cpu_not_compared")
    host.hypervisor.libvirtd_up = False
    (down,) = await codes(plain)
    assert "Connection refused" in down


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "['avx512f']"),
        (HypervisorError("compare a CPU", "CPU vendors do not match"), "; no CPU is known that would do instead: "),
    ],
)
async def test_where_no_other_cpu_would_do_the_refusal_stays(
    host: Host, monkeypatch: pytest.MonkeyPatch, found: HypervisorError | None, said: str
) -> None:
    """It is the same refusal, with the reason where libvirt has one."""

    async def common_cpu(*_: object, **__: object) -> None:
        if found is not None:
            raise found

    monkeypatch.setattr(host.hypervisor, "common_cpu", common_cpu)
    cpu = CpuFacts(mode=CpuMode.CUSTOM, model="EPYC", features=(CpuFeature(name="avx512f", policy="require"),))
    facts = {"architecture": "x86_64", "domain_type": "qemu", "machine": "pc-q35-10.0"}
    (refusal,) = (await host.commands.check(CheckVm(port_id=host.port_id, cpu=cpu, **facts))).refusals
    assert refusal.code == "cpu_incompatible"
    assert said in refusal.evidence
    assert "once it was started" not in refusal.evidence


async def test_what_is_known_of_addresses_goes_with_the_description(host: Host) -> None:
    """By card, with the segment of its bridge; without a source nothing is told."""
    answer = await host.commands.describe(DescribeVm(port_id=host.port_id, vm_uuid=VM))
    assert isinstance(answer, VmDescribed)
    assert answer.identity.vm.network is None
    host.commands._addresses = VmAddresses(NetworkSection(segments={"vmbr0": "tenants"}))
    answer = await host.commands.describe(DescribeVm(port_id=host.port_id, vm_uuid=VM))
    assert isinstance(answer, VmDescribed)
    network = answer.identity.vm.network
    assert network is not None
    assert [(card.mac, card.segment) for card in network.cards] == [
        (nic.mac, "tenants" if nic.bridge == "vmbr0" else "") for nic in answer.identity.vm.nics
    ]


@pytest.mark.parametrize("used", [False, True])
async def test_secrets_go_when_the_disks_are_erased(host: Host, *, used: bool) -> None:
    """Not before, since the quarantine can be ended by taking the disks back; one that another VM has, too, stays."""
    secret = UUID(int=12)
    host.hypervisor.secrets.add(SecretSpec(secret, SecretUsage.VTPM, "web's TPM"), b"key")
    host.guest_left()
    record = host.journal.get(host.port_id, Side.OUTBOUND)
    assert record is not None
    host.journal.store(record.model_copy(update={"secrets": (secret,)}))
    if used:
        tpm = f"<tpm model='tpm-crb'><backend type='emulator'><encryption secret='{secret}'/></backend></tpm>"
        other = DOMAIN.replace(str(VM), str(uuid4())).replace(">web<", ">db<").replace("</devices>", tpm + "</devices>")
        host.hypervisor.add(other % "/other.raw")
    await host.disconnect()
    assert secret in host.hypervisor.secrets.there

    assert isinstance(await host.commands.erase(host.port_id), DisksErased)

    assert (secret in host.hypervisor.secrets.there) is used
    assert isinstance(await host.commands.erase(host.port_id), DisksErased)
