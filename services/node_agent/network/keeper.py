"""Keeps this host's network as the ports that have to do with it need it: the shell over plan, journal and maker.

For each port and side there is a record of what is so (`NetworkRecord`), and the plan says what steps that wants. The
keeper stores the record with all steps, old and new, before it changes anything; then it makes what is missing, undoes
what is not wanted any more, and stores what remains. So after a crash every step that may be made is known.

It never decides who owns a VM: it is told, by the transfer's own guards, which are told by the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from services.node_agent.network.help_watch import HelpWatch
from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.netlink import NetlinkError
from services.node_agent.network.nft import NftError
from services.node_agent.network.plan import Going
from services.node_agent.network.steps import Bridge, NftTable
from services.node_agent.network.succession import helps, is_going, overdue, removable, retired
from services.node_agent.network.voices import NoVoices, Voices
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
WITHDRAW_AFTER_S = 30.0
"""How long routes to a VM that is announced elsewhere are kept and marked, after the last help with its packets."""
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
        withdraw_after_s: float = WITHDRAW_AFTER_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._journal = journal
        self._maker = maker
        self._extensions = extensions
        self._report = report
        self._voices = voices or NoVoices()
        self._look_every_s = look_every_s
        self._unseen_looks = max(1, round(unseen_s / look_every_s))
        self._withdraw_after_s = withdraw_after_s
        self._now = now
        self._again: dict[tuple[UUID, Side], dict[str, bool]] = {}
        self._help = HelpWatch(extensions.idle_s, maker, idle_s=idle_s)
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
            self._again.pop((port_id, side), None)
            record = self._journal.get(port_id, side)
            return () if record is None else await self._undo(record)

    async def _undo(self, record: NetworkRecord) -> tuple[str, ...]:
        """What cannot be removed now is tried again, also by the next process."""
        undone = record.model_copy(update={"undone": True, "extension": False})
        self._voices.cease(record)
        try:
            self._journal.store(undone)
        except OSError as error:
            log.warning("end of a port's network not stored", port_id=str(record.port_id), error=str(error))
        left = await self._maker.undo(record.steps)
        if left:
            self._problems[record.port_id] = f"not removed from the network: {', '.join(left)}"
            log.error("network not cleaned up", port_id=str(record.port_id), left=left)
        else:
            self._journal.remove(record.port_id, record.side)
            self._forget(record.port_id)
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
            await self._help_ended(closed.vm_uuid)
        return ()

    async def _help_ended(self, vm_uuid: UUID) -> None:
        """Routes that are going are kept for a while from now on: stragglers may still come."""
        for record in self._of_vm(vm_uuid):
            if is_going(record) and not any(map(helps, self._of_vm(vm_uuid))):
                await self._update(record, {"going_since": self._now(), "going": Going.PASSED})
        await self._remove_retired(vm_uuid)

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
                await self.look()
        finally:
            await self._tasks.close()

    async def look(self) -> None:
        """Once: what failed is tried again, and what is over ends."""
        for port_id, side in tuple(self._again):
            await self._change(port_id, side, {})
        for record in self._journal.readable():
            await self._look(record)

    async def _look(self, record: NetworkRecord) -> None:
        with port_bound(record.port_id):
            try:
                if record.undone:
                    await self.undo(record.port_id, record.side)
                elif overdue(record, self._of_vm(record.vm_uuid), self._now(), self._withdraw_after_s):
                    log.info("addresses withdrawn; they are announced elsewhere")
                    await self._update(record, {"going": Going.GONE})
                    await self._remove_retired(record.vm_uuid)
                elif record.side is Side.INBOUND and record.there and record.plan.terms.then_announce:
                    await self._look_at_announced(record)
            except _FAILURES as error:
                self._trouble(record, "not watched", error)

    async def _look_at_announced(self, record: NetworkRecord) -> None:
        if not record.announced:
            await self._look_for_packets(record)
        elif not record.closed and await self._help.is_idle(record):
            log.info("the donor's help is not used any more")
            await self.close_extension(record.port_id)

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

    # ---- doing ----

    async def _moved(self, moved: MovedVm, side: Side) -> None:
        """The VM runs at the recipient. What earlier ports of it have made at this side is not needed any more."""
        await self._change(moved.port_id, side, {"there": True})
        with port_bound(moved.port_id):
            try:
                for record in self._of_vm(moved.vm_uuid):
                    if record.agreement.epoch >= moved.epoch:
                        continue
                    if record.side is not side:
                        await self._retire(record)
                    elif side is Side.INBOUND and is_going(record):
                        await self._update(record, {"going": Going.GONE})
                await self._remove_retired(moved.vm_uuid)
            except _FAILURES as error:
                log.error("earlier ports' network not taken back", error=str(error))  # noqa: TRY400  # kernel or disk

    async def _retire(self, record: NetworkRecord) -> None:
        """An earlier port brought the VM here, or took it away from here; a later one has taken that back."""
        known = retired(record, self._of_vm(record.vm_uuid), self._now())
        await self._update(record, {"retired": True, "going_since": known.going_since, "going": known.going})

    async def _update(self, record: NetworkRecord, news: Mapping[str, Any]) -> None:
        async with self._lock(record.port_id):
            current = self._journal.get(record.port_id, record.side)
            if current is not None:
                await self._settle(current.model_copy(update=dict(news)))

    async def _remove_retired(self, vm_uuid: UUID) -> None:
        """The VM's bridge here goes when nothing leads over it to where the VM is now."""
        for record in removable(self._of_vm(vm_uuid)):
            await self.undo(record.port_id, record.side)

    def _of_vm(self, vm_uuid: UUID) -> tuple[NetworkRecord, ...]:
        return tuple(record for record in self._journal.readable() if record.vm_uuid == vm_uuid)

    async def _change(self, port_id: UUID, side: Side, news: Mapping[str, bool]) -> None:
        """What fails is tried again every second; then it counts with what is told meanwhile."""
        async with self._lock(port_id):
            failed = self._again.pop((port_id, side), None)
            told = {**(failed or {}), **news}
            record = self._journal.get(port_id, side)
            is_news = record is not None and any(getattr(record, name) is not value for name, value in told.items())
            if record is None or record.undone or not (is_news or failed is not None):
                return
            with port_bound(port_id):
                try:
                    await self._settle(record.model_copy(update=told), again=failed is not None)
                except _FAILURES as error:
                    self._again[port_id, side] = told
                    self._trouble(record, f"not changed ({', '.join(told)})", error)
                    if failed is None:
                        self._report(record.agreement, NetworkState.FAILED, str(error))
                else:
                    if failed is not None:
                        self._forget(port_id)
                    if "there" in told:
                        self._report(record.agreement, NetworkState.CARRYING)

    async def _settle(self, record: NetworkRecord, *, again: bool = False) -> None:
        """Bring about what the record wants; what is made already is made again only if `again`."""
        wanted, made = record.wanted, record.steps
        bridges = {step.name for step in wanted if isinstance(step, Bridge)}
        # A bridge that is wanted with another MAC is the same device.
        unwanted = tuple(s for s in made if s not in wanted and not (isinstance(s, Bridge) and s.name in bridges))
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
        self._help.forget(port_id)
        self._problems.pop(port_id, None)

    def _lock(self, port_id: UUID) -> asyncio.Lock:
        return self._locks.setdefault(port_id, asyncio.Lock())
