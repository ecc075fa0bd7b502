"""The fence against starts: closed before another host may run the VM, opened when the ledger says that it stays."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.state.journal import Journal, PortRecord, TransferJournal
from services.node_agent.switchover.start_fence import TRIES, StartFence
from shared.messages.porting import Side
from shared.messages.vm import VmState
from tests.support.transfer_pair import DOMAIN, VM, make_agreement


class Stubborn(FakeHypervisor):
    """A libvirt that refuses so many changes of autostart; it counts what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = 0
        self.asked = 0

    async def set_autostart(self, uuid: UUID, *, enabled: bool) -> None:
        """Refuse, or do it."""
        self.asked += 1
        if self.refuses:
            self.refuses -= 1
            raise HypervisorError("set autostart", "cannot acquire state change lock")
        await super().set_autostart(uuid, enabled=enabled)


class Fenced:
    """A VM that starts with its host, and the fence of a port that moves it. `boot` is the host's."""

    def __init__(self, folder: Path) -> None:
        self.hypervisor = Stubborn()
        self.hypervisor.add(DOMAIN % "/a.raw", autostart=True)
        self.vm = self.hypervisor.vms[VM]
        self.agreement = make_agreement(folder / "x.raw", domain_xml=DOMAIN % "/a.raw")
        self.journals = Journal(folder / "ports").open()
        self.journal = TransferJournal(self.journals, PortRecord(side=Side.OUTBOUND, agreement=self.agreement))
        self.boot = "first"
        self.fence = self.after_a_crash()

    def after_a_crash(self) -> StartFence:
        """The fence of the next process."""
        record = self.journals.get(self.agreement.port_id, Side.OUTBOUND)
        if record is not None:
            self.journal = TransferJournal(self.journals, record)
        return StartFence(
            self.hypervisor,
            self.journal,
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
            boot_id=lambda: self.boot,
            again_s=0.0,
        )


@pytest.fixture
def fenced(tmp_path: Path) -> Fenced:
    return Fenced(tmp_path)


async def test_autostart_is_off_while_the_vm_leaves(fenced: Fenced) -> None:
    """It is journalled before it is done, so that a crash in between loses nothing."""
    fenced.hypervisor.refuses = 1
    with pytest.raises(HypervisorError):
        await fenced.fence.hold_autostart(is_on=True)
    record = fenced.journals.get(fenced.agreement.port_id, Side.OUTBOUND)
    assert record is not None
    assert (record.autostart, record.boot_id) == (True, "first")
    await fenced.fence.hold_autostart(is_on=True)
    assert not fenced.vm.autostart


async def test_a_vm_without_autostart_gets_none(fenced: Fenced) -> None:
    """Neither while it leaves nor when it stays."""
    fenced.vm.autostart = False
    await fenced.fence.hold_autostart(is_on=False)
    await fenced.fence.open()
    assert (fenced.hypervisor.asked, fenced.vm.autostart) == (0, False)


async def test_the_fence_is_closed_by_a_file(fenced: Fenced) -> None:
    """With what an operator needs to know; closing again is no error."""
    assert not fenced.fence.closed
    fenced.fence.close("the switchover was asked for")
    fenced.fence.close("the switchover was asked for")
    assert fenced.fence.closed
    given = fenced.journals.given_away.get(VM)
    assert given is not None
    assert (given.port_id, given.epoch, given.recipient) == (fenced.agreement.port_id, 2, "beta")
    assert given.since == "2026-01-01T00:00:00+00:00"


async def test_a_vm_that_stays_is_as_before(fenced: Fenced) -> None:
    """Also when another process opens the fence, and when it is opened twice."""
    await fenced.fence.hold_autostart(is_on=True)
    fenced.fence.close("x")
    fence = fenced.after_a_crash()
    await fence.open()
    await fence.open()
    assert not fence.closed
    assert fenced.vm.autostart
    assert not fenced.journal.record.autostart
    assert fenced.vm.state is VmState.RUNNING


async def test_a_libvirt_that_refuses_is_asked_again(fenced: Fenced) -> None:
    """For a while; then it stays in the journal, for the next one who opens the fence."""
    await fenced.fence.hold_autostart(is_on=True)
    fenced.hypervisor.refuses = TRIES - 1
    await fenced.fence.open()
    assert fenced.vm.autostart
    await fenced.fence.hold_autostart(is_on=True)
    fenced.hypervisor.refuses = TRIES
    await fenced.fence.open()
    assert not fenced.vm.autostart
    await fenced.after_a_crash().open()
    assert fenced.vm.autostart


async def test_a_vm_that_is_gone_needs_no_autostart(fenced: Fenced) -> None:
    """Somebody removed it; nothing waits for it."""
    await fenced.fence.hold_autostart(is_on=True)
    del fenced.hypervisor.vms[VM]
    await fenced.fence.open()
    assert not fenced.journal.record.autostart


@pytest.mark.parametrize(("boot", "state"), [("second", VmState.RUNNING), ("first", VmState.SHUT_OFF)])
async def test_a_vm_that_its_host_would_have_booted_is_booted(fenced: Fenced, boot: str, state: VmState) -> None:
    """After a restart of the host; not where its owner has switched it off."""
    await fenced.fence.hold_autostart(is_on=True)
    fenced.vm.state = VmState.SHUT_OFF
    fenced.boot = boot
    await fenced.after_a_crash().open()
    assert fenced.vm.state is state
