"""The factory: the node's settings reach the transfers that it builds."""

from __future__ import annotations

from services.node_agent.state.journal import PortRecord, TransferJournal
from services.node_agent.switchover.outage_probe import ArpProbe, NoProbe
from services.node_agent.transfers.factory import TransferFactory
from services.node_agent.transfers.reporting import OutboundReports, TransferReports
from shared.messages.porting import Side
from shared.topology import Lane
from tests.support.node_world import NodeUnderTest, World


def factory(node: NodeUnderTest, **settings: object) -> TransferFactory:
    """A node's factory, with other settings."""
    return TransferFactory(
        node.settings.model_copy(update=settings),
        hypervisor=node.hypervisor,
        routes=node.world.routes,
        keys=node.keys,
        contents=node.transfers._contents,
    )


def journal(node: NodeUnderTest, side: Side) -> TransferJournal:
    """A new transfer's journal."""
    return TransferJournal(node.journal, PortRecord(side=side, agreement=node.world.agreement))


async def test_an_outbound_transfer_has_the_nodes_settings(world: World) -> None:
    """Times, window sizes, run directory; the probe only where it is wanted."""
    node = world.alpha
    reporter = OutboundReports(TransferReports(node.messenger, node.metrics), world.agreement.port_id)
    for wanted, probe in ((True, ArpProbe), (False, NoProbe)):
        made = factory(node, peer_ready_within_s=7.0, outage_probe=wanted, memory_window_bytes=3 << 20)
        built = await made.outbound(journal(node, Side.OUTBOUND), broker=world.ledger.client(), reporter=reporter)
        assert isinstance(built.transfer._outage, probe)
        assert built.transfer._tuning.ready_within_s == 7.0
        assert built.transfer._sockets.directory == node.settings.run_dir / str(world.agreement.port_id)
        assert built.lanes.session(Lane.MEMORY)._protocol.settings.window_bytes == 3 << 20
        await built.lanes.close(flush_s=0.0)


async def test_an_inbound_transfer_may_make_disks_only_in_the_image_directory(world: World) -> None:
    """Of this node's settings, as libvirt's socket."""
    node = world.beta
    built = await factory(node).inbound(journal(node, Side.INBOUND), broker=world.ledger.client())
    assert built.transfer._disks._image_dir == node.settings.image_dir
    assert built.transfer._tuning.libvirt_socket == node.settings.libvirt_socket
    await built.lanes.close(flush_s=0.0)
