"""LaneEnd: one end of a port's lanes, as the agreement has it. Pure.

The donor's node connects to the recipient's where that can be reached directly, else the recipient's to the donor's.
If neither can be reached directly, the relay is the route.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from shared.messages.porting import ServiceChangeAgreement
from shared.page_stream.bodies import LaneRole
from shared.parties import Party, node


@dataclass(frozen=True, slots=True)
class LaneEnd:
    """The agreement, and the role that this end has in it."""

    agreement: ServiceChangeAgreement
    role: LaneRole

    @property
    def port_id(self) -> UUID:
        """The port."""
        return self.agreement.port_id

    @property
    def peer(self) -> Party:
        """The node agent at the other end."""
        it = self.agreement
        if self.role is LaneRole.INITIATOR:
            return node(it.recipient, it.recipient_node)
        return node(it.donor, it.donor_node)

    @property
    def connects_to(self) -> tuple[str, ...]:
        """HOST:PORT addresses that this end connects to; empty if there are none, or if the other end connects."""
        recipient, donor = self.agreement.recipient_lane.direct, self.agreement.donor_lane.direct
        if self.role is LaneRole.INITIATOR:
            return recipient
        return () if recipient else donor

    @property
    def is_connected_to(self) -> bool:
        """Whether the other end connects to this one."""
        recipient, donor = self.agreement.recipient_lane.direct, self.agreement.donor_lane.direct
        if self.role is LaneRole.ACCEPTOR:
            return bool(recipient)
        return bool(donor) and not recipient
