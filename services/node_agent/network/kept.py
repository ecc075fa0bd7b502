"""Addresses that VMs of this host brought with them by ports: what was agreed is what is known of their cards here."""

from __future__ import annotations

from uuid import UUID

from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from shared.messages.network import CardNetwork
from shared.messages.porting import Side


class KeptAddresses:
    """Reads the journal of ports' changes. A record is there as long as the VM is."""

    def __init__(self, journal: NetworkJournal) -> None:
        self._journal = journal

    def by_vm(self) -> dict[UUID, tuple[CardNetwork, ...]]:
        """The cards of each VM that came with its addresses, as its newest port has it. Raises OSError."""
        newest: dict[UUID, NetworkRecord] = {}
        for record in self._journal.readable():
            if record.side is not Side.INBOUND or not record.there:
                continue
            known = newest.get(record.vm_uuid)
            if known is None or known.agreement.epoch < record.agreement.epoch:
                newest[record.vm_uuid] = record
        return {uuid: tuple(card.card for card in record.plan.cards) for uuid, record in newest.items()}
