"""The fake host's deaths: libvirtd, QEMU and the whole host, with what libvirt does about each afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.node_agent.hypervisor.fake_host import FakeVm, MigrationPhase
from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.testing import FakeHypervisor
from shared.messages.vm import VmState
from tests.support.transfer_pair import DOMAIN, VM


@pytest.fixture
def host(tmp_path: Path) -> FakeHypervisor:
    """A host with a VM that runs, whose image is a file."""
    image = tmp_path / "web.raw"
    image.write_bytes(bytes(4096))
    made = FakeHypervisor()
    made.add(DOMAIN % image)
    return made


def restarted(host: FakeHypervisor) -> VmState | None:
    """libvirtd dies and comes back; the VM's state then."""
    host.kill_libvirtd()
    host.start_libvirtd()
    vm = host.vms.get(VM)
    return vm.state if vm is not None else None


async def test_nothing_is_known_while_libvirtd_is_away(host: FakeHypervisor) -> None:
    """Each question is an error, not a no; the guest goes on."""
    host.kill_libvirtd()
    for question in (host.state(VM), host.inventory(), host.describe(VM), host.job(VM)):
        with pytest.raises(HypervisorError):
            await question
    assert host.vms[VM].runs
    host.start_libvirtd()
    assert await host.state(VM) is VmState.RUNNING


@pytest.mark.parametrize(
    ("phase", "state", "afterwards"),
    [
        (MigrationPhase.BEGIN, VmState.RUNNING, VmState.RUNNING),
        (MigrationPhase.PERFORM, VmState.PAUSED, VmState.RUNNING),
        (MigrationPhase.PERFORM_DONE, VmState.PAUSED, VmState.PAUSED),
        (MigrationPhase.CONFIRM_CANCELLED, VmState.PAUSED, VmState.RUNNING),
        (MigrationPhase.CONFIRM, VmState.PAUSED, VmState.SHUT_OFF),
    ],
)
def test_a_leaving_guest_after_a_restart_of_libvirtd(
    host: FakeHypervisor, phase: MigrationPhase, state: VmState, afterwards: VmState
) -> None:
    """By the phase, as `qemuProcessRecoverMigrationOut`."""
    vm = host.vms[VM]
    vm.phase, vm.state = phase, state
    assert restarted(host) is afterwards


@pytest.mark.parametrize(
    ("phase", "state", "afterwards"),
    [
        (MigrationPhase.PREPARE, VmState.PAUSED, None),
        (MigrationPhase.FINISH, VmState.PAUSED, None),
        (MigrationPhase.FINISH, VmState.RUNNING, VmState.RUNNING),
    ],
)
def test_an_arriving_guest_after_a_restart_of_libvirtd(
    host: FakeHypervisor, phase: MigrationPhase, state: VmState, afterwards: VmState | None
) -> None:
    """As `qemuProcessRecoverMigrationIn`: what was not started is killed, what runs is kept."""
    vm = host.vms[VM]
    vm.phase, vm.state, vm.persistent = phase, state, False
    assert restarted(host) is afterwards


async def test_a_restarted_libvirtd_cannot_talk_to_a_stopped_qemu(host: FakeHypervisor) -> None:
    """It can do nothing with the VM until the process goes on or is gone."""
    vm = host.vms[VM]
    vm.phase, vm.state = MigrationPhase.PERFORM_DONE, VmState.PAUSED
    await host.freeze(VM)
    assert restarted(host) is VmState.PAUSED
    for call in (host.destroy(VM), host.resume(VM), host.abort_job(VM)):
        with pytest.raises(HypervisorError):
            await call
    await host.thaw(VM)
    await host.resume(VM)
    assert host.vms[VM].runs


def test_a_host_starts_what_has_autostart(host: FakeHypervisor) -> None:
    """A lasting VM is shut off by the power cut; at boot it starts if it is to, and if the hook allows it."""
    host.power_cut()
    assert host.vms[VM].state is VmState.SHUT_OFF
    host.boot()
    assert host.vms[VM].state is VmState.SHUT_OFF
    host.vms[VM].autostart = True
    host.power_cut()
    host.may_start = lambda _: "given away with epoch 2"
    host.boot()
    assert host.vms[VM].state is VmState.SHUT_OFF
    host.may_start = lambda _: None
    host.power_cut()
    host.boot()
    assert host.vms[VM].runs


async def test_an_agent_starts_no_vm_that_the_hook_refuses(host: FakeHypervisor) -> None:
    """As an operator does not, nor autostart."""
    host.stop(VM)
    host.may_start = lambda _: "given away with epoch 2"
    with pytest.raises(HypervisorError, match="given away"):
        await host.start(VM)
    host.may_start = lambda _: None
    await host.start(VM)
    assert host.vms[VM].runs


def test_a_transient_guest_is_gone_with_its_qemu(host: FakeHypervisor) -> None:
    """Whether it powers off or crashes."""
    host.vms[VM].persistent = False
    host.stop(VM)
    assert VM not in host.vms


def test_what_a_guest_wrote_is_there_at_its_next_start(host: FakeHypervisor) -> None:
    """The version is in the image."""
    host.guest_writes(VM)
    assert host.guest_writes(VM) == 2
    host.stop(VM)
    host.vms[VM].content = 0
    host.power_on(VM)
    assert host.vms[VM].content == 2


def test_what_is_written_to_an_unlinked_image_is_lost(host: FakeHypervisor, tmp_path: Path) -> None:
    """QEMU does not notice."""
    host.guest_writes(VM)
    (tmp_path / "web.raw").unlink()
    host.guest_writes(VM)
    assert host.vms[VM].content == 2
    host.stop(VM)
    with pytest.raises(HypervisorError, match="storage file"):
        host.power_on(VM)


def test_an_observer_hears_of_every_change(host: FakeHypervisor) -> None:
    """Also while libvirtd is away and no event is sent."""
    seen: list[bool] = []
    host.observer = lambda uuid: seen.append(host.vms[uuid].runs)
    host.kill_libvirtd()
    host.suspend(VM)
    host.stop(VM)
    assert seen == [False, False]
    assert isinstance(host.vms[VM], FakeVm)


async def test_what_a_restarted_libvirtd_ends_is_shown_as_shutting_down(host: FakeHypervisor) -> None:
    """For a moment: it is neither on nor off."""
    host.ends_within_s = 0.01
    vm = host.vms[VM]
    vm.phase, vm.state, vm.persistent = MigrationPhase.PREPARE, VmState.PAUSED, False
    assert restarted(host) is VmState.OTHER
    assert restarted(host) is VmState.OTHER
    async with asyncio.timeout(5):
        while await host.state(VM) is not None:  # noqa: ASYNC110  # libvirtd's own state
            await asyncio.sleep(0.01)
