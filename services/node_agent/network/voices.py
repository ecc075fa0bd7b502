"""What is said on segments while records of the network are carried out: to guests by their router, and at the donor
for guests that are elsewhere.
"""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from services.node_agent.network.announcer import Announcer
from services.node_agent.network.guest_router import GuestRouters
from services.node_agent.network.journal import NetworkRecord
from services.node_agent.network.steps import ProxyNeighbour
from shared.messages.porting import Side


class Voices(Protocol):
    """What is said on segments while a record is carried out."""

    def follow(self, record: NetworkRecord) -> None:
        """What the record wants is made; what it does not want any more is still there. Returns at once."""
        ...

    def cease(self, record: NetworkRecord) -> None:
        """All that the record has made is removed next. Returns at once."""
        ...


class NoVoices:
    """Nothing is said."""

    def follow(self, record: NetworkRecord) -> None:
        """Nothing to do."""

    def cease(self, record: NetworkRecord) -> None:
        """Nothing to do."""


class SegmentVoices:
    """Of this host."""

    def __init__(self, announcer: Announcer, routers: GuestRouters) -> None:
        self._announcer = announcer
        self._routers = routers
        self._stands_in = set[UUID]()

    def follow(self, record: NetworkRecord) -> None:
        """What the record wants is made."""
        if record.side is Side.INBOUND:
            self._routers.follow(record)
            return
        stands_in = any(isinstance(step, ProxyNeighbour) for step in record.wanted)
        if stands_in and record.port_id not in self._stands_in:
            self._stands_in.add(record.port_id)
            self._announcer.stand_in(record.port_id, record.plan)
        elif not stands_in:
            self._stands_in.discard(record.port_id)

    def cease(self, record: NetworkRecord) -> None:
        """All that the record has made is removed next."""
        if record.side is Side.INBOUND:
            self._routers.cease(record.port_id)
        else:
            self._stands_in.discard(record.port_id)
