"""A port with seeding: nothing moves before the window, and a cancel leaves no trace in the guest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.node_agent.hypervisor.fake_host import DISK_BYTES
from services.node_agent.lanes.core.errors import LaneError
from services.node_agent.page_codec.contents import CONTENT_BYTES
from services.node_agent.page_codec.hello import Technique
from services.node_agent.state.journal import Phase
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.outbound_result import OutboundResult
from shared.messages.porting import Side
from shared.messages.service_change import TransferPhase
from shared.messages.vm import VmState

if TYPE_CHECKING:
    from tests.support.transfer_pair import Pair

    Transfers = asyncio.Future[tuple[OutboundResult | TransferError, TransferError | None]]

from uuid import UUID

VM = UUID("11111111-2222-3333-4444-555555555501")
SOON_S = 5.0


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what the transfers come to."""
    async with asyncio.timeout(SOON_S):
        while True:
            if holds():
                return
            await asyncio.sleep(0.005)


async def seeding(pair: Pair) -> Transfers:
    """Both transfers, once the recipient has some of the seed."""
    (pair.tmp / "a" / "web.raw").write_bytes(bytes(range(256)) * (DISK_BYTES // 256))
    transfers = asyncio.ensure_future(pair.run())
    await until(lambda: "seed" in pair.cached(Side.INBOUND) and TransferPhase.SEEDING in pair.heard.phases)
    return transfers


def open_window(pair: Pair) -> None:
    pair.now += timedelta(hours=1)


async def test_the_guest_moves_when_the_window_opens(seeded_pair: Pair) -> None:
    """Before it the donor reports that it has begun, and how far; libvirt is not asked for anything but memory."""
    pair = seeded_pair
    transfers = await seeding(pair)
    assert (pair.heard.starts, set(pair.heard.phases)) == (1, {TransferPhase.SEEDING})
    assert not pair.recipient.prepared.is_set()
    assert pair.donor.max_downtimes_ms == []
    assert not pair.sockets_a.directory.exists()
    pair.now += timedelta(minutes=59)
    told = len(pair.heard.phases)
    await until(lambda: len(pair.heard.phases) > told + 2)
    assert not pair.recipient.prepared.is_set()
    open_window(pair)
    result, failure = await transfers
    assert failure is None
    assert isinstance(result, OutboundResult)
    assert pair.recipient.vms[VM].memory == pair.memory
    assert 0 < result.seeded_bytes < result.wire_bytes
    assert pair.heard.starts == 1
    assert pair.heard.phases[-1] is TransferPhase.SWITCHOVER


async def test_an_open_window_needs_no_seeding(seeded_pair: Pair) -> None:
    """A broker that came late starts the transfer when there is nothing to seed."""
    open_window(seeded_pair)
    result, failure = await seeded_pair.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    assert result.seeded_bytes == 0
    assert TransferPhase.SEEDING not in seeded_pair.heard.phases
    assert "seed" not in seeded_pair.cached(Side.INBOUND)


async def test_a_cancel_while_seeding(seeded_pair: Pair) -> None:
    """Nothing is left but what may serve the next attempt; the guest was never touched."""
    pair = seeded_pair
    transfers = await seeding(pair)
    pair.outbound.cancel()
    pair.inbound.cancel()
    async with asyncio.timeout(SOON_S):
        result, failure = await transfers
    assert isinstance(result, TransferError)
    assert isinstance(failure, TransferError)
    assert (result.code, result.guest_running, failure.guest_running) == ("cancelled", True, False)
    assert pair.donor.vms[VM].ran_at_s == []
    assert pair.donor.max_downtimes_ms == []
    assert await pair.recipient.state(VM) is None
    assert not pair.image.exists()
    for sockets in (pair.sockets_a, pair.sockets_b):
        assert not sockets.directory.exists()
    for side in Side:
        assert pair.journals[side].record.made == ()
    assert pair.journals[Side.OUTBOUND].record.phase is Phase.PREPARING
    assert pair.cached(Side.INBOUND) == {"seed"}


@pytest.mark.parametrize("seeded_pair", [(Technique.CACHE,)], indirect=True, ids=["beta keeps nothing"])
async def test_a_seeding_that_fails_costs_no_port(seeded_pair: Pair) -> None:
    """The recipient takes nothing: the port waits for its window and is as any other."""
    pair = seeded_pair
    transfers = asyncio.ensure_future(pair.run())
    await until(lambda: pair.heard.phases.count(TransferPhase.SEEDING) > 5)
    assert "seed" not in pair.cached(Side.INBOUND)
    open_window(pair)
    result, failure = await transfers
    assert failure is None
    assert isinstance(result, OutboundResult)


async def test_a_guest_that_its_owner_paused_meanwhile_stays_so(seeded_pair: Pair) -> None:
    """The port fails when the window opens, and nobody resumes what somebody else has paused."""
    pair = seeded_pair
    transfers = await seeding(pair)
    pair.donor.vms[VM].state = VmState.PAUSED
    open_window(pair)
    pair.inbound.cancel()
    result, _ = await transfers
    assert isinstance(result, TransferError)
    assert (result.code, result.guest_running) == ("hypervisor", False)
    assert await pair.donor.state(VM) is VmState.PAUSED


async def test_a_lane_that_fails_ends_the_port_before_its_window(seeded_pair: Pair) -> None:
    """There is no way left: the broker hears it at once, not when the window opens."""
    pair = seeded_pair
    transfers = await seeding(pair)
    pair.lanes_a.failed.set_result(LaneError("it was silent for too long", lane="p.disk"))
    pair.inbound.cancel()
    async with asyncio.timeout(SOON_S):
        result, _ = await transfers
    assert isinstance(result, TransferError)
    assert result.guest_running


async def test_a_seed_is_whole_contents_of_the_guest(seeded_pair: Pair) -> None:
    """The recipient holds the disk's content and the memory's, once each; the donor the memory's."""
    pair = seeded_pair
    transfers = await seeding(pair)
    folder = pair.tmp / "inbound-state" / "contents" / str(VM) / f"{pair.agreement.port_id}.seed"
    disk, memory = bytes(range(256)) * 16, (b"page" * 1024)

    def came() -> bytes:
        return b"".join(path.read_bytes() for path in folder.glob("*.contents"))

    await until(lambda: len(came()) >= 2 * CONTENT_BYTES)
    pair.outbound.cancel()
    pair.inbound.cancel()
    await transfers
    tail = pair.memory[len(pair.memory) // CONTENT_BYTES * CONTENT_BYTES :].ljust(CONTENT_BYTES, b"\0")
    assert came() in {disk + memory, disk + memory + tail}
