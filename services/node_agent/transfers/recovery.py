"""After a restart: the transfers in the journal that had not ended are brought to a safe end, and reported.
Removes only what the journal lists.

The sockets and lanes of the former process are gone, so no transfer goes on. What may have happened meanwhile:

* outbound, before Finish: libvirt has noticed and resumed the guest, or still works on a job that cannot succeed; the
  recovery ends when the guest is seen running;
* outbound, Finish passed or post-copy wanted: the guest is fenced here until the ledger says where it runs;
* inbound, Finish not passed: libvirtd destroyed the incomplete domain, or is about to;
* inbound, Finish passed: the guest runs here, or ran, or its start failed with the connection: nothing is removed. If
  the host was restarted, too, nobody knows whether it ran: it counts as arrived and gone.

What follows from each is in `machine.table`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from services.node_agent.hypervisor.interface import Hypervisor
from services.node_agent.state.boot import boot_id
from services.node_agent.state.journal import Phase, TransferJournal
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.switchover.start_fence import StartFence
from services.node_agent.transfers.arrival_guard import Arrival, ArrivalGuard
from services.node_agent.transfers.cleanup import remove_created, remove_left
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.finish_guard import DonorFinishGuard, GuardTuning, declaring
from services.node_agent.transfers.port_network import JoinedNetworks, PortNetwork
from shared.logs import get_logger
from shared.messages.base import PortMessage
from shared.messages.porting import InboundFinished, Side
from shared.tasks import Tasks

log = get_logger(__name__)

CODE = "node_agent_restarted"


class Recovery:
    """One transfer's recovery."""

    def __init__(
        self,
        journal: TransferJournal,
        *,
        hypervisor: Hypervisor,
        broker: BrokerClient,
        in_doubt: Callable[[str], Awaitable[None]],
        network: PortNetwork | None = None,
        look_again_s: float = 0.5,
        boot_id: Callable[[], str] = boot_id,
    ) -> None:
        self._journal = journal
        self._hypervisor = hypervisor
        self._network = network or JoinedNetworks()
        fence = StartFence(hypervisor, journal)
        self._leaving = DonorFinishGuard(
            journal.record.agreement,
            hypervisor=hypervisor,
            broker=broker,
            store=declaring(journal, fence),
            stays=fence.open,
            was_running=journal.record.was_running,
            in_doubt=in_doubt,
            tuning=GuardTuning(look_again_s=look_again_s),
            heard_epoch=journal.record.heard_epoch,
            remember_epoch=journal.remember_epoch,
            network=network,
        )
        self._arriving = ArrivalGuard(
            journal,
            hypervisor=hypervisor,
            broker=broker,
            remove=lambda: remove_created(journal, hypervisor),
            look_again_s=look_again_s,
            boot_id=boot_id,
        )
        self.copy_asked = self._leaving.copy_asked if journal.record.side is Side.OUTBOUND else None

    def abort(self) -> None:
        """The broker's AbortTransfer."""
        if self._journal.record.side is Side.OUTBOUND:
            self._leaving.abort()
        else:
            self._arriving.abort()

    async def run(self) -> PortMessage:
        """Bring the transfer to its end, however long libvirt or the broker take to answer; return its last message.

        Raises `TransferError` where the guest did not move.
        """
        record = self._journal.record
        log.warning("recovering transfer", side=record.side, phase=record.phase)
        self._network.resumed(record.side, record.agreement)
        return await (self._outbound() if record.side is Side.OUTBOUND else self._inbound())

    async def _outbound(self) -> PortMessage:
        async with Tasks("recovery") as tasks:
            tasks.spawn(self._leaving.run(), name="finish guard")
            self._leaving.restarted(self._journal.record.phase)
            end = await self._leaving.ended()
        await remove_created(self._journal, self._hypervisor)
        where = "the guest runs here" if end.running else "the guest does not run here"
        detail = f"the transfer was interrupted by a restart of the donor's node agent; {where}"
        raise TransferError(CODE, detail, guest_running=end.running)

    async def _inbound(self) -> PortMessage:
        agreement = self._journal.record.agreement
        async with Tasks("recovery") as tasks:
            tasks.spawn(self._arriving.run(), name="arrival guard")
            self._arriving.restarted()
            if self._journal.record.phase is Phase.KEPT:
                self._arriving.granted_again()  # the former process has not come to its answer
            outcome = await self._arriving.outcome()
        if outcome.arrival in {Arrival.ARRIVED, Arrival.MAY_HAVE_RUN}:
            self._network.guest_has_arrived(agreement)
        if outcome.arrival is Arrival.ARRIVED:
            await remove_left(self._journal, self._hypervisor)
            return InboundFinished(port_id=agreement.port_id, epoch=agreement.epoch)
        if outcome.arrival is Arrival.MAY_HAVE_RUN:
            await remove_left(self._journal, self._hypervisor)
        raise outcome.error()
