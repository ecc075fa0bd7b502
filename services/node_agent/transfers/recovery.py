"""After a restart: what the journal says was under way is brought to a safe end, and reported. Removes only recorded
things.

The sockets and lanes of the former process are gone, so no transfer goes on. What may have happened meanwhile:

* outbound, before Finish: libvirt has noticed and resumed the guest, or still works on a job that cannot succeed;
* outbound, Finish passed: the guest is frozen here until the broker says where it runs;
* inbound, before Finish: libvirtd destroyed the half-made domain, or is about to;
* inbound, Finish passed: the guest runs here, or its start failed with the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from services.node_agent.hypervisor.interface import Hypervisor, HypervisorError
from services.node_agent.state.journal import HalfJournal, Kind, Phase
from services.node_agent.switchover.broker_client import BrokerTalk
from services.node_agent.switchover.finish_guard import DonorFinishKeeper
from services.node_agent.switchover.verdict import Verdict
from services.node_agent.transfers.cleanup import remove_made
from shared.messages.base import PortMessage
from shared.messages.porting import InboundFinished, Side, TransferFailed
from shared.messages.vm import VmState

log = structlog.stdlib.get_logger(__name__)

CODE = "node_agent_restarted"
SETTLE_S = 20.0
"""How long libvirt may take to finish what the former process had started."""
LOOK_EVERY_S = 0.5


class Recovery:
    """One half's recovery. `aborted` of the keeper is set by the broker's AbortTransfer."""

    def __init__(
        self,
        half: HalfJournal,
        *,
        hypervisor: Hypervisor,
        talk: BrokerTalk,
        in_doubt: Callable[[str], Awaitable[None]],
    ) -> None:
        self._half = half
        self._hypervisor = hypervisor
        self.keeper = DonorFinishKeeper(
            half.record.agreement, hypervisor=hypervisor, talk=talk, journal=half, in_doubt=in_doubt
        )

    async def run(self) -> PortMessage:
        """Bring the half to its end; return its last word. Raises `HypervisorError` where libvirt does not answer."""
        record = self._half.record
        log.warning("a transfer of the former process is cleaned up", side=record.side, phase=record.phase)
        return await (self._outbound() if record.side is Side.OUTBOUND else self._inbound())

    # ---- the guest was leaving ----

    async def _outbound(self) -> PortMessage:
        uuid = self._half.record.agreement.vm_uuid
        stays = True
        if self._half.record.phase is Phase.FINISH_PASSED:
            verdict = await self.keeper.outcome_unknown("this node agent was restarted during the switchover")
            stays = verdict is Verdict.RUNS_HERE
        if stays:
            await self._run_here()
        else:
            await self._hypervisor.destroy(uuid)
        await remove_made(self._half, self._hypervisor)
        running = await self._hypervisor.state(uuid) is VmState.RUNNING
        where = "the guest runs here" if running else "the guest does not run here"
        return self._failed(f"the transfer was interrupted by a restart of the donor's node agent; {where}", running)

    async def _run_here(self) -> None:
        uuid = self._half.record.agreement.vm_uuid
        await self._hypervisor.thaw(uuid)
        await self._hypervisor.abort_job(uuid)
        state = await self._until(lambda state: state is not VmState.PAUSED)
        if state is VmState.PAUSED:
            log.warning("libvirt left the guest paused; resuming it")
            await self._hypervisor.resume(uuid)

    # ---- the guest was coming ----

    async def _inbound(self) -> PortMessage:
        agreement = self._half.record.agreement
        if self._half.record.phase is Phase.FINISH_PASSED:
            state = await self._until(lambda state: state in {None, VmState.RUNNING, VmState.SHUT_OFF})
        else:
            state = await self._hypervisor.state(agreement.vm_uuid)
        if state is VmState.RUNNING and self._half.record.phase is Phase.FINISH_PASSED:
            # Only Finish starts it, and the gate passed Finish only after the broker's commit.
            self._half.forget_kind(Kind.DIRECTORY)
            return InboundFinished(port_id=agreement.port_id, epoch=agreement.epoch)
        await remove_made(self._half, self._hypervisor)
        return self._failed("the transfer was interrupted by a restart of the recipient's node agent", running=False)

    # ---- both ----

    async def _until(self, settled: Callable[[VmState | None], bool]) -> VmState | None:
        """Look until libvirt has settled, or `SETTLE_S` have passed; return the last look."""
        uuid = self._half.record.agreement.vm_uuid
        left = int(SETTLE_S / LOOK_EVERY_S)
        while True:
            state = await self._hypervisor.state(uuid)
            left -= 1
            if settled(state) or left <= 0:
                return state
            await asyncio.sleep(LOOK_EVERY_S)

    def _failed(self, detail: str, running: bool) -> TransferFailed:  # noqa: FBT001  # one caller each
        record = self._half.record
        return TransferFailed(port_id=record.port_id, side=record.side, code=CODE, detail=detail, guest_running=running)


async def recover_with_patience(recovery: Recovery, *, retry_s: float = 5.0) -> PortMessage:
    """Recover as soon as libvirt answers; it may start after this agent."""
    while True:
        try:
            return await recovery.run()
        except HypervisorError as error:
            log.warning("libvirt does not answer; recovery waits", reason=str(error))
            await asyncio.sleep(retry_s)
