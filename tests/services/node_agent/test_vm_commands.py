"""The short commands about a VM: each may come twice and then answers the same."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from services.node_agent.hypervisor.disk_images import DiskImageError
from services.node_agent.hypervisor.interface import LiveVm
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.state.journal import Journal, Phase, PortRecord
from services.node_agent.vm_commands import VmCommands
from shared.messages.nodes import DescribeFailed, DescribeVm, VmDescribed
from shared.messages.porting import CompletionFailed, DisconnectVm, ProvisionVm, Side, VmDisconnected, VmProvisioned
from shared.messages.vm import VmState
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
        self.commands = VmCommands(
            self.hypervisor,
            self.journal,
            node="alpha-1",
            lane=make_lane_endpoint(),
            described=self.described.append,
        )

    def guest_left(self) -> None:
        """The port has succeeded: the VM is shut off here."""
        self.hypervisor.vms[VM].state = VmState.SHUT_OFF
        self.journal.store(
            PortRecord(side=Side.OUTBOUND, agreement=self.agreement, phase=Phase.DONE, disks=(str(self.disk),))
        )

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
    """What reads base images ahead gets every VM that is described."""
    answer = await host.commands.describe(DescribeVm(port_id=host.port_id, vm_uuid=VM))
    assert isinstance(answer, VmDescribed)
    assert (answer.identity.vm.uuid, answer.identity.node) == (VM, "alpha-1")
    assert [vm.domain_xml for vm in host.described] == [host.domain_xml]


async def test_a_missing_vm_cannot_be_described(host: Host) -> None:
    """With a code; nobody is told of it."""
    answer = await host.commands.describe(DescribeVm(port_id=host.port_id, vm_uuid=uuid4()))
    assert isinstance(answer, DescribeFailed)
    assert answer.code == "vm_not_found"
    assert host.described == []


async def test_provisioning_names_what_differs(host: Host) -> None:
    """Compared with the donor's XML; autostart as it was there."""
    donor_xml = host.domain_xml.replace("52:54:00:00:00:01", "52:54:00:00:00:02")
    command = ProvisionVm(port_id=host.port_id, vm_uuid=VM, autostart=True, donor_xml=donor_xml)
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


async def test_erasing_removes_disks_and_record(host: Host) -> None:
    """Again there is nothing left to erase."""
    host.guest_left()
    await host.disconnect()
    assert (await host.commands.erase(host.port_id)).erased_bytes > 0
    assert host.journal.load() == ([], [])
    assert (await host.commands.erase(host.port_id)).erased_bytes == 0


async def test_a_disk_that_cannot_be_erased_stays_recorded(host: Host) -> None:
    """The next command tries again."""
    host.guest_left()
    answer = await host.disconnect()
    assert isinstance(answer, VmDisconnected)
    (kept,) = kept_disks(answer)
    kept.unlink()
    kept.mkdir()
    with pytest.raises(DiskImageError):
        await host.commands.erase(host.port_id)
    assert host.journal.quarantined_disks(VM) == [kept]
