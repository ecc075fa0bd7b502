"""Keeps this host's network as the ports that have to do with it need it: the shell over plan, journal and maker.

For each port and side there is a record of what is so (`NetworkRecord`), and the plan says what steps that wants. The
keeper stores the record with all steps, old and new, before it changes anything; then it makes what is missing, undoes
what is not wanted any more, and stores what remains. So after a crash every step that may be made is known.

It never decides who owns a VM: it is told, by the transfer's own guards, which are told by the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol
from uuid import UUID

from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.netlink import NetlinkError
from services.node_agent.network.nft import NftError
from services.node_agent.network.steps import NftTable
from shared.errors import VmportError
from shared.logs import get_logger, port_bound
from shared.messages.addresses import NetworkState
from shared.messages.network import NetworkMode, NetworkPlan
from shared.messages.porting import ServiceChangeAgreement, Side
from shared.tasks import Tasks

log = get_logger(__name__)

LOOK_EVERY_S = 1.0
"""How often it is looked whether packets come by the own uplink, and whether an extension is still used."""
IDLE_S = 15.0
"""An extension that nothing has used for so long, after the recipient announces, is not needed any more."""
UNSEEN_S = 30.0
"""After so long without a packet by the own uplink, it is told that nobody routes to the VM here."""


class NetworkFailed(VmportError):
    """The host's network could not be made ready for a port."""

    code = "network_not_ready"


class MovedVm(Protocol):
    """By which port a VM has moved, and what of that matters to the network; a `ServiceChangeAgreement` is one."""

    @property
    def port_id(self) -> UUID: ...
    @property
    def vm_uuid(self) -> UUID: ...
    @property
    def epoch(self) -> int: ...
    @property
    def network(self) -> NetworkPlan | None: ...


class Extensions(Protocol):
    """The layer-2 extensions of ports."""

    async def open(self, agreement: ServiceChangeAgreement, side: Side, *, activated: bool) -> None:
        """Have the devices of a port's extension, joined to their bridges; it connects in the background. `activated`:
        the guest runs at the recipient already, or may.

        Raises `VmportError`, OSError. Nothing is done where it is open.
        """
        ...

    def activate(self, port_id: UUID) -> None:
        """The guest may run at the recipient from now on, or does; nothing is done where it is not open."""
        ...

    async def close(self, port_id: UUID) -> None:
        """End it and remove its devices; nothing is done where there is none."""
        ...

    def idle_s(self, port_id: UUID) -> float | None:
        """For how many seconds it has carried nothing; None where there is none."""
        ...


class Report(Protocol):
    """Tells the broker how far this node is."""

    def __call__(self, agreement: ServiceChangeAgreement, state: NetworkState, detail: str = "") -> None:
        """Arrives whatever happens to this process."""
        ...


class Voices(Protocol):
    """What is said on segments while a record is carried out."""

    def follow(self, record: NetworkRecord) -> None:
        """What the record wants is made; what it does not want any more is still there. Returns at once."""
        ...

    def cease(self, record: NetworkRecord) -> None:
        """All that the record has made is removed next. Returns at once."""
        ...


class NoVoices:
    """Nothing is said."""

    def follow(self, record: NetworkRecord) -> None:
        """Nothing to do."""

    def cease(self, record: NetworkRecord) -> None:
        """Nothing to do."""


_FAILURES = (NetlinkError, NftError, VmportError, OSError)


class NetworkKeeper:
    """All ports' changes of this host's network."""

    def __init__(
        self,
        journal: NetworkJournal,
        maker: StepMaker,
        *,
        extensions: Extensions,
        report: Report,
        voices: Voices | None = None,
        look_every_s: float = LOOK_EVERY_S,
        idle_s: float = IDLE_S,
        unseen_s: float = UNSEEN_S,
    ) -> None:
        self._journal = journal
        self._maker = maker
        self._extensions = extensions
        self._report = report
        self._voices = voices or NoVoices()
        self._look_every_s = look_every_s
        self._idle_s = idle_s
        self._unseen_looks = max(1, round(unseen_s / look_every_s))
        self._locks: dict[UUID, asyncio.Lock] = {}
        self._looks: dict[UUID, int] = {}
        self._problems: dict[UUID, str] = {}
        self._tasks = Tasks("network")

    def problems(self) -> tuple[str, ...]:
        """For the heartbeat: a sentence for each port whose network is not as it should be."""
        return tuple(f"port {port_id}: {problem}" for port_id, problem in self._problems.items())

    def records(self) -> tuple[NetworkRecord, ...]:
        """What each port has changed here. Raises OSError."""
        return self._journal.readable()

    # ---- a port's moments ----

    async def prepare(self, side: Side, agreement: ServiceChangeAgreement, taps: Mapping[str, str]) -> None:
        """Make all that can be made before the switchover. Raises `NetworkFailed`, having undone what was made.

        `taps` are the devices of the guest's cards by MAC, where it runs here.
        """
        if agreement.network is None or agreement.network.terms.carry is NetworkMode.JOINED:
            return
        extended = agreement.network.terms.carry is NetworkMode.EXTEND
        record = NetworkRecord(side=side, agreement=agreement, extension=extended, taps=dict(taps))
        try:
            async with self._lock(agreement.port_id):
                await self._settle(record)
                if extended:
                    await self._extensions.open(agreement, side, activated=False)
        except _FAILURES as error:
            left = await self.undo(agreement.port_id, side)
            remaining = f"; not removed: {', '.join(left)}" if left else ""
            raise NetworkFailed(f"the network is not ready: {error}{remaining}") from error
        self._report(agreement, NetworkState.PREPARED)

    def guest_stands_still(self, port_id: UUID) -> None:
        """Donor: the guest is paused, and may run at the recipient next. Only now may it be spoken for from there."""
        self._extensions.activate(port_id)
        self._tasks.spawn(self._change(port_id, Side.OUTBOUND, {"paused": True}), name="clone frames")

    def guest_runs_on(self, port_id: UUID) -> None:
        """Donor: the guest runs here again after all."""
        self._tasks.spawn(self._change(port_id, Side.OUTBOUND, {"paused": False}), name="send packets here again")

    def guest_is_away(self, moved: MovedVm) -> None:
        """Donor: the ledger says that the VM is the recipient's, and it runs there."""
        self._extensions.activate(moved.port_id)
        self._tasks.spawn(self._moved(moved, Side.OUTBOUND), name="route away")

    def guest_has_arrived(self, moved: MovedVm) -> None:
        """Recipient: the guest runs here."""
        self._extensions.activate(moved.port_id)
        self._tasks.spawn(self._moved(moved, Side.INBOUND), name="take over")

    async def undo(self, port_id: UUID, side: Side) -> tuple[str, ...]:
        """The VM stays where it was: remove all that this port has made here; returns what remains, by name."""
        async with self._lock(port_id):
            await self._extensions.close(port_id)
            record = self._journal.get(port_id, side)
            if record is None:
                return ()
            self._voices.cease(record)
            left = await self._maker.undo(record.steps)
            if left:
                self._problems[port_id] = f"not removed from the network: {', '.join(left)}"
                log.error("network not cleaned up", port_id=str(port_id), left=left)
            else:
                self._journal.remove(port_id, side)
                self._forget(port_id)
            return left

    async def close_extension(self, port_id: UUID) -> tuple[str, ...]:
        """Remove what needs the other side; returns what remains, by name."""
        closed = None
        async with self._lock(port_id):
            await self._extensions.close(port_id)
            for side in Side:
                record = self._journal.get(port_id, side)
                if record is not None and not record.closed:
                    closed = record.model_copy(update={"extension": False, "closed": True})
                    await self._settle(closed)
                    self._report(record.agreement, NetworkState.CLOSED)
        if closed is not None:
            await self._remove_retired(closed.vm_uuid)
        return ()

    # ---- this process ----

    async def restore(self) -> tuple[str, ...]:
        """At the agent's start: have everything again as the records say. Returns names of damaged records."""
        records, damaged = self._journal.all()
        for record in records:
            with port_bound(record.port_id):
                try:
                    async with self._lock(record.port_id):
                        await self._settle(record, again=True)
                        if record.extension:
                            await self._extensions.open(
                                record.agreement, record.side, activated=record.paused or record.there
                            )
                except _FAILURES as error:
                    self._trouble(record, "not restored", error)
        return damaged

    async def run(self) -> None:
        """Watch what takes over from the donor's help, until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._look_every_s)
                for record in self._journal.all()[0]:
                    if record.side is Side.INBOUND and record.there and record.plan.terms.then_announce:
                        await self._look(record)
        finally:
            await self._tasks.close()

    async def _look(self, record: NetworkRecord) -> None:
        with port_bound(record.port_id):
            try:
                if not record.announced:
                    await self._look_for_packets(record)
                elif record.extension and self._is_idle(record.port_id):
                    log.info("extension not used any more")
                    await self.close_extension(record.port_id)
            except _FAILURES as error:
                self._trouble(record, "not watched", error)

    async def _look_for_packets(self, record: NetworkRecord) -> None:
        guards = [step.name for step in record.steps if isinstance(step, NftTable)]
        if await self._maker.packets_routed(guards):
            async with self._lock(record.port_id):
                current = self._journal.get(record.port_id, record.side)
                if current is not None:
                    self._journal.store(current.model_copy(update={"announced": True}))
            self._forget(record.port_id)
            log.info("addresses announced; packets come by the own uplink")
            self._report(record.agreement, NetworkState.ANNOUNCED)
            return
        looks = self._looks[record.port_id] = self._looks.get(record.port_id, 0) + 1
        if looks == self._unseen_looks:
            unseen = "routes to its addresses are written, and no packet has come by this host's own uplink"
            # No problem of this node: nobody may have spoken to the VM yet.
            log.warning("announced addresses not reached")
            self._report(record.agreement, NetworkState.FAILED, f"not_announced: {unseen}")

    def _is_idle(self, port_id: UUID) -> bool:
        idle_s = self._extensions.idle_s(port_id)
        return idle_s is None or idle_s >= self._idle_s

    # ---- doing ----

    async def _moved(self, moved: MovedVm, side: Side) -> None:
        """The VM runs at the recipient. What earlier ports of it have made at this side is not needed any more."""
        await self._change(moved.port_id, side, {"there": True})
        with port_bound(moved.port_id):
            for record in self._journal.readable():
                if record.vm_uuid != moved.vm_uuid or record.agreement.epoch >= moved.epoch:
                    continue
                if record.side is not side:
                    await self._retire(record)
            await self._remove_retired(moved.vm_uuid)

    async def _retire(self, record: NetworkRecord) -> None:
        """An earlier port brought the VM here, or took it away from here; a later one has taken that back."""
        async with self._lock(record.port_id):
            current = self._journal.get(record.port_id, record.side)
            if current is not None:
                self._journal.store(current.model_copy(update={"retired": True}))

    async def _remove_retired(self, vm_uuid: UUID) -> None:
        """The VM's bridge here goes when no extension to where it is now leads over it."""
        mine = [record for record in self._journal.readable() if record.vm_uuid == vm_uuid]
        leads_away = any(record.side is Side.OUTBOUND and record.extension and not record.retired for record in mine)
        for record in mine:
            if record.retired and not (leads_away and record.side is Side.INBOUND):
                await self.undo(record.port_id, record.side)

    async def _change(self, port_id: UUID, side: Side, news: Mapping[str, bool]) -> None:
        async with self._lock(port_id):
            record = self._journal.get(port_id, side)
            if record is None or record.paused is news.get("paused"):
                return
            changed = record.model_copy(update=dict(news))
            with port_bound(port_id):
                try:
                    await self._settle(changed)
                except _FAILURES as error:
                    self._trouble(record, f"not changed ({', '.join(news)})", error)
                    self._report(record.agreement, NetworkState.FAILED, str(error))
                else:
                    if "there" in news:
                        self._report(record.agreement, NetworkState.CARRYING)

    async def _settle(self, record: NetworkRecord, *, again: bool = False) -> None:
        """Bring about what the record wants; what is made already is made again only if `again`."""
        wanted, made = record.wanted, record.steps
        unwanted = tuple(step for step in made if step not in wanted)
        missing = wanted if again else tuple(step for step in wanted if step not in made)
        self._journal.store(record.model_copy(update={"steps": (*made, *(s for s in wanted if s not in made))}))
        await self._maker.make(missing)
        self._voices.follow(record)
        left = await self._maker.undo(unwanted)
        kept = wanted if not left else (*unwanted, *wanted)
        self._journal.store(record.model_copy(update={"steps": kept}))
        if left:
            self._problems[record.port_id] = f"not removed from the network: {', '.join(left)}"
        elif record.is_over:
            self._journal.remove(record.port_id, record.side)

    def _trouble(self, record: NetworkRecord, what: str, error: Exception) -> None:
        self._problems[record.port_id] = f"network {what}: {error}"
        log.error("network trouble", side=record.side, what=what, error=str(error))

    def _forget(self, port_id: UUID) -> None:
        self._looks.pop(port_id, None)
        self._problems.pop(port_id, None)

    def _lock(self, port_id: UUID) -> asyncio.Lock:
        return self._locks.setdefault(port_id, asyncio.Lock())
