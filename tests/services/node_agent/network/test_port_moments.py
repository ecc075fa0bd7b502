"""A port's moments: the VM's connections go over while it is paused, and only where the recipient routes to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.node_agent.lanes.core.errors import StreamError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.network.announcer import Announcer
from services.node_agent.network.journal import NetworkJournal
from services.node_agent.network.keeper import NetworkKeeper
from services.node_agent.network.parties import NetworkFailed
from services.node_agent.network.paths.exchange import PATHS
from services.node_agent.network.port_moments import PortMoments, carried_addresses
from services.node_agent.network.steps import Queue
from services.node_agent.network.tracking.taken import TakenConnections
from shared.messages.addresses import NetworkState
from shared.messages.network import FirewallRule, NetworkMode, NetworkPlan
from shared.messages.porting import ServiceChangeAgreement, Side
from shared.page_stream.bodies import StreamKind
from tests.services.node_agent.network.plans import BRIDGE, PORT, agreement, plan
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
        self.keeper = NetworkKeeper(journal, self.kernel, extensions=Wires(), report=self.report)
        self.sent: set[str] = set()
        self.probed: list[tuple[int, tuple[str, ...]]] = []
        self.findings: dict[Side, tuple[str, ...]] = {}
        self.of_path: list[tuple[str, ...]] = []
        self.stopped: list[tuple[str, str]] = []
        self.waited: list[str | None] = []
        self.moments = PortMoments(
            self.keeper,
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
        self.waited.append(self.moments.not_ready(PORT))
        return self.of_path.pop(0) if self.of_path else ()

    @property
    def ports(self) -> set[int]:
        return {key.source_port for key in self.table.there}


@asynccontextmanager
async def pair(
    tmp_path: Path, agreed: ServiceChangeAgreement = AGREED, *, findings: Sequence[tuple[str, ...]] = ()
) -> AsyncIterator[tuple[Node, Node]]:
    """A donor and a recipient; the donor's memory flows. `findings` of the path, probe by probe."""
    donor, recipient = Node(tmp_path / "a"), Node(tmp_path / "b")
    donor.of_path = list(findings)

    async def serve(stream: LaneStream) -> None:
        await recipient.moments.serve_stream(agreed, stream)

    donor.table.there = {connection(port).key: connection(port) for port in (1, 2)}
    async with lane(serve) as control:
        await donor.moments.prepare(Side.OUTBOUND, agreed, {})
        await recipient.moments.prepare(Side.INBOUND, agreed, {})
        donor.moments.memory_flows(agreed, control, lambda code, reason: donor.stopped.append((code, reason)))
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


async def test_connections_that_the_vms_firewall_would_not_let_in_are_not_taken(tmp_path: Path) -> None:
    """A donor may have made them up."""
    rules = (FirewallRule(direction="in", action="accept", protocol="udp"),)
    async with pair(tmp_path, agreement(plan(NetworkMode.TRANSLATE, firewall=rules))) as (donor, recipient):
        await eventually(lambda: donor.table.looked > 0)
        donor.moments.guest_stands_still(PORT)
        await eventually(lambda: donor.table.looked > 1)
        await asyncio.sleep(0.05)
        assert recipient.ports == set()


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
    node.findings[Side.INBOUND] = ("claims_everything: x", "bridge_netfilter: x")
    await node.moments.prepare(Side.INBOUND, agreement(plan(NetworkMode.JOINED)), {})
    assert node.told == [(NetworkState.PREPARED, "claims_everything: x; bridge_netfilter: x")]
    await node.moments.close()


@pytest.mark.parametrize("mode", [NetworkMode.JOINED, NetworkMode.EXTEND])
async def test_an_address_that_another_has_stops_the_port_before_anything_is_made(
    tmp_path: Path, mode: NetworkMode
) -> None:
    node = Node(tmp_path)
    node.findings[Side.INBOUND] = ("bridge_netfilter: x", "address_taken: 10.81.1.10")
    with pytest.raises(NetworkFailed, match=r"address_taken: 10\.81\.1\.10") as raised:
        await node.moments.prepare(Side.INBOUND, agreement(plan(mode)), {})
    assert raised.value.code == "address_taken"
    assert node.told == [(NetworkState.PREPARED, "bridge_netfilter: x; address_taken: 10.81.1.10")]
    assert node.keeper.records() == ()


FILTERED = "source_filtered: packets from 10.81.1.10 do not come"
NARROW = "path_black_hole: packets of more than 1400 bytes do not come"


async def test_a_filtered_source_stops_a_port_that_would_lose_its_answers(tmp_path: Path) -> None:
    """Before the guest is paused: that waits for the probes."""
    async with pair(tmp_path, findings=[(FILTERED,), (FILTERED, NARROW)]) as (donor, _):
        await eventually(lambda: donor.stopped == [("source_filtered", FILTERED)])
        await eventually(lambda: donor.moments.not_ready(PORT) is None)
    assert donor.waited == ["the path is being probed"] * 2
    assert (NetworkState.PREPARED, FILTERED) in donor.told


async def test_what_is_found_once_only_is_no_filter(tmp_path: Path) -> None:
    async with pair(tmp_path, findings=[(FILTERED,), ()]) as (donor, _):
        await eventually(lambda: len(donor.waited) == 2 and donor.moments.not_ready(PORT) is None)
    assert donor.stopped == []
    assert not [detail for _, detail in donor.told if detail.startswith("source")]


async def test_a_lane_carries_packets_of_any_size(tmp_path: Path) -> None:
    """While extended, a narrow path is told, and nobody waits for the probe."""
    async with pair(tmp_path, agreement(plan(NetworkMode.EXTEND)), findings=[(NARROW,)]) as (donor, _):
        await eventually(lambda: (NetworkState.PREPARED, NARROW) in donor.told)
    assert (donor.stopped, donor.waited) == ([], [None])


async def test_a_new_process_announces_a_guest_whose_port_it_brings_to_its_end(tmp_path: Path) -> None:
    """It has not prepared the port, and knows the plan by the agreement."""
    agreed = agreement(plan(NetworkMode.JOINED))
    node = Node(tmp_path)
    node.moments.resumed(Side.INBOUND, agreed)
    node.moments.guest_has_arrived(agreed)
    await eventually(lambda: node.sent == {"vmbr0"})
    await node.moments.close()


async def test_a_new_process_announces_a_guest_that_stays_at_the_donor(tmp_path: Path) -> None:
    agreed = agreement(plan(NetworkMode.JOINED))
    node = Node(tmp_path)
    node.moments.resumed(Side.OUTBOUND, agreed)
    await node.moments.undo(PORT, Side.OUTBOUND)
    await eventually(lambda: node.sent == {"vmbr0"})
    await node.moments.close()


async def test_a_new_process_announces_what_came_with_its_addresses(tmp_path: Path) -> None:
    """Once the keeper has everything again; not what is on its way, nor what has left."""
    agreed = agreement(plan(NetworkMode.EXTEND))
    first = Node(tmp_path)
    await first.moments.prepare(Side.INBOUND, agreed, {})
    again = Node(tmp_path)
    again.moments.restored()
    await asyncio.sleep(0.05)
    assert again.sent == set()
    first.keeper.guest_has_arrived(agreed)
    await eventually(lambda: first.keeper.records()[0].there)
    again.moments.restored()
    await eventually(lambda: again.sent == {BRIDGE})
    await first.moments.close()
    await again.moments.close()


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


@pytest.mark.parametrize("side", list(Side))
async def test_a_network_that_a_dead_process_has_not_brought_to_its_ports_end_is(tmp_path: Path, side: Side) -> None:
    """The transfer's end was stored, and the process died before the network's was."""
    former = Node(tmp_path)
    await former.moments.prepare(side, AGREED, {})
    again = Node(tmp_path)
    for _ in range(2):
        again.moments.ended(side, AGREED, moved=True)
        await eventually(lambda: bool(again.keeper.records()) and again.keeper.records()[0].carrying_told)
    assert [state for state, _ in again.told] == [NetworkState.CARRYING]
    again.moments.ended(side, AGREED, moved=False)
    if side is Side.OUTBOUND:  # a VM that has left needs what its port has made, whatever is told later
        await asyncio.sleep(0.02)
        assert len(again.keeper.records()) == 1
    else:
        await eventually(lambda: again.keeper.records() == ())
    assert [state for state, _ in again.told] == [NetworkState.CARRYING]
    await former.moments.close()
    await again.moments.close()


@pytest.mark.parametrize("side", list(Side))
async def test_a_network_that_a_dead_process_has_not_undone_is(tmp_path: Path, side: Side) -> None:
    former = Node(tmp_path)
    await former.moments.prepare(side, AGREED, {})
    again = Node(tmp_path)
    again.moments.ended(side, AGREED, moved=False)
    await eventually(lambda: again.keeper.records() == ())
    again.moments.ended(side, AGREED, moved=False)
    again.moments.ended(side, AGREED, moved=True)
    await asyncio.sleep(0.02)
    assert again.told == []
    await former.moments.close()
    await again.moments.close()
