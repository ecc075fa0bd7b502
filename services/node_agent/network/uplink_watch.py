"""Whether packets for an announced VM come by this host's own uplink yet."""

from __future__ import annotations

from functools import partial
from typing import Final
from uuid import UUID

from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.parties import Report
from services.node_agent.network.settling import Write
from services.node_agent.network.steps import NftTable
from shared.logs import get_logger
from shared.messages.addresses import NetworkState

log = get_logger(__name__)

NOT_ANNOUNCED: Final = (
    "not_announced: routes to its addresses are written, and no packet has come by this host's own uplink; see that "
    "the routing daemon runs, reads them, and that its neighbours take them"
)


class UplinkWatch:
    """Of all ports of this host. After `unseen_looks` without a packet it is told that nobody routes to the VM here."""

    def __init__(
        self, journal: NetworkJournal, maker: StepMaker, report: Report, *, write: Write, unseen_looks: int
    ) -> None:
        self._journal = journal
        self._maker = maker
        self._report = report
        self._write = write
        self._unseen_looks = unseen_looks
        self._looks: dict[UUID, int] = {}

    async def look(self, record: NetworkRecord) -> None:
        """Once, at a VM that is announced here. Raises `NftError`, OSError."""
        guards = [step.name for step in record.steps if isinstance(step, NftTable)]
        if await self._maker.packets_routed(guards):
            log.info("addresses announced; packets come by the own uplink")
            self._report(record.agreement, NetworkState.ANNOUNCED)
            await self._write(partial(self._journal.note, record.port_id, record.side, announced=True))
            self.forget(record.port_id)
            return
        looks = self._looks[record.port_id] = self._looks.get(record.port_id, 0) + 1
        if looks == self._unseen_looks:
            # No problem of this node: nobody may have spoken to the VM yet.
            log.warning("announced addresses not reached")
            self._report(record.agreement, NetworkState.FAILED, NOT_ANNOUNCED)

    def forget(self, port_id: UUID) -> None:
        """Nothing of the port is watched any more."""
        self._looks.pop(port_id, None)
