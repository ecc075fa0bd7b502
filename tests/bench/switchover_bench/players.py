"""Plays tenants, a donor, recipients and their nodes over real AMQP, and answers the broker at once.

Ports are kept in flight: when one ends, the next is asked for. A port's transfer lasts `Play.transfer_s`; meanwhile the
donor's node reports progress once a second, and both nodes ask now and then whether the broker could commit. Then the
donor's node says that the guest is paused, and the recipient's node asks for the switchover, both at the same instant.
The grant's time is from there to the arrival of SwitchoverGranted: the guest stands still meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self
from uuid import UUID, uuid4

from shared.messages import Message
from shared.messages.approval import DonorApproved
from shared.messages.porting import (
    GuestPaused,
    InboundFinished,
    InboundOpened,
    OutboundFinished,
    OutboundStarted,
    QuerySwitchover,
    RequestSwitchover,
    Reserved,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.queries import ListProviders
from shared.messages.service_change import PortRequested
from shared.parties import BROKER, Party, donor, node, recipient, tenant
from shared.tasks import Tasks
from shared.topology import exchange_for
from tests.bench.switchover_bench import words
from tests.bench.switchover_bench.peers import Heard, Peer
from tests.support.rabbitmq_node import RabbitNode

RECIPIENTS = ("beta", "gamma", "delta", "epsilon", "zeta")
TENANTS = tuple(f"t{index}" for index in range(10))
DONOR, DONOR_NODE = donor("alpha"), node("alpha", "alpha-1")
CAPACITY_EVERY_S = 30.0
PROGRESS_EVERY_S = 1.0
READY_EVERY_S = 3.0
LAG_EVERY_S = 0.02
BAD_ENDS = frozenset({"PortRefused", "PortFailed", "PortCancelled", "SwitchoverDenied"})


def node_of(provider: str) -> Party:
    """The provider's only node."""
    return node(provider, f"{provider}-1")


def everybody() -> list[Party]:
    """All parties that RabbitMQ must know."""
    others = [party for name in RECIPIENTS for party in (recipient(name), node_of(name))]
    return [BROKER, DONOR, DONOR_NODE, *others, *(tenant(name) for name in TENANTS)]


@dataclass(frozen=True, slots=True)
class Play:
    """What is played."""

    in_flight: int
    transfer_s: float
    vms: int


@dataclass
class Seen:
    """What was measured since the last `reset`. Times are in milliseconds."""

    grants_ms: list[float] = field(default_factory=list)
    lag_ms: list[float] = field(default_factory=list)
    """How late this process itself was: a floor under every figure."""
    ends: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class _Port:
    port_id: UUID
    vm: UUID
    tenant: str
    winner: str
    asked_s: float = 0.0
    heard: set[tuple[Party, str]] = field(default_factory=set)


class Players:
    """Use as ``async with Players(...) as players``; `keep_in_flight` plays, `seen` holds the figures."""

    def __init__(self, rabbit: RabbitNode, play: Play, *, seed: int = 1) -> None:
        self._play = play
        self._random = random.Random(seed)  # noqa: S311  # a play, no secret
        self._tasks = Tasks("players")
        self._peers = {
            party: Peer(party, rabbit.settings(party).url.get_secret_value(), self._heard)
            for party in everybody()
            if party != BROKER
        }
        self._phrases: dict[tuple[Party, type[Message]], words.Phrase] = {}
        self._progress = [words.Phrase(DONOR_NODE, words.progressed(percent)) for percent in range(100)]
        self._offers = {
            (name, wins): words.Phrase(recipient(name), words.offered(name, "5.00" if wins else "9.00"))
            for name in RECIPIENTS
            for wins in (True, False)
        }
        self._ports: dict[UUID, _Port] = {}
        self._vms: deque[tuple[UUID, str]] = deque()
        self._number = 0
        self._open = False
        self._ended = asyncio.Event()
        self._known = asyncio.Event()
        self.seen = Seen()
        self._learn()

    async def __aenter__(self) -> Self:
        for peer in self._peers.values():
            await peer.connect(self._tasks)
        self._tasks.spawn(self._measure_lag(), name="lag")
        self._tasks.spawn(self._report_capacity(), name="capacity")
        fresh = [(uuid4(), TENANTS[index % len(TENANTS)]) for index in range(self._play.vms)]
        self._peers[DONOR].report(*words.sealed_now(DONOR, words.inventory(fresh, DONOR_NODE.node)))
        self._vms.extend(fresh)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._open = False
        await self._tasks.close()
        for peer in self._peers.values():
            await peer.close()

    def reset(self) -> None:
        """Forget what was measured; ports go on."""
        self.seen = Seen()

    async def until_known(self) -> None:
        """Return once the broker knows the donor's VMs and all recipients."""
        asker = tenant(TENANTS[0])
        while not self._known.is_set():
            self._peers[asker].report(*words.sealed_now(asker, ListProviders()))
            await asyncio.sleep(0.5)

    def begin(self) -> None:
        """Ask for as many ports as are to be in flight; from now on each that ends is replaced."""
        self._open = True
        while len(self._ports) < self._play.in_flight:
            self._ask()

    async def until_ended(self, count: int) -> None:
        """Return once so many ports have ended since the last `reset`; the caller bounds the wait."""
        while self.seen.ends.total() < count:
            self._ended.clear()
            await self._ended.wait()

    # ---- what is said -------------------------------------------------------------------------------------------

    def _learn(self) -> None:
        """Seal what everybody says."""
        for name in TENANTS:
            self._add(tenant(name), words.port_requested(DONOR.owner))
        self._add(DONOR, words.approved(DONOR_NODE.node))
        self._add(DONOR, OutboundStarted(port_id=words.PORT))
        figures = {"downtime_ms": 120, "total_ms": 20_000, "memory_bytes": 5, "disk_bytes": 6, "wire_bytes": 7}
        self._add(DONOR, OutboundFinished(port_id=words.PORT, **figures))
        self._add(DONOR, VmDisconnected(port_id=words.PORT))
        self._add(DONOR_NODE, GuestPaused(port_id=words.PORT, vm_uuid=words.VM, epoch=2))
        self._add(DONOR_NODE, QuerySwitchover(port_id=words.PORT))
        for name in RECIPIENTS:
            agent, host = recipient(name), node_of(name)
            self._add(agent, words.reserved(host.node))
            self._add(agent, InboundOpened(port_id=words.PORT))
            self._add(agent, InboundFinished(port_id=words.PORT, epoch=2))
            self._add(agent, VmProvisioned(port_id=words.PORT))
            self._add(host, RequestSwitchover(port_id=words.PORT, vm_uuid=words.VM, epoch=2))
            self._add(host, QuerySwitchover(port_id=words.PORT))

    def _add(self, party: Party, message: Message) -> None:
        self._phrases[party, type(message)] = words.Phrase(party, message)

    def _say(self, port: _Port, party: Party, kind: type[Message]) -> None:
        self._utter(port, self._phrases[party, kind])

    def _utter(self, port: _Port, phrase: words.Phrase) -> None:
        message_id = uuid4()
        body = phrase.body(port.port_id, port.vm, message_id, datetime.now(UTC))
        self.seen.said[phrase.kind.__name__] += 1
        exchange = exchange_for(BROKER, phrase.kind)
        self._peers[phrase.sender].say(phrase.type, body, message_id=message_id, port=port.port_id, exchange=exchange)

    def _ask(self) -> None:
        vm, owner = self._vms.popleft()
        self._number += 1
        port = _Port(uuid4(), vm, owner, RECIPIENTS[self._number % len(RECIPIENTS)])
        self._ports[port.port_id] = port
        self._say(port, tenant(owner), PortRequested)

    # ---- what is heard ------------------------------------------------------------------------------------------

    def _heard(self, heard: Heard) -> None:
        if heard.kind == "ProvidersListed" and all(name.encode() in heard.body for name in (*RECIPIENTS, DONOR.owner)):
            self._known.set()
        port = self._ports.get(heard.port) if heard.port is not None else None
        if port is None:
            return
        again = (heard.to, heard.kind) in port.heard
        port.heard.add((heard.to, heard.kind))
        if not again:
            self._answer(port, heard)

    def _answer(self, port: _Port, heard: Heard) -> None:
        me = heard.to
        match heard.kind:
            case "ApprovalRequested":
                self._say(port, DONOR, DonorApproved)
            case "QuoteRequested":
                self._utter(port, self._offers[me.owner, me.owner == port.winner])
            case "ReservationRequested":
                port.winner = me.owner
                self._say(port, me, Reserved)
            case "OpenInbound":
                self._say(port, me, InboundOpened)
            case "StartOutbound":
                self._say(port, DONOR, OutboundStarted)
                self._tasks.spawn(self._transfer(port), name="transfer")
            case "SwitchoverGranted":
                self.seen.grants_ms.append((time.perf_counter() - port.asked_s) * 1000)
                self._say(port, recipient(port.winner), InboundFinished)
                self._say(port, DONOR, OutboundFinished)
            case "DisconnectVm":
                self._say(port, DONOR, VmDisconnected)
            case "ProvisionVm":
                self._say(port, me, VmProvisioned)
            case "PortCompleted" if me == tenant(port.tenant):
                self._end(port, "completed")
            case bad if bad in BAD_ENDS:
                about = heard.body.partition(b'"data":')[2][50:350]
                self.seen.problems[f"{bad}: {about.decode(errors='replace')}"] += 1
                self._end(port, bad)

    def _end(self, port: _Port, how: str) -> None:
        if self._ports.pop(port.port_id, None) is None:
            return
        self.seen.ends[how] += 1
        self._ended.set()
        if self._open:
            self._ask()

    async def _transfer(self, port: _Port) -> None:
        """The transfer, with its ordinary traffic; then the switchover."""
        began_s = time.perf_counter()
        over_s = began_s + self._play.transfer_s * self._random.uniform(0.75, 1.25)
        ready_s = began_s + READY_EVERY_S * self._random.random()
        await asyncio.sleep(PROGRESS_EVERY_S * self._random.random())
        while (now_s := time.perf_counter()) < over_s:
            percent = min(99, int(100 * (now_s - began_s) / self._play.transfer_s))
            self._utter(port, self._progress[percent])
            if now_s >= ready_s:
                ready_s += READY_EVERY_S
                self._say(port, DONOR_NODE, QuerySwitchover)
                self._say(port, node_of(port.winner), QuerySwitchover)
            await asyncio.sleep(min(PROGRESS_EVERY_S, max(0.0, over_s - now_s)))
        port.asked_s = time.perf_counter()
        self._say(port, DONOR_NODE, GuestPaused)
        self._say(port, node_of(port.winner), RequestSwitchover)

    # ---- beside the ports ---------------------------------------------------------------------------------------

    async def _measure_lag(self) -> None:
        while True:
            due_s = time.perf_counter() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self.seen.lag_ms.append((time.perf_counter() - due_s) * 1000)

    async def _report_capacity(self) -> None:
        while True:
            for name in RECIPIENTS:
                self._peers[recipient(name)].report(*words.sealed_now(recipient(name), words.capacity()))
            await asyncio.sleep(CAPACITY_EVERY_S)
