"""Both transfers of a port, joined by lanes in memory: the guest arrives whole, or stays as if nothing had happened.

The recipient's transfer is tested here, too: a port has two ends. What only one side can show is in `test_inbound`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from services.node_agent.hypervisor.fake_host import DISK_BYTES
from services.node_agent.hypervisor.interface import JobStats
from services.node_agent.state.journal import Kind, Phase
from services.node_agent.switchover import readiness
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.switchover.convergence import NEVER_MS
from services.node_agent.switchover.readiness import BrokerReadiness, SwitchoverReadiness
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.outbound_result import OutboundResult
from shared.messages.base import PortMessage
from shared.messages.porting import Side, SwitchoverState
from shared.messages.vm import VmState

if TYPE_CHECKING:
    from tests.support.transfer_pair import Pair

from uuid import UUID

VM = UUID("11111111-2222-3333-4444-555555555501")


async def nothing_is_left_at_the_recipient(pair: Pair) -> None:
    """No guest, no disk, no socket, and nothing in the journal that was made."""
    assert await pair.recipient.state(VM) is None
    assert not pair.image.exists()
    assert not pair.sockets_b.directory.exists()
    assert pair.journals[Side.INBOUND].record.made == ()


async def the_guest_runs_at_the_donor(pair: Pair) -> None:
    """As if nothing had happened."""
    assert await pair.donor.state(VM) is VmState.RUNNING
    assert not pair.donor.vms[VM].frozen
    assert not pair.sockets_a.directory.exists()


async def test_a_guest_arrives_with_its_memory_and_disk(pair: Pair) -> None:
    """Bytes arrive as they were; the donor has its VM shut off, the recipient has it running."""
    result, failure = await pair.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    arrived = pair.recipient.vms[VM]
    assert (arrived.state, arrived.memory, arrived.disk) == (VmState.RUNNING, pair.memory, b"block" * 1000)
    assert await pair.donor.state(VM) is VmState.SHUT_OFF
    assert pair.donor.vms[VM].ran_at_s == []
    assert pair.running_reported.is_set()


async def test_the_result_has_the_figures(pair: Pair) -> None:
    """Downtime from the pause to the good news; raw bytes by kind; fewer on the wire."""
    result, _ = await pair.run()
    assert isinstance(result, OutboundResult)
    assert 0 <= result.downtime_ms <= result.total_ms
    assert (result.hypervisor_downtime_ms, result.post_copy) == (7, False)
    assert (result.memory_bytes, result.disk_bytes) == (len(pair.memory), 5000)
    assert 0 < result.wire_bytes < len(pair.memory)
    assert pair.heard.starts == 1
    assert pair.heard.percents[-1] == 100
    assert pair.heard.percents == sorted(pair.heard.percents)


async def test_the_recipient_runs_its_own_xml(pair: Pair) -> None:
    """The domain at the recipient is the one that was issued, with its disk at the reserved place."""
    await pair.run()
    assert pair.recipient.vms[VM].domain_xml == pair.agreement.domain_xml
    assert pair.image.stat().st_size == DISK_BYTES
    kinds = {made.kind for made in pair.journals[Side.INBOUND].record.made}
    assert kinds == {Kind.DISK, Kind.DOMAIN}


async def test_a_denied_switchover_leaves_the_guest_at_the_donor(pair: Pair) -> None:
    """The broker says no: the guest runs on, the incomplete copy is gone."""
    pair.broker.denies = "the tenant cancelled"
    result, failure = await pair.run()
    assert isinstance(result, TransferError)
    assert isinstance(failure, TransferError)
    assert (result.guest_running, failure.guest_running) == (True, False)
    assert (failure.code, failure.detail) == ("cancelled", "the tenant cancelled")
    await the_guest_runs_at_the_donor(pair)
    await nothing_is_left_at_the_recipient(pair)


async def test_a_recipient_that_cannot_run_it_gives_it_back(pair: Pair) -> None:
    """Finish fails after the commit: the donor waits, frozen, until the broker has taken the commit back."""
    pair.recipient.fail_finish = "out of memory"
    await pair.inbound.open()
    outbound = asyncio.ensure_future(pair.run_outbound())
    failure = await pair.run_inbound()
    assert isinstance(failure, TransferError)
    assert (failure.code, failure.guest_running) == ("finish_failed", False)
    assert pair.broker.committed
    assert await pair.donor.state(VM) is VmState.PAUSED
    assert pair.donor.vms[VM].frozen
    pair.broker.committed = False
    result = await outbound
    assert isinstance(result, TransferError)
    assert result.guest_running
    await the_guest_runs_at_the_donor(pair)
    assert await pair.recipient.state(VM) is None
    assert pair.image.exists(), "kept until the broker's abort"


async def test_a_recipient_that_refuses_the_domain_fails_the_port(pair: Pair) -> None:
    """Prepare fails: nothing has moved."""
    pair.recipient.fail_prepare = "no such machine type"
    result, failure = await pair.run()
    assert isinstance(result, TransferError)
    assert "no such machine type" in str(result)
    assert isinstance(failure, TransferError)
    await the_guest_runs_at_the_donor(pair)
    await nothing_is_left_at_the_recipient(pair)


@pytest.mark.parametrize("who", ["both", "donor", "recipient"])
async def test_a_cancel_in_the_memory_phase(pair: Pair, who: str) -> None:
    """Whoever hears of it first: the guest runs on at the donor, nothing is left at the recipient."""
    pair.donor.memory_flows.clear()
    await pair.inbound.open()
    transfers = asyncio.gather(pair.run_outbound(), pair.run_inbound())
    await pair.recipient.prepared.wait()
    if who in {"both", "donor"}:
        pair.outbound.cancel()
    if who in {"both", "recipient"}:
        pair.inbound.cancel()
    result, failure = await transfers
    assert isinstance(result, TransferError)
    assert isinstance(failure, TransferError)
    assert (result.guest_running, failure.guest_running) == (True, False)
    await the_guest_runs_at_the_donor(pair)
    await nothing_is_left_at_the_recipient(pair)


async def test_a_cancel_before_it_began(pair: Pair) -> None:
    """Nothing is started."""
    await pair.inbound.open()
    pair.outbound.cancel()
    result = await pair.run_outbound()
    assert isinstance(result, TransferError)
    assert (result.code, result.guest_running) == ("cancelled", True)
    assert pair.heard.starts == 0


async def test_a_cancel_while_the_recipient_does_not_answer(pair: Pair) -> None:
    """The lanes are up, but nobody says what the recipient has, nor prepares: the cancel is obeyed all the same."""
    await pair.inbound.open()
    outbound = asyncio.ensure_future(pair.run_outbound())
    async with asyncio.timeout(10):
        await pair.lanes_b.control.accept()
        pair.outbound.cancel()
        result = await outbound
    assert isinstance(result, TransferError)
    assert (result.code, result.guest_running) == ("cancelled", True)
    await the_guest_runs_at_the_donor(pair)


async def test_a_lane_that_comes_back_costs_only_time(pair: Pair) -> None:
    """The route is away for a moment in the memory phase; the guest arrives all the same."""
    pair.donor.memory_flows.clear()
    await pair.inbound.open()
    transfers = asyncio.gather(pair.run_outbound(), pair.run_inbound())
    await pair.recipient.prepared.wait()
    for route in pair.routes.values():
        route.cut(lose_queued=True)
    pair.donor.memory_flows.set()
    await asyncio.sleep(0.1)
    for route in pair.routes.values():
        route.mend()
    result, failure = await transfers
    assert failure is None
    assert isinstance(result, OutboundResult)
    assert pair.recipient.vms[VM].memory == pair.memory


async def test_a_vm_that_changed_since_the_agreement_does_not_leave(pair: Pair) -> None:
    """What was agreed and what runs must be the same guest."""
    changed = pair.domain_xml.replace("262144", "524288")
    pair.donor.vms[VM].domain_xml = changed
    await pair.inbound.open()
    result = await pair.run_outbound()
    assert isinstance(result, TransferError)
    assert "memory" in result.detail
    assert result.guest_running


async def test_the_donor_remembers_before_finish_goes_out(pair: Pair) -> None:
    """While Finish is out the journal says so, and the guest is frozen: the next agent will ask the broker."""
    pair.broker.silent = True
    await pair.inbound.open()
    transfers = asyncio.gather(pair.run_outbound(), pair.run_inbound())
    await pair.broker.was_asked.wait()
    assert pair.journals[Side.OUTBOUND].record.phase is Phase.FINISH_PASSED
    assert pair.journals[Side.INBOUND].record.phase is Phase.SWITCHOVER_ASKED
    assert pair.donor.vms[VM].frozen
    assert await pair.recipient.state(VM) is VmState.PAUSED
    pair.broker.silent = False
    result, failure = await transfers
    assert failure is None
    assert isinstance(result, OutboundResult)


async def test_a_lane_lost_in_finish_is_settled_by_the_broker(pair: Pair) -> None:
    """The answer is lost, but the recipient runs the guest by its own word: the donor's copy goes unrun."""
    pair.broker.silent = True
    await pair.inbound.open()
    inbound = asyncio.ensure_future(pair.run_inbound())
    outbound = asyncio.ensure_future(pair.run_outbound())
    await pair.broker.was_asked.wait()
    for route in pair.routes.values():
        route.cut()
    pair.broker.silent = False
    await pair.running_reported.wait()
    await pair.lanes_a.close(flush_s=0.0)
    result = await outbound
    assert isinstance(result, OutboundResult)
    assert pair.heard.doubts
    assert await pair.donor.state(VM) is VmState.SHUT_OFF
    assert pair.donor.vms[VM].ran_at_s == []
    inbound.cancel()
    await asyncio.gather(inbound, return_exceptions=True)
    assert await pair.recipient.state(VM) is VmState.RUNNING


async def test_in_doubt_the_guest_stands_still_until_the_broker_aborts(pair: Pair) -> None:
    """The lane breaks in Finish, nobody has committed: only the broker's abort lets the guest run here."""
    pair.broker.silent = True
    await pair.inbound.open()
    inbound = asyncio.ensure_future(pair.run_inbound())
    outbound = asyncio.ensure_future(pair.run_outbound())
    await pair.broker.was_asked.wait()
    await pair.lanes_a.close(flush_s=0.0)
    await pair.heard.doubted.wait()
    assert await pair.donor.state(VM) is VmState.PAUSED
    assert pair.donor.vms[VM].frozen
    pair.inbound.cancel()
    pair.outbound.cancel()
    result, failure = await asyncio.gather(outbound, inbound)
    assert isinstance(result, TransferError)
    assert isinstance(failure, TransferError)
    assert result.guest_running
    await the_guest_runs_at_the_donor(pair)
    await nothing_is_left_at_the_recipient(pair)


def ask_the_broker(pair: Pair) -> Callable[[bool], None]:
    """Both transfers ask this broker whether it could commit; what is returned takes it away or brings it back."""
    there = True

    def attach(client: BrokerClient) -> None:
        async def say(_: PortMessage, question: UUID) -> None:
            if there:
                answer = SwitchoverState(
                    port_id=pair.agreement.port_id, committed=False, owner="alpha", epoch=1, ended=False, ready=True
                )
                client.deliver(answer, question=question)

        client.readiness = BrokerReadiness(pair.agreement.port_id, say, clock=time.monotonic)

    attach(pair.inbound._broker)
    attach(pair.outbound._guard._broker)
    pair.outbound._readiness = SwitchoverReadiness(
        pair.outbound._guard._broker.readiness, pair.lanes_a.control, clock=time.monotonic
    )

    def switch(is_there: bool) -> None:  # noqa: FBT001  # one thing
        nonlocal there
        there = is_there

    return switch


async def test_a_guest_is_not_paused_while_the_broker_is_away(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs on at the donor for as long as that takes; when the broker is back, the port completes."""
    monkeypatch.setattr(readiness, "ASK_EVERY_S", 0.02)
    monkeypatch.setattr(readiness, "ANSWER_WITHIN_S", 0.02)
    switch = ask_the_broker(pair)
    switch(False)
    vm = pair.donor.vms[VM]
    vm.memory = b"page" * (1 << 21)  # more than fits into the sockets on the way

    async def last_rounds(uuid: UUID) -> JobStats | None:
        return JobStats(memory_total_bytes=1, memory_iteration=5) if uuid in pair.donor.jobs else None

    monkeypatch.setattr(pair.donor, "job", last_rounds)
    running = asyncio.ensure_future(pair.run())
    async with asyncio.timeout(20):
        while NEVER_MS not in pair.donor.max_downtimes_ms:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
    done, _ = await asyncio.wait({running}, timeout=1.0)
    assert not done
    assert vm.state is VmState.RUNNING
    assert not pair.broker.asked
    switch(True)
    result, failure = await asyncio.wait_for(running, 20)
    assert failure is None
    assert isinstance(result, OutboundResult)
    assert pair.heard.holds == [True, False]
    assert pair.recipient.vms[VM].memory == vm.memory
