"""A port's moments: the VM's connections go over while it is paused, and only where the recipient routes to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.node_agent.lanes.core.errors import StreamError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.network.announcer import Announcer
from services.node_agent.network.journal import NetworkJournal
from services.node_agent.network.keeper import NetworkKeeper
from services.node_agent.network.paths.exchange import PATHS
from services.node_agent.network.port_moments import PortMoments, carried_addresses
from services.node_agent.network.steps import Queue
from services.node_agent.network.tracking.taken import TakenConnections
from shared.messages.addresses import NetworkState
from shared.messages.network import NetworkMode, NetworkPlan
from shared.messages.porting import ServiceChangeAgreement, Side
from shared.page_stream.bodies import StreamKind
from tests.services.node_agent.network.plans import PORT, agreement, plan
from tests.services.node_agent.network.test_keeper import Kernel, Wires
from tests.services.node_agent.network.tracking.test_exchange import connection
from tests.services.node_agent.network.tracking.test_taken import FakeTable
from tests.support.control_lane import lane
from tests.support.extension_pair import eventually

ADDRESSES = frozenset({"10.81.1.10", "fd00:81:1::10"})
AGREED = agreement(plan(NetworkMode.TRANSLATE))


class Node:
    """One side."""

    def __init__(self, directory: Path) -> None:
        self.told: list[tuple[NetworkState, str]] = []
        self.table = FakeTable()
        journal = NetworkJournal(directory / "network")
        self.kernel = Kernel()
        keeper = NetworkKeeper(journal, self.kernel, extensions=Wires(), report=self.report)
        self.sent: set[str] = set()
        self.probed: list[tuple[int, tuple[str, ...]]] = []
        self.findings: dict[Side, tuple[str, ...]] = {}
        self.moments = PortMoments(
            keeper,
            TakenConnections(directory / "network", self.table),
            report=self.report,
            look=self.look,
            probe=self.probe,
            announcer=Announcer(lambda device, _: self.sent.add(device), delays_s=(0,)),
        )

    def report(self, agreement: ServiceChangeAgreement, state: NetworkState, detail: str = "") -> None:
        assert agreement.port_id == PORT
        self.told.append((state, detail))

    async def look(self, network: NetworkPlan, side: Side) -> tuple[str, ...]:
        assert network.cards
        return self.findings.get(side, ())

    async def probe(
        self, control: LaneSession, own_addresses: Iterable[str], *, mtu: int, sources: Iterable[str]
    ) -> tuple[str, ...]:
        assert control is not None
        assert own_addresses is not None
        self.probed.append((mtu, tuple(sources)))
        return self.findings.get(Side.OUTBOUND, ())

    @property
    def ports(self) -> set[int]:
        return {key.source_port for key in self.table.there}


@asynccontextmanager
async def pair(tmp_path: Path, agreed: ServiceChangeAgreement = AGREED) -> AsyncIterator[tuple[Node, Node]]:
    """A donor and a recipient; the donor's memory flows."""
    donor, recipient = Node(tmp_path / "a"), Node(tmp_path / "b")

    async def serve(stream: LaneStream) -> None:
        await recipient.moments.serve_stream(agreed, stream)

    donor.table.there = {connection(port).key: connection(port) for port in (1, 2)}
    async with lane(serve) as control:
        await donor.moments.prepare(Side.OUTBOUND, agreed, {})
        await recipient.moments.prepare(Side.INBOUND, agreed, {})
        donor.moments.memory_flows(agreed, control)
        yield donor, recipient
        await donor.moments.close()
        await recipient.moments.close()


async def until(node: Node, ports: set[int]) -> None:
    await eventually(lambda: node.ports == ports)


async def test_connections_go_over_before_and_at_the_pause(tmp_path: Path) -> None:
    """What has ended meanwhile is removed, what is new comes; they stay when the guest has arrived."""
    async with pair(tmp_path) as (donor, recipient):
        await until(recipient, {1, 2})
        del donor.table.there[connection(1).key]
        donor.table.there[connection(3).key] = connection(3)
        donor.moments.guest_stands_still(PORT)
        await until(recipient, {2, 3})
        donor.moments.guest_runs_on(PORT)
        del donor.table.there[connection(2).key]
        donor.moments.guest_stands_still(PORT)
        await until(recipient, {3})
        recipient.moments.guest_has_arrived(AGREED)
        donor.moments.guest_is_away(AGREED)
        await recipient.moments.undo(PORT, Side.INBOUND)
        assert recipient.ports == {3}


async def test_undone_where_the_guest_does_not_come(tmp_path: Path) -> None:
    async with pair(tmp_path) as (donor, recipient):
        await until(recipient, {1, 2})
        assert await recipient.moments.undo(PORT, Side.INBOUND) == ()
        assert await donor.moments.undo(PORT, Side.OUTBOUND) == ()
        assert recipient.ports == set()
        assert donor.ports == {1, 2}


async def test_a_recipient_that_cannot_says_so(tmp_path: Path) -> None:
    """The port goes on."""
    async with pair(tmp_path) as (_, recipient):
        recipient.table.problem = "no permission"
        expected = (NetworkState.PREPARED, "connections not carried: no permission")
        await eventually(lambda: expected in recipient.told)


@pytest.mark.parametrize(
    ("mode", "announce", "addresses"),
    [
        (NetworkMode.JOINED, False, frozenset()),
        (NetworkMode.EXTEND, False, frozenset()),
        (NetworkMode.EXTEND, True, ADDRESSES),
        (NetworkMode.TRANSLATE, False, ADDRESSES),
        (NetworkMode.ANCHOR, True, ADDRESSES),
    ],
)
def test_only_where_the_recipient_routes(mode: NetworkMode, *, announce: bool, addresses: frozenset[str]) -> None:
    assert carried_addresses(plan(mode, announce=announce)) == addresses
    assert carried_addresses(None) == frozenset()


async def test_a_donor_that_sends_them_all_the_same_is_refused(tmp_path: Path) -> None:
    recipient = Node(tmp_path)

    async def serve(stream: LaneStream) -> None:
        await recipient.moments.serve_stream(agreement(plan(NetworkMode.EXTEND)), stream)

    async with lane(serve) as control:
        stream = control.open_stream(StreamKind.CONTROL, "connections")
        with pytest.raises(StreamError, match="does not route"):
            await stream.read()


async def test_an_arrived_guest_is_announced(tmp_path: Path) -> None:
    """Also where the networks are one."""
    node, agreed = Node(tmp_path), agreement(plan(NetworkMode.JOINED))
    await node.moments.prepare(Side.INBOUND, agreed, {})
    node.moments.guest_has_arrived(agreed)
    await eventually(lambda: node.sent == {"vmbr0"})
    await node.moments.close()


@pytest.mark.parametrize("stood_still", [True, False])
async def test_a_guest_that_stays_is_announced_at_the_donor(tmp_path: Path, *, stood_still: bool) -> None:
    """Only where it may have run at the recipient meanwhile."""
    node, agreed = Node(tmp_path), agreement(plan(NetworkMode.JOINED))
    await node.moments.prepare(Side.OUTBOUND, agreed, {})
    if stood_still:
        node.moments.guest_stands_still(PORT)
    await node.moments.undo(PORT, Side.OUTBOUND)
    await node.moments.undo(PORT, Side.OUTBOUND)
    await asyncio.sleep(0.05)
    assert node.sent == ({"vmbr0"} if stood_still else set())
    await node.moments.close()


@pytest.mark.parametrize("stood_still", [True, False])
async def test_a_guest_that_runs_on_is_announced_at_once(tmp_path: Path, *, stood_still: bool) -> None:
    """Its hypervisor says nothing then, and its network may have heard of the recipient."""
    node, agreed = Node(tmp_path), agreement(plan(NetworkMode.EXTEND))
    await node.moments.prepare(Side.OUTBOUND, agreed, {})
    if stood_still:
        node.moments.guest_stands_still(PORT)
    node.moments.guest_runs_on(PORT)
    await asyncio.sleep(0.05)
    assert node.sent == ({"vmbr0"} if stood_still else set())
    await node.moments.close()


async def test_a_guest_is_expected_by_the_keeper(tmp_path: Path) -> None:
    node = Node(tmp_path)
    await node.moments.prepare(Side.INBOUND, AGREED, {})
    node.moments.guest_is_expected(PORT)
    await eventually(lambda: any(isinstance(step, Queue) for step in node.kernel.made))
    await node.moments.close()


async def test_findings_are_told_with_the_state(tmp_path: Path) -> None:
    """Beside the port, which goes on."""
    node = Node(tmp_path)
    node.findings[Side.INBOUND] = ("address_taken: 10.81.1.10", "bridge_netfilter: x")
    await node.moments.prepare(Side.INBOUND, agreement(plan(NetworkMode.JOINED)), {})
    expected = (NetworkState.PREPARED, "address_taken: 10.81.1.10; bridge_netfilter: x")
    await eventually(lambda: node.told == [expected])
    await node.moments.close()


@pytest.mark.parametrize("mode", [NetworkMode.TRANSLATE, NetworkMode.EXTEND])
async def test_the_path_is_probed_by_the_sources_that_will_be_sent(tmp_path: Path, mode: NetworkMode) -> None:
    """While extended, the guest's packets leave by the donor."""
    async with pair(tmp_path, agreement(plan(mode))) as (donor, _):
        await eventually(lambda: bool(donor.probed))
    ((mtu, sources),) = donor.probed
    assert (mtu, frozenset(sources)) == (1500, ADDRESSES if mode is NetworkMode.TRANSLATE else frozenset())


async def test_a_question_about_the_path_is_answered(tmp_path: Path) -> None:
    """One that is none is a reset, and no failure."""
    recipient = Node(tmp_path)

    async def serve(stream: LaneStream) -> None:
        await recipient.moments.serve_stream(AGREED, stream)

    async with lane(serve) as control:
        stream = control.open_stream(StreamKind.CONTROL, PATHS)
        await stream.write(b'{"nonce": "0123456789abcdef", "targets": []}')
        assert await stream.read() == b"sent"
    async with lane(serve) as control:
        stream = control.open_stream(StreamKind.CONTROL, PATHS)
        await stream.write(b"?")
        with pytest.raises(StreamError, match="cannot be read"):
            await stream.read()
