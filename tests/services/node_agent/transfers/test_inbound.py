"""What only the recipient's transfer shows: it makes what was agreed and nothing else, and removes what it made."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.state.journal import Kind, Phase, PortRecord
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.outbound_result import OutboundResult
from shared.messages.porting import Side
from shared.messages.vm import VmState

if TYPE_CHECKING:
    from tests.support.transfer_pair import Pair


async def failure_of_opening(pair: Pair) -> TransferError:
    """Why it does not open."""
    with pytest.raises(TransferError) as caught:
        await pair.inbound.open()
    assert not pair.sockets_b.directory.exists()
    return caught.value


async def test_everything_is_recorded_before_it_is_made(pair: Pair) -> None:
    """The journal lists directory, disk and domain, and the transfer is open."""
    await pair.inbound.open()
    record = pair.journals[Side.INBOUND].record
    assert record.phase is Phase.OPEN
    assert [made.kind for made in record.made] == [Kind.DIRECTORY, Kind.DISK, Kind.DOMAIN]
    assert pair.image.exists()
    assert pair.image.stat().st_blocks == 0


async def test_an_existing_file_is_not_overwritten_and_not_removed(pair: Pair) -> None:
    """A disk that is there already belongs to somebody."""
    pair.image.write_bytes(b"precious")
    assert (await failure_of_opening(pair)).code == "disk_exists"
    assert pair.image.read_bytes() == b"precious"


async def test_a_disk_outside_of_the_image_directory_is_refused(pair: Pair) -> None:
    """An agreement cannot make files anywhere."""
    pair.inbound._disks._image_dir = pair.tmp / "elsewhere"
    assert (await failure_of_opening(pair)).code == "disk_outside"
    assert not pair.image.exists()


async def test_a_vm_that_is_here_already_is_not_touched(pair: Pair) -> None:
    """The same UUID on this host ends the port before anything is made."""
    uuid = pair.recipient.add(pair.domain_xml)
    assert "already" in (await failure_of_opening(pair)).detail
    assert uuid in pair.recipient.vms
    assert not pair.image.exists()


async def test_a_missing_bridge_is_found_before_anything_moves(pair: Pair) -> None:
    """The error names the bridge."""
    pair.recipient._bridges = ("br9",)
    assert "vmbr0" in (await failure_of_opening(pair)).detail


async def test_a_cancelled_transfer_removes_what_it_made(pair: Pair) -> None:
    """Disk, directory and domain are gone; the journal is empty."""
    await pair.inbound.open()
    pair.inbound.cancel()
    failure = await pair.run_inbound()
    assert isinstance(failure, TransferError)
    assert failure.code == "cancelled"
    assert not pair.image.exists()
    assert pair.journals[Side.INBOUND].record.made == ()


async def test_a_guest_that_runs_is_kept_although_finish_was_not_answered(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirtd died after it had started the guest, and is away for a while: unknown is not "not running"."""
    pair.recipient.fail_finish = "this host's libvirtd ended the connection"
    looks: list[VmState | HypervisorError] = [HypervisorError("look at the VM", "libvirtd is away")] * 3
    looks.append(VmState.RUNNING)
    state = pair.recipient.state

    async def state_after_restart(uuid: UUID) -> VmState | None:
        if pair.journals[Side.INBOUND].record.phase is not Phase.FINISH_PASSED:
            return await state(uuid)
        seen = looks.pop(0) if looks else VmState.RUNNING
        if isinstance(seen, HypervisorError):
            raise seen
        return seen

    monkeypatch.setattr(pair.recipient, "state", state_after_restart)
    await pair.inbound.open()
    outbound = asyncio.ensure_future(pair.run_outbound())
    assert await pair.run_inbound() is None
    assert pair.running_reported.is_set()
    assert looks == []
    assert pair.image.exists()
    pair.broker.arrived = True
    assert isinstance(await outbound, OutboundResult)


async def test_a_guest_that_did_not_start_is_reported_when_it_is_proven_gone(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before: on this word the broker gives the VM back to the donor. And everything is kept until its abort."""
    pair.recipient.fail_finish = "no such CPU"
    state, away = pair.recipient.state, [None] * 3

    async def state_when_back(uuid: UUID) -> VmState | None:
        if pair.journals[Side.INBOUND].record.phase is Phase.FINISH_PASSED and away:
            away.pop()
            raise HypervisorError("look at the VM", "libvirtd is away")
        return await state(uuid)

    monkeypatch.setattr(pair.recipient, "state", state_when_back)
    await pair.inbound.open()
    outbound = asyncio.ensure_future(pair.run_outbound())
    failure = await pair.run_inbound()
    assert isinstance(failure, TransferError)
    assert (failure.code, failure.guest_running) == ("finish_failed", False)
    assert away == []
    record = pair.journals[Side.INBOUND].record
    assert (record.phase, {made.kind for made in record.made}) == (Phase.KEPT, {Kind.DISK, Kind.DOMAIN})
    assert pair.image.exists()
    pair.outbound.cancel()
    await outbound


@pytest.mark.parametrize("phase", [Phase.SWITCHOVER_ASKED, Phase.FINISH_PASSED])
async def test_a_full_disk_at_the_switchover_lets_the_guest_stay(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    """What could not be written down is not done; the incomplete guest is gone when that is said."""
    store = pair.journals[Side.INBOUND]._journal.store

    def store_if_there_is_room(record: PortRecord) -> None:
        if record.phase is phase:
            raise OSError(errno.ENOSPC, "No space left on device")
        store(record)

    monkeypatch.setattr(pair.journals[Side.INBOUND]._journal, "store", store_if_there_is_room)
    await pair.inbound.open()
    outbound = asyncio.ensure_future(pair.run_outbound())
    failure = await pair.run_inbound()
    assert isinstance(failure, TransferError)
    assert (failure.code, failure.guest_running) == ("state_not_stored", False)
    assert pair.recipient.vms == {}
    assert pair.broker.committed is (phase is Phase.FINISH_PASSED)
    pair.outbound.cancel()
    result = await outbound
    assert isinstance(result, TransferError)
    assert result.guest_running


async def test_a_process_that_ends_does_not_answer_for_the_broker(pair: Pair) -> None:
    """It is stopped while the broker is asked, then after the grant: the guest arrives."""
    pair.broker.silent = True
    await pair.inbound.open()
    transfers = asyncio.gather(pair.run_outbound(), pair.run_inbound())
    await pair.broker.was_asked.wait()
    pair.inbound.stop()
    await asyncio.sleep(0.1)
    assert not transfers.done()
    pair.broker.silent = False
    await pair.running_reported.wait()
    pair.inbound.stop()
    result, failure = await transfers
    assert failure is None
    assert isinstance(result, OutboundResult)


async def test_a_process_that_ends_before_the_switchover_ends_the_transfer(pair: Pair) -> None:
    """In order, and with nothing left."""
    await pair.inbound.open()
    pair.inbound.stop()
    failure = await pair.run_inbound()
    assert isinstance(failure, TransferError)
    assert failure.code == "cancelled"
    assert not pair.image.exists()
