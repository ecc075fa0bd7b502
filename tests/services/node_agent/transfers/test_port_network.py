"""Each side's network hears of the port's moments, and the recipient's gets the stream of the VM's connections."""

from __future__ import annotations

from uuid import UUID

import pytest

from services.node_agent.lanes.core.errors import StreamError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.network.parties import MovedVm
from services.node_agent.network.port_moments import Stop
from services.node_agent.network.tracking.exchange import CONNECTIONS
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.outbound_result import OutboundResult
from services.node_agent.transfers.port_network import JoinedNetworks, PortNetwork, own_bridges_of
from shared.messages.network import NetworkMode
from shared.messages.porting import ServiceChangeAgreement, Side
from shared.page_stream.bodies import StreamKind
from tests.services.node_agent.network.plans import BRIDGE, PORT, agreement, plan
from tests.support.control_lane import lane
from tests.support.transfer_pair import Pair


class Network(JoinedNetworks):
    """Writes down what it hears; the donor's opens the stream."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def resumed(self, side: Side, agreement: ServiceChangeAgreement) -> None:  # noqa: ARG002
        self.heard.append("resumed")

    def memory_flows(self, agreement: ServiceChangeAgreement, control: LaneSession, stop: Stop) -> None:  # noqa: ARG002
        self.heard.append("memory flows")
        control.open_stream(StreamKind.CONTROL, CONNECTIONS)

    async def serve_stream(self, agreement: ServiceChangeAgreement, stream: LaneStream) -> None:
        self.heard.append(f"serves {stream.label} of {agreement.vm_name}")

    def guest_stands_still(self, port_id: UUID) -> None:  # noqa: ARG002
        if "stands still" not in self.heard:
            self.heard.append("stands still")

    def guest_is_away(self, moved: MovedVm) -> None:  # noqa: ARG002
        if "away" not in self.heard:
            self.heard.append("away")

    def guest_is_expected(self, port_id: UUID) -> None:  # noqa: ARG002
        self.heard.append("expected")

    def guest_has_arrived(self, moved: MovedVm) -> None:  # noqa: ARG002
        self.heard.append("arrived")


async def test_both_sides_hear_the_moments_in_their_order(pair: Pair) -> None:
    donor = pair.outbound._network = pair.outbound._guard._network = Network()
    recipient = pair.inbound._network = Network()
    result, failure = await pair.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    assert donor.heard == ["memory flows", "stands still", "away"]
    assert sorted(recipient.heard[:-1]) == ["expected", f"serves {CONNECTIONS} of {pair.agreement.vm_name}"]
    assert recipient.heard[-1] == "arrived"


class Refused(Network):
    """What is found of the path stops the port."""

    def memory_flows(self, agreement: ServiceChangeAgreement, control: LaneSession, stop: Stop) -> None:  # noqa: ARG002
        stop("source_filtered", "source_filtered: packets do not come")


async def test_a_path_that_speaks_against_the_port_stops_it(pair: Pair) -> None:
    """The guest runs on at the donor, and everybody hears why."""
    pair.outbound._network = pair.outbound._guard._network = Refused()
    result, failure = await pair.run()
    assert isinstance(result, TransferError)
    assert (result.code, result.guest_running) == ("source_filtered", True)
    assert failure is not None


async def test_joined_networks_serve_no_stream() -> None:
    networks, agreed = JoinedNetworks(), agreement(plan(NetworkMode.JOINED))
    async with lane(lambda stream: networks.serve_stream(agreed, stream)) as control:
        stream = control.open_stream(StreamKind.CONTROL, CONNECTIONS)
        with pytest.raises(StreamError, match="takes no part"):
            await stream.read()
    networks.memory_flows(agreed, control, lambda _code, _reason: None)
    networks.resumed(Side.OUTBOUND, agreed)
    assert networks.not_ready(agreed.port_id) is None
    networks.guest_runs_on(agreed.port_id)


def test_own_bridges_are_those_that_the_node_makes() -> None:
    assert own_bridges_of(agreement(None)) == own_bridges_of(agreement(plan(NetworkMode.JOINED))) == frozenset()
    assert own_bridges_of(agreement(plan(NetworkMode.TRANSLATE))) == {BRIDGE}


async def test_nothing_is_done_for_joined_networks() -> None:
    network: PortNetwork = JoinedNetworks()
    await network.prepare(Side.INBOUND, agreement(None), {})
    network.guest_stands_still(PORT)
    network.guest_runs_on(PORT)
    network.guest_is_away(agreement(None))
    network.guest_is_expected(PORT)
    network.guest_has_arrived(agreement(None))
    assert await network.undo(PORT, Side.INBOUND) == ()
