"""After a restart: the transfers in the journal that had not ended are brought to a safe end, and reported.
Removes only what the journal lists.

The sockets and lanes of the former process are gone, so no transfer goes on. What may have happened meanwhile:

* outbound, before Finish: libvirt has noticed and resumed the guest, or still works on a job that cannot succeed;
* outbound, Finish passed: the guest is frozen here until the broker says where it runs;
* inbound, before Finish: libvirtd destroyed the incomplete domain, or is about to;
* inbound, Finish passed: the guest runs here, or its start failed with the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError
from services.node_agent.state.journal import Kind, Phase, TransferJournal
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.transfers.cleanup import remove_created
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.finish_guard import DonorFinishGuard, GuardTuning
from shared.logs import get_logger
from shared.messages.base import PortMessage
from shared.messages.porting import InboundFinished, Side
from shared.messages.vm import VmState
from shared.tasks import Tasks

log = get_logger(__name__)

CODE = "node_agent_restarted"
SETTLE_S = 20.0
"""How long libvirt may take to finish what the former process had started."""
SAMPLE_EVERY_S = 0.5


class Recovery:
    """One transfer's recovery. `guard` hears of the broker's AbortTransfer for an outbound one."""

    def __init__(
        self,
        journal: TransferJournal,
        *,
        hypervisor: Hypervisor,
        broker: BrokerClient,
        in_doubt: Callable[[str], Awaitable[None]],
        tuning: GuardTuning | None = None,
    ) -> None:
        self._journal = journal
        self._hypervisor = hypervisor
        self.guard = DonorFinishGuard(
            journal.record.agreement,
            hypervisor=hypervisor,
            broker=broker,
            journal=journal,
            in_doubt=in_doubt,
            tuning=tuning,
        )

    async def run(self) -> PortMessage:
        """Bring the transfer to its end; return its last message.

        Raises `TransferError` where the guest did not move, `HypervisorError` where libvirt does not answer.
        """
        record = self._journal.record
        log.warning("recovering transfer", side=record.side, phase=record.phase)
        return await (self._outbound() if record.side is Side.OUTBOUND else self._inbound())

    # ---- the guest was leaving ----

    async def _outbound(self) -> PortMessage:
        async with Tasks("recovery") as tasks:
            tasks.spawn(self.guard.run(), name="finish guard")
            self.guard.restarted()
            end = await self.guard.ended()
        booted = not end.left and await self.guard.start_fence.open()
        running = end.running or booted
        await remove_created(self._journal, self._hypervisor)
        where = "the guest runs here" if running else "the guest does not run here"
        detail = f"the transfer was interrupted by a restart of the donor's node agent; {where}"
        raise TransferError(CODE, detail, guest_running=running)

    # ---- the guest was arriving ----

    async def _inbound(self) -> PortMessage:
        agreement = self._journal.record.agreement
        if self._journal.record.phase is Phase.FINISH_PASSED:
            state = await self._until(lambda state: state in {None, VmState.RUNNING, VmState.SHUT_OFF})
        else:
            state = await self._hypervisor.state(agreement.vm_uuid)
        if state is VmState.RUNNING and self._journal.record.phase is Phase.FINISH_PASSED:
            # Only Finish starts it, and the gate passed Finish only after the broker's commit.
            self._journal.discard_kind(Kind.DIRECTORY)
            return InboundFinished(port_id=agreement.port_id, epoch=agreement.epoch)
        await remove_created(self._journal, self._hypervisor)
        detail = "the transfer was interrupted by a restart of the recipient's node agent"
        raise TransferError(CODE, detail, guest_running=False)

    # ---- both ----

    async def _until(self, settled: Callable[[VmState | None], bool]) -> VmState | None:
        """Sample the state until libvirt has settled, or `SETTLE_S` have passed; return the last state."""
        uuid = self._journal.record.agreement.vm_uuid
        left = int(SETTLE_S / SAMPLE_EVERY_S)
        while True:
            state = await self._hypervisor.state(uuid)
            left -= 1
            if settled(state) or left <= 0:
                return state
            await asyncio.sleep(SAMPLE_EVERY_S)


async def recover_when_possible(recovery: Recovery, *, retry_s: float = 5.0) -> PortMessage:
    """Recover as soon as libvirt answers; it may start after this agent."""
    while True:
        try:
            return await recovery.run()
        except HypervisorError as error:
            log.warning("recovery waits for libvirt", error=str(error))
            await asyncio.sleep(retry_s)
