"""The moments of a port, told to all that has to do with this host's network: keeper, connections, announcements.

What fails a port here is the keeper's `prepare`, and findings that `findings.refusing` names: of the recipient's host
before anything is made, of the path while the guest runs at the donor still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Protocol
from uuid import UUID

from services.node_agent.lanes.core.errors import LaneError, QuestionError, StreamError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.network.announcer import Announcer
from services.node_agent.network.findings import code_of, refusing
from services.node_agent.network.keeper import NetworkKeeper
from services.node_agent.network.parties import MovedVm, NetworkFailed, Report
from services.node_agent.network.paths.exchange import answer_paths, probe_paths
from services.node_agent.network.paths.sockets import own_addresses
from services.node_agent.network.plan import addresses_of, routed_at_once
from services.node_agent.network.preflight import preflight
from services.node_agent.network.tracking.admitted import admitted
from services.node_agent.network.tracking.exchange import (
    CONNECTIONS,
    Answer,
    receive_connections,
    send_connections,
)
from services.node_agent.network.tracking.taken import TakenConnections
from services.node_agent.network.tracking.values import Changes
from shared.logs import get_logger, port_bound
from shared.messages.addresses import NetworkState
from shared.messages.network import NetworkMode, NetworkPlan
from shared.messages.porting import ServiceChangeAgreement, Side
from shared.tasks import Tasks

log = get_logger(__name__)

MAX_DETAIL: Final = 500


Look = Callable[[NetworkPlan, Side], Awaitable[tuple[str, ...]]]
"""Looks at this host before a port; returns findings."""


Stop = Callable[[str, str], None]
"""Ends a transfer whose guest still runs at the donor, with a code and a reason; does nothing later."""


class SpeaksAgainst(NetworkFailed):
    """A finding refuses the port."""

    def __init__(self, finding: str) -> None:
        super().__init__(finding)
        self.code = code_of(finding)


class Probe(Protocol):
    """Probes the path from the recipient's node; `paths.exchange.probe_paths` is one."""

    async def __call__(
        self, control: LaneSession, own_addresses: Iterable[str], *, mtu: int, sources: Iterable[str]
    ) -> tuple[str, ...]: ...


def largest_mtu(plan: NetworkPlan | None) -> int:
    """Of the VM's cards."""
    return max((card.card.mtu for card in plan.cards), default=1500) if plan is not None else 1500


def sent_sources(plan: NetworkPlan | None) -> tuple[str, ...]:
    """By which addresses the guest's packets leave the recipient without a tunnel, at once."""
    if plan is None or not routed_at_once(plan):
        return ()
    return tuple(address for card in plan.cards for address in addresses_of(card.card))


def carried_addresses(plan: NetworkPlan | None) -> frozenset[str]:
    """The VM's addresses whose connections the recipient's kernel will track: none, where it does not route to the VM.

    What stays on layer 2 passes no tracking of this host's.
    """
    if plan is None or plan.terms.carry is NetworkMode.JOINED:
        return frozenset()
    if not routed_at_once(plan) and not plan.terms.then_announce:
        return frozenset()
    return frozenset(address for card in plan.cards for address in addresses_of(card.card))


class PortMoments:
    """As `transfers.port_network.PortNetwork`."""

    def __init__(
        self,
        keeper: NetworkKeeper,
        taken: TakenConnections,
        *,
        report: Report,
        announcer: Announcer | None = None,
        look: Look = preflight,
        probe: Probe = probe_paths,
    ) -> None:
        self._keeper = keeper
        self._taken = taken
        self._announcer = announcer or Announcer()
        self._look = look
        self._probe_paths = probe
        self._plans: dict[UUID, NetworkPlan] = {}
        self._probing = set[UUID]()
        self._stood_still = set[UUID]()
        self._report = report
        self._rounds: dict[UUID, asyncio.Queue[bool]] = {}
        self._tasks = Tasks("port moments")

    async def close(self) -> None:
        """End what still runs."""
        await self._tasks.close()
        await self._announcer.close()

    async def prepare(self, side: Side, agreement: ServiceChangeAgreement, taps: Mapping[str, str]) -> None:
        """As the keeper; raises `SpeaksAgainst`, too, before anything is made."""
        plan = agreement.network
        if plan is None:
            await self._keeper.prepare(side, agreement, taps)
            return
        found = await self._look(plan, side)
        if (against := refusing(found, plan)) is not None:
            self._tell(side, agreement, found)
            raise SpeaksAgainst(against)
        await self._keeper.prepare(side, agreement, taps)
        self._plans[agreement.port_id] = plan
        self._tell(side, agreement, found)

    def resumed(self, side: Side, agreement: ServiceChangeAgreement) -> None:
        """A former process has left the transfer half way. The guest may have been announced at either side."""
        if agreement.network is not None:
            self._plans[agreement.port_id] = agreement.network
            if side is Side.OUTBOUND:
                self._stood_still.add(agreement.port_id)

    def ended(self, side: Side, agreement: ServiceChangeAgreement, *, moved: bool) -> None:
        """A former process has brought the transfer to its end, and may not have brought its network there."""
        known = [each for each in self._keeper.records() if each.vm_uuid == agreement.vm_uuid]
        mine = next((each for each in known if (each.port_id, each.side) == (agreement.port_id, side)), None)
        if not moved:
            if mine is not None:
                self._tasks.spawn(self.undo(agreement.port_id, side), name="undo what is left")
        elif mine is not None and not mine.there and not mine.retired:
            (self.guest_has_arrived if side is Side.INBOUND else self.guest_is_away)(agreement)
        elif known:
            (self._keeper.guest_has_arrived if side is Side.INBOUND else self._keeper.guest_is_away)(agreement)

    def restored(self) -> None:
        """This process has begun: VMs that came with their addresses are announced again."""
        for record in self._keeper.records():
            if record.side is Side.INBOUND and record.there and not record.retired:
                self._announcer.announce(record.port_id, record.plan, Side.INBOUND)

    def _tell(self, side: Side, agreement: ServiceChangeAgreement, findings: tuple[str, ...]) -> None:
        for finding in findings:
            log.warning("network finding", side=side, reason=finding)
        if findings:
            self._report(agreement, NetworkState.PREPARED, "; ".join(findings)[:MAX_DETAIL])

    def memory_flows(self, agreement: ServiceChangeAgreement, control: LaneSession, stop: Stop) -> None:
        """Donor: the switchover may come at any moment. Sends the VM's connections, beside the memory; has the path
        probed, and ends the transfer where that speaks against it.
        """
        plan = agreement.network
        if plan is not None and plan.terms.carry is not NetworkMode.JOINED and agreement.port_id not in self._probing:
            self._probing.add(agreement.port_id)
            self._tasks.spawn(self._probe(agreement, plan, control, stop), name="probe the path")
        if (addresses := carried_addresses(agreement.network)) and agreement.port_id not in self._rounds:
            self._rounds[agreement.port_id] = asyncio.Queue()
            self._tasks.spawn(self._send(agreement, control, addresses), name="send connections")

    def not_ready(self, port_id: UUID) -> str | None:
        """Donor: why the guest must not be paused yet: what is found of the path could still stop the port."""
        plan = self._plans.get(port_id)
        probing = port_id in self._probing and plan is not None and routed_at_once(plan)
        return "the path is being probed" if probing else None

    async def _probe(
        self, agreement: ServiceChangeAgreement, plan: NetworkPlan, control: LaneSession, stop: Stop
    ) -> None:
        with port_bound(agreement.port_id):
            try:
                found = await self._probed(agreement, plan, control)
                if refusing(found, plan) is not None:
                    # A burst of loss is no filter: only what is found twice stops the port.
                    again = await self._probed(agreement, plan, control)
                    found = tuple(each for each in found if each in again)
                self._tell(Side.OUTBOUND, agreement, found)
                if (against := refusing(found, plan)) is not None:
                    stop(code_of(against), against)
            finally:
                self._probing.discard(agreement.port_id)

    async def _probed(
        self, agreement: ServiceChangeAgreement, plan: NetworkPlan, control: LaneSession
    ) -> tuple[str, ...]:
        here = own_addresses(agreement.donor_lane.direct, agreement.recipient_lane.direct)
        return await self._probe_paths(control, here, mtu=largest_mtu(plan), sources=sent_sources(plan))

    async def _send(self, agreement: ServiceChangeAgreement, control: LaneSession, addresses: frozenset[str]) -> None:
        with port_bound(agreement.port_id):
            try:
                rounds = self._rounds[agreement.port_id]
                for finding in await send_connections(control, lambda: self._taken.read(addresses), rounds.get):
                    log.warning("connections left behind", reason=finding)
            finally:
                del self._rounds[agreement.port_id]

    def _round(self, port_id: UUID, *, more: bool) -> None:
        if (rounds := self._rounds.get(port_id)) is not None and (not more or rounds.empty()):
            rounds.put_nowait(more)

    async def serve_stream(self, agreement: ServiceChangeAgreement, stream: LaneStream) -> None:
        """Recipient: take the VM's connections, or send probes of the path. What fails is told, and all."""
        if stream.label == CONNECTIONS:
            await self._take_connections(agreement, stream)
            return
        try:
            await answer_paths(stream, mtu=largest_mtu(agreement.network), sources=sent_sources(agreement.network))
        except (QuestionError, LaneError, StreamError) as error:
            log.warning("path not probed", error=str(error))
            stream.reset(str(error))

    async def _take_connections(self, agreement: ServiceChangeAgreement, stream: LaneStream) -> None:
        port_id, plan, addresses = agreement.port_id, agreement.network, carried_addresses(agreement.network)
        if not addresses or plan is None:
            stream.reset("this node does not route to the VM")
            return

        async def take(changed: Changes) -> Answer:
            passing = admitted(plan, changed.connections)
            answer = await self._taken.take(port_id, addresses, changed._replace(connections=passing))
            shut_out = len(changed.connections) - len(passing)
            answer = answer.model_copy(update={"refused": answer.refused + shut_out})
            if answer.problem:
                detail = f"connections not carried: {answer.problem}"[:MAX_DETAIL]
                self._report(agreement, NetworkState.PREPARED, detail)
            return answer

        try:
            await receive_connections(stream, take)
        except (QuestionError, LaneError, StreamError) as error:
            log.warning("connections not taken", error=str(error))
            stream.reset(str(error))

    def guest_stands_still(self, port_id: UUID) -> None:
        """As the keeper."""
        self._round(port_id, more=True)
        self._stood_still.add(port_id)
        self._keeper.guest_stands_still(port_id)

    def guest_runs_on(self, port_id: UUID) -> None:
        """As the keeper; the guest itself does not know that the recipient may have announced it already."""
        self._keeper.guest_runs_on(port_id)
        plan = self._plans.get(port_id)
        if plan is not None and port_id in self._stood_still:
            self._announcer.announce(port_id, plan, Side.OUTBOUND)
            self._stood_still.discard(port_id)

    def guest_is_expected(self, port_id: UUID) -> None:
        """As the keeper."""
        self._keeper.guest_is_expected(port_id)

    def guest_is_away(self, moved: MovedVm) -> None:
        """As the keeper."""
        self._round(moved.port_id, more=False)
        self._keeper.guest_is_away(moved)
        self._forget(moved.port_id)

    def guest_has_arrived(self, moved: MovedVm) -> None:
        """As the keeper; the guest is announced, and its connections stay."""
        port_id = moved.port_id
        self._keeper.guest_has_arrived(moved)
        if (plan := moved.network) is not None:
            self._announcer.announce(port_id, plan, Side.INBOUND)
        self._forget(port_id)
        try:
            self._taken.keep(port_id)
        except OSError as error:
            log.warning("list of connections not removed", error=str(error))

    async def undo(self, port_id: UUID, side: Side) -> tuple[str, ...]:
        """As the keeper; what was inserted of the VM's connections goes, too."""
        self._round(port_id, more=False)
        left = await self._keeper.undo(port_id, side)
        plan = self._plans.get(port_id)
        if side is Side.OUTBOUND and plan is not None and port_id in self._stood_still:
            # The recipient may have announced it already.
            self._announcer.announce(port_id, plan, side)
        self._forget(port_id)
        return left if side is Side.OUTBOUND else (*left, *await self._taken.undo(port_id))

    def _forget(self, port_id: UUID) -> None:
        self._plans.pop(port_id, None)
        self._stood_still.discard(port_id)
