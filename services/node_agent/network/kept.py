"""Addresses that VMs of this host brought with them by ports: what was agreed is what is known of their cards here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from shared.messages.network import CardNetwork, NetworkMode
from shared.messages.porting import Side

_HELPED: Final = frozenset({NetworkMode.EXTEND, NetworkMode.TRANSLATE})


@dataclass(frozen=True, slots=True)
class KeptVm:
    """A VM that came with its addresses. `helped_by`: the provider without which no packet finds it now, or empty."""

    cards: tuple[CardNetwork, ...]
    helped_by: str = ""


class KeptAddresses:
    """Reads the journal of ports' changes. A record is there as long as the VM is."""

    def __init__(self, journal: NetworkJournal) -> None:
        self._journal = journal

    def by_vm(self) -> dict[UUID, KeptVm]:
        """Each VM that came with its addresses, as its newest port has it. Raises OSError."""
        newest: dict[UUID, NetworkRecord] = {}
        for record in self._journal.readable():
            if record.side is not Side.INBOUND or not record.there:
                continue
            known = newest.get(record.vm_uuid)
            if known is None or known.agreement.epoch < record.agreement.epoch:
                newest[record.vm_uuid] = record
        return {uuid: _kept(record) for uuid, record in newest.items()}


def _kept(record: NetworkRecord) -> KeptVm:
    helped = record.plan.terms.carry in _HELPED and not (record.announced or record.closed)
    cards = tuple(card.card for card in record.plan.cards)
    return KeptVm(cards, helped_by=record.agreement.donor if helped else "")
