"""What transfers ask of a host's network: the bridges of cards, and nothing where networks are joined."""

from __future__ import annotations

from services.node_agent.transfers.port_network import JoinedNetworks, PortNetwork, own_bridges_of
from shared.messages.network import NetworkMode
from shared.messages.porting import Side
from tests.services.node_agent.network.plans import BRIDGE, PORT, agreement, plan


def test_own_bridges_are_those_that_the_node_makes() -> None:
    assert own_bridges_of(agreement(None)) == own_bridges_of(agreement(plan(NetworkMode.JOINED))) == frozenset()
    assert own_bridges_of(agreement(plan(NetworkMode.TRANSLATE))) == {BRIDGE}


async def test_nothing_is_done_for_joined_networks() -> None:
    network: PortNetwork = JoinedNetworks()
    await network.prepare(Side.INBOUND, agreement(None), {})
    network.guest_stands_still(PORT)
    network.guest_runs_on(PORT)
    network.guest_is_away(agreement(None))
    network.guest_has_arrived(agreement(None))
    assert await network.undo(PORT, Side.INBOUND) == ()
