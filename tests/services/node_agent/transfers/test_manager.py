"""The manager of transfers: one at a time per port, stopped in order, its end counted. The whole of a port's life is
in `test_service`.
"""

from __future__ import annotations

import asyncio

import pytest
import structlog

from services.node_agent.lanes.endpoint import LaneEnd
from services.node_agent.transfers.port_lanes import PortLink
from services.node_agent.transfers.port_network import JoinedNetworks
from shared.messages.porting import (
    AbortTransfer,
    InboundFinished,
    OutboundFinished,
    OutboundStarted,
    ServiceChangeAgreement,
    Side,
    TransferAborted,
    TransferFailed,
)
from shared.parties import donor, recipient
from shared.topology import Lane
from tests.support.node_world import BETA, World

DONOR, RECIPIENT = donor("alpha"), recipient("beta")


def ended(world: World, direction: str, outcome: str) -> float:
    """How many transfers of alpha ended so."""
    metric = world.alpha.metrics.transfers_total.labels(direction, outcome)
    value: float = metric._value.get()
    return value


async def test_an_active_transfer_is_known_until_it_ends(world: World) -> None:
    """By its port; then it is counted, and gone."""
    port_id = world.agreement.port_id
    world.alpha.hypervisor.memory_flows.clear()
    await world.start_port()
    await world.hear(DONOR, OutboundStarted)
    assert world.alpha.transfers.ports() == (port_id,)
    assert world.alpha.transfers.problems() == ()
    world.alpha.hypervisor.memory_flows.set()
    await world.hear(DONOR, OutboundFinished)
    await world.over(world.alpha)
    assert world.alpha.transfers.active(port_id) is None
    assert world.alpha.transfers.ports() == ()
    assert ended(world, "outbound", "finished") == 1


async def test_a_repeated_start_is_answered_by_how_far_it_is(world: World) -> None:
    """No second transfer of the port begins."""
    world.alpha.hypervisor.memory_flows.clear()
    await world.start_port()
    await world.hear(DONOR, OutboundStarted)
    active = world.alpha.transfers.active(world.agreement.port_id)
    world.alpha.transfers.start(Side.OUTBOUND, world.agreement)
    await world.hear(DONOR, OutboundStarted, count=2)
    assert world.alpha.transfers.active(world.agreement.port_id) is active
    world.alpha.hypervisor.memory_flows.set()
    await world.hear(DONOR, OutboundFinished)


async def test_a_stopping_node_ends_its_transfers_in_order(world: World) -> None:
    """The failure is reported, and the guest runs on."""
    world.alpha.hypervisor.memory_flows.clear()
    await world.start_port()
    await world.hear(DONOR, OutboundStarted)
    await world.alpha.transfers.stop(10.0)
    failed = await world.hear(DONOR, TransferFailed)
    assert (failed.code, failed.guest_running) == ("cancelled", True)
    assert ended(world, "outbound", "failed") == 1


async def test_an_abort_before_anything_can_be_stopped_is_obeyed(world: World) -> None:
    """The transfer has begun, but is not built yet."""
    world.beta.transfers.start(Side.INBOUND, world.agreement)
    world.beta.transfers.abort(AbortTransfer(port_id=world.agreement.port_id, side=Side.INBOUND, reason="x"))
    aborted = await world.hear(RECIPIENT, TransferAborted)
    assert (aborted.guest_running, aborted.left_overs) == (False, ())
    assert list(world.beta.settings.image_dir.iterdir()) == []


class _BrokenRoutes:
    """Routes that cannot be made: a defect."""

    async def link(self, end: LaneEnd, lane: Lane) -> PortLink:
        raise RuntimeError(f"no route for {end.port_id} {lane}")


async def test_a_defect_is_reported_as_a_failure(world: World) -> None:
    """The broker must hear of it; the guest was not touched."""
    world.alpha.transfers._factory._routes = _BrokenRoutes()  # type: ignore[assignment]  # only `link` is called
    world.alpha.transfers.start(Side.OUTBOUND, world.agreement)
    failed = await world.hear(DONOR, TransferFailed)
    assert (failed.side, failed.code, failed.guest_running) == (Side.OUTBOUND, "internal_error", True)
    assert "RuntimeError: no route" in failed.detail


async def test_a_provisioned_guest_needs_no_record(world: World) -> None:
    """After the transfer's end at once; during it, when it ends."""
    await world.start_port()
    await world.hear(RECIPIENT, InboundFinished)
    world.beta.transfers.provisioned(world.agreement.port_id)
    await world.over(world.beta)
    async with asyncio.timeout(5):
        while world.beta.journal.get(world.agreement.port_id, Side.INBOUND) is not None:  # noqa: ASYNC110  # a file
            await asyncio.sleep(0.01)
    assert world.beta.party == BETA


class Ended(JoinedNetworks):
    """Which transfers a former process has ended."""

    def __init__(self) -> None:
        self.heard: set[tuple[Side, bool]] = set()

    def ended(self, side: Side, agreement: ServiceChangeAgreement, *, moved: bool) -> None:  # noqa: ARG002
        self.heard.add((side, moved))


async def test_a_new_process_has_the_network_of_ended_transfers_brought_to_their_end(world: World) -> None:
    """The former one may have stored the transfer's end, and died before it had changed the network."""
    await world.start_port()
    await world.hear(RECIPIENT, InboundFinished)
    await world.over(world.alpha)
    await world.over(world.beta)
    for node, side in ((world.alpha, Side.OUTBOUND), (world.beta, Side.INBOUND)):
        node.transfers._network = network = Ended()
        node.transfers.recover()
        assert network.heard == {(side, True)}


async def test_the_sweep_after_a_port_logs_nothing_about_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task begins in the context of the port that ended; a search by the port's id must not find its lines."""
    bound: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    async def sweep(_: object) -> None:
        bound.put_nowait(dict(structlog.contextvars.get_contextvars()))

    monkeypatch.setattr(world.alpha.transfers._contents, "sweep", sweep)
    await world.start_port()
    await world.hear(DONOR, OutboundFinished)
    async with asyncio.timeout(10):
        assert await bound.get() == {}
