"""What a transfer tells the host's network: the moments of a port, as `network.keeper` knows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol
from uuid import UUID

from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.network.parties import MovedVm
from services.node_agent.network.paths.exchange import PATHS
from services.node_agent.network.plan import own_bridges
from services.node_agent.network.port_moments import Stop
from services.node_agent.network.tracking.exchange import CONNECTIONS
from shared.messages.porting import ServiceChangeAgreement, Side

NETWORK_STREAMS: Final = frozenset({CONNECTIONS, PATHS})
"""Labels of streams of the control lane."""


class PortNetwork(Protocol):
    """The network of ports that keep the VM's addresses by other means than joined networks."""

    async def prepare(self, side: Side, agreement: ServiceChangeAgreement, taps: Mapping[str, str]) -> None:
        """Make all that can be made before the switchover. Raises `VmportError`, having undone what was made."""
        ...

    def resumed(self, side: Side, agreement: ServiceChangeAgreement) -> None:
        """A former process has left this transfer half way. Returns at once."""
        ...

    def ended(self, side: Side, agreement: ServiceChangeAgreement, *, moved: bool) -> None:
        """A former process has ended this transfer, and perhaps no more than that. `moved`: the VM is the recipient's.
        Returns at once. Raises OSError.
        """
        ...

    def memory_flows(self, agreement: ServiceChangeAgreement, control: LaneSession, stop: Stop) -> None:
        """Donor: the switchover may come at any moment. Returns at once; `stop` ends the transfer, with code and
        reason, if it is not too late.
        """
        ...

    def not_ready(self, port_id: UUID) -> str | None:
        """Donor: why the guest must not be paused now; None: it may."""
        ...

    async def serve_stream(self, agreement: ServiceChangeAgreement, stream: LaneStream) -> None:
        """Recipient: serve a stream of the donor's node that has a label of `NETWORK_STREAMS`."""
        ...

    def guest_stands_still(self, port_id: UUID) -> None:
        """Donor: the guest is paused, and may run at the recipient next. Returns at once."""
        ...

    def guest_runs_on(self, port_id: UUID) -> None:
        """Donor: the guest runs here again after all. Returns at once."""
        ...

    def guest_is_away(self, moved: MovedVm) -> None:
        """Donor: the VM is the recipient's, and it runs there. Returns at once."""
        ...

    def guest_is_expected(self, port_id: UUID) -> None:
        """Recipient: the guest's devices are there, and it does not run yet. Returns at once."""
        ...

    def guest_has_arrived(self, moved: MovedVm) -> None:
        """Recipient: the guest runs here. Returns at once."""
        ...

    async def undo(self, port_id: UUID, side: Side) -> tuple[str, ...]:
        """The VM stays where it was: remove all that this port has made here; returns what remains, by name."""
        ...


def own_bridges_of(agreement: ServiceChangeAgreement) -> frozenset[str]:
    """The bridges that the recipient's node makes for this VM's cards alone."""
    if agreement.network is None:
        return frozenset()
    return frozenset(card.bridge for _, card in own_bridges(agreement.network))


class JoinedNetworks:
    """The providers' networks are one: nothing is to be done."""

    async def prepare(self, side: Side, agreement: ServiceChangeAgreement, taps: Mapping[str, str]) -> None:
        """Nothing to do."""

    def resumed(self, side: Side, agreement: ServiceChangeAgreement) -> None:
        """Nothing to do."""

    def ended(self, side: Side, agreement: ServiceChangeAgreement, *, moved: bool) -> None:
        """Nothing to do."""

    def memory_flows(self, agreement: ServiceChangeAgreement, control: LaneSession, stop: Stop) -> None:
        """Nothing to do."""

    def not_ready(self, port_id: UUID) -> str | None:  # noqa: ARG002  # PortNetwork
        """Nothing is waited for."""
        return None

    async def serve_stream(
        self,
        agreement: ServiceChangeAgreement,  # noqa: ARG002  # PortNetwork
        stream: LaneStream,
    ) -> None:
        """None is expected."""
        stream.reset("this node's network takes no part in a port")

    def guest_stands_still(self, port_id: UUID) -> None:
        """Nothing to do."""

    def guest_runs_on(self, port_id: UUID) -> None:
        """Nothing to do."""

    def guest_is_away(self, moved: MovedVm) -> None:
        """Nothing to do."""

    def guest_is_expected(self, port_id: UUID) -> None:
        """Nothing to do."""

    def guest_has_arrived(self, moved: MovedVm) -> None:
        """Nothing to do."""

    async def undo(self, port_id: UUID, side: Side) -> tuple[str, ...]:  # noqa: ARG002  # PortNetwork
        """Nothing to do."""
        return ()
