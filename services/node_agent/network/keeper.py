"""Keeps this host's network as the ports that have to do with it need it: the shell over plan, journal and maker.

For each port and side there is a record of what is so (`NetworkRecord`), and the plan says what steps that wants. The
keeper stores the record with all steps, old and new, before it changes anything; then it makes what is missing, undoes
what is not wanted any more, and stores what remains. So after a crash every step that may be made is known.

What a transfer tells is stored before the call returns, because the transfer may store its own end next and tell it to
nobody again. What that means for the host follows in the background, and at the next start where it did not come to it.

It never decides who owns a VM: it is told, by the transfer's own guards, which are told by the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from uuid import UUID

from services.node_agent.network.help_watch import HelpWatch
from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.parties import Extensions, MovedVm, NetworkFailed, Report
from services.node_agent.network.plan import Going
from services.node_agent.network.settling import FAILURES, Key, Settling, Write, in_thread
from services.node_agent.network.succession import helps, is_going, overdue, removable
from services.node_agent.network.uplink_watch import UplinkWatch
from services.node_agent.network.voices import NoVoices, Voices
from shared.logs import get_logger, port_bound
from shared.messages.addresses import NetworkState
from shared.messages.network import NetworkMode
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
RETRY_EVERY_S = 30.0
"""How often it is tried again what could not be made or removed; at first sooner."""


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
        retry_every_s: float = RETRY_EVERY_S,
        withdraw_after_s: float = WITHDRAW_AFTER_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        write: Write = in_thread,
    ) -> None:
        self._journal = journal
        self._maker = maker
        self._extensions = extensions
        self._report = report
        self._look_every_s = look_every_s
        self._withdraw_after_s = withdraw_after_s
        self._now = now
        retry_looks, unseen_looks = (max(1, round(each / look_every_s)) for each in (retry_every_s, unseen_s))
        self._settling = Settling(journal, maker, voices or NoVoices(), write=write, retry_looks=retry_looks)
        self._uplink = UplinkWatch(journal, maker, report, write=write, unseen_looks=unseen_looks)
        self._help = HelpWatch(extensions.idle_s, maker, idle_s=idle_s)
        self._locks: dict[UUID, asyncio.Lock] = {}
        self._tasks = Tasks("network")

    def problems(self) -> tuple[str, ...]:
        """For the heartbeat: a sentence for each port whose network is not as it should be."""
        return self._settling.problems()

    @property
    def is_settled(self) -> bool:
        """Whether nothing has to be tried again."""
        return not self._settling.unfinished

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
        try:
            async with self._lock(agreement.port_id):
                before = self._journal.get(agreement.port_id, side)
                steps = () if before is None else before.known
                record = NetworkRecord(side=side, agreement=agreement, steps=steps, extension=extended, taps=dict(taps))
                record = record.model_copy(update={"ahead": record.of_switchover})
                self._journal.store(record)
                self._settling.done((agreement.port_id, side))
                await self._settling.settle(record)
                if extended:
                    await self._extensions.open(agreement, side, activated=False)
        except FAILURES as error:
            left = await self.undo(agreement.port_id, side)
            remaining = f"; not removed: {', '.join(left)}" if left else ""
            raise NetworkFailed(f"the network is not ready: {error}{remaining}") from error
        self._report(agreement, NetworkState.PREPARED)

    def guest_stands_still(self, port_id: UUID) -> None:
        """Donor: the guest is paused, and may run at the recipient next. Only now may it be spoken for from there."""
        self._extensions.activate(port_id)
        self._tasks.spawn(self._change(port_id, Side.OUTBOUND, {"paused": True}), name="clone frames")

    def guest_runs_on(self, port_id: UUID) -> None:
        """Donor: the guest runs here again after all. Nobody may speak for it from the recipient any more."""
        self._extensions.deactivate(port_id)
        self._tasks.spawn(self._change(port_id, Side.OUTBOUND, {"paused": False}), name="send packets here again")

    def guest_is_away(self, moved: MovedVm) -> None:
        """Donor: the ledger says that the VM is the recipient's, and it runs there."""
        self._extensions.activate(moved.port_id)
        self._settling.note_moved(moved, Side.OUTBOUND, self._now())
        self._tasks.spawn(self._moved(moved, Side.OUTBOUND), name="route away")

    def guest_has_arrived(self, moved: MovedVm) -> None:
        """Recipient: the guest runs here."""
        self._extensions.activate(moved.port_id)
        self._settling.note_moved(moved, Side.INBOUND, self._now())
        self._tasks.spawn(self._moved(moved, Side.INBOUND), name="take over")

    def guest_is_expected(self, port_id: UUID) -> None:
        """Recipient: the hypervisor has made the guest's devices, and the guest does not run yet."""
        self._tasks.spawn(self._expect(port_id), name="shorten queues")

    async def undo(self, port_id: UUID, side: Side) -> tuple[str, ...]:
        """The VM stays where it was: remove all that this port has made here; returns what remains, by name. That is
        tried again. Nothing is removed at the donor where the VM has moved by this port: its transfer may be told as
        failed all the same, because a process of it ended. A recipient is told so only of a VM that is not here.
        """
        async with self._lock(port_id):
            record = self._journal.get(port_id, side)
            if side is Side.OUTBOUND and record is not None and self._settling.has_moved(record) and not record.undone:
                return ()
            return await self._undo(port_id, side)

    async def _undo(self, port_id: UUID, side: Side) -> tuple[str, ...]:
        await self._extensions.close(port_id)
        self._settling.forget_move((port_id, side))
        record = self._journal.get(port_id, side)
        left = () if record is None else await self._settling.clear(record)
        if not left:
            self._settling.done((port_id, side))
            self._forget(port_id)
        return left

    async def close_extension(self, port_id: UUID) -> tuple[str, ...]:
        """Remove what needs the other side; returns what remains, by name. Raises those of `FAILURES`."""
        left: tuple[str, ...] = ()
        async with self._lock(port_id):
            await self._extensions.close(port_id)
            closed = [
                record for side in Side if (record := self._journal.note(port_id, side, extension=False, closed=True))
            ]
            for record in closed:
                remains = await self._settling.settle(record)
                if not remains:
                    self._settling.done((port_id, record.side))
                left += remains
                await self._tell(record)
        for record in closed:
            await self._help_ended(record.vm_uuid)
        return left

    async def _help_ended(self, vm_uuid: UUID) -> None:
        """Routes that are going are kept for a while from now on: stragglers may still come."""
        mine = self._journal.of_vm(vm_uuid)
        for record in mine:
            if record.going is Going.HELPED and is_going(record) and not any(map(helps, mine)):
                await self._change(record.port_id, record.side, {"going_since": self._now(), "going": Going.PASSED})
        await self._remove_retired(vm_uuid)

    # ---- this process ----

    async def restore(self) -> tuple[str, ...]:
        """At the agent's start: have everything again as the records say. Returns names of damaged records."""
        records, damaged = self._journal.all()
        for record in records:
            await self._restore(record)
        return damaged

    async def _restore(self, record: NetworkRecord) -> None:
        with port_bound(record.port_id):
            try:
                if record.retired or record.closed:
                    await self._help_ended(record.vm_uuid)
                async with self._lock(record.port_id):
                    await self._have_again(record.port_id, record.side)
            except FAILURES as error:
                self._settling.trouble(record, "not restored", error)

    async def _have_again(self, port_id: UUID, side: Side) -> None:
        record, told = self._journal.get(port_id, side), self._settling.told((port_id, side))
        if record is None:
            self._settling.done((port_id, side))
            return
        now = record.model_copy(update=told)
        if now.undone:
            await self._undo(port_id, side)
            return
        # At the donor the extension's device comes first: frames are cloned into it. At the recipient its bridge does.
        outbound = side is Side.OUTBOUND
        if outbound:
            await self._open_again(now)
        is_settled = await self._settling.bring_about(record, told, again=True)
        if not outbound:
            await self._open_again(now)
        if is_settled:
            self._settling.done((port_id, side))
        await self._tell(now)

    async def _open_again(self, record: NetworkRecord) -> None:
        if record.extension:
            await self._extensions.open(record.agreement, record.side, activated=record.paused or record.there)

    async def run(self) -> None:
        """Watch what takes over from the donor's help, until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._look_every_s)
                await self.look()
        finally:
            await self._tasks.close()

    async def look(self) -> None:
        """Once: what is unfinished is tried again, and what is over ends. Raises OSError."""
        for key in self._settling.due():
            if key in self._settling.unfinished:
                await self._retry(key)
        for record in self._journal.readable():
            await self._look(record)

    async def _retry(self, key: Key) -> None:
        if (moved := self._settling.unfinished[key].moved) is not None:
            await self._moved(moved, key[1])
        record = self._journal.get(*key)
        if record is not None:
            await self._restore(record)
        elif not self._settling.is_moving(key):
            self._settling.done(key)

    async def _look(self, record: NetworkRecord) -> None:
        with port_bound(record.port_id):
            try:
                if overdue(record, self._journal.of_vm(record.vm_uuid), self._now(), self._withdraw_after_s):
                    log.info("addresses withdrawn; they are announced elsewhere")
                    await self._change(record.port_id, record.side, {"going": Going.GONE})
                    await self._remove_retired(record.vm_uuid)
                elif record.side is Side.INBOUND and record.there and record.plan.terms.then_announce:
                    await self._look_at_announced(record)
            except FAILURES as error:
                self._settling.trouble(record, "not watched", error)

    async def _look_at_announced(self, record: NetworkRecord) -> None:
        if not record.announced:
            await self._uplink.look(record)
        elif not record.closed and await self._help.is_idle(record):
            log.info("the donor's help is not used any more")
            await self.close_extension(record.port_id)

    # ---- doing ----

    async def _moved(self, moved: MovedVm, side: Side) -> None:
        """Of this port first, then what that changes of earlier ones. Nothing before it is stored."""
        if self._settling.is_moving((moved.port_id, side)) and not self._settling.note_moved(moved, side, self._now()):
            return
        for record in sorted(self._journal.of_vm(moved.vm_uuid), key=lambda each: -each.agreement.epoch):
            if (record.port_id, record.side) == (moved.port_id, side) or record.agreement.epoch < moved.epoch:
                await self._change(record.port_id, record.side, {})
        with port_bound(moved.port_id):
            await self._remove_retired(moved.vm_uuid)

    async def _remove_retired(self, vm_uuid: UUID) -> None:
        """The VM's bridge here goes when nothing leads over it to where the VM is now."""
        for record in removable(self._journal.of_vm(vm_uuid)):
            await self.undo(record.port_id, record.side)

    async def _change(self, port_id: UUID, side: Side, news: Mapping[str, object]) -> None:
        """Have what follows from the news. What fails is tried again; then it counts with what is told meanwhile."""
        async with self._lock(port_id):
            record = self._journal.get(port_id, side)
            if record is None or record.undone:
                return
            failed = (port_id, side) in self._settling.unfinished
            told = {**self._settling.told((port_id, side)), **news}
            with port_bound(port_id):
                try:
                    is_settled = await self._settling.bring_about(record, told, again=failed)
                except FAILURES as error:
                    self._settling.trouble(record, f"not changed ({', '.join(told)})", error)
                    if not failed and not record.retired:
                        self._report(record.agreement, NetworkState.FAILED, str(error))
                else:
                    if is_settled:
                        self._settling.done((port_id, side))
                    await self._tell(record.model_copy(update=told))

    async def _tell(self, record: NetworkRecord) -> None:
        """Each is told by one process at least; once said and stored, it is enough."""
        if record.there and not (record.carrying_told or record.retired):
            self._report(record.agreement, NetworkState.CARRYING)
            await self._settling.note(record, {"carrying_told": True})
        if record.closed and not record.closed_told:
            self._report(record.agreement, NetworkState.CLOSED)
            await self._settling.note(record, {"closed_told": True})

    async def _expect(self, port_id: UUID) -> None:
        async with self._lock(port_id):
            record = self._journal.get(port_id, Side.INBOUND)
            if record is None or record.there or record.undone:
                return
            with port_bound(port_id):
                try:
                    taps = await self._settling.guest_taps(record)
                    known = self._journal.note(port_id, Side.INBOUND, taps=taps)
                    if known is not None:
                        await self._settling.settle(known)
                except FAILURES as error:
                    log.warning("queues for the guest not shortened", error=str(error))

    def _forget(self, port_id: UUID) -> None:
        self._uplink.forget(port_id)
        self._help.forget(port_id)

    def _lock(self, port_id: UUID) -> asyncio.Lock:
        return self._locks.setdefault(port_id, asyncio.Lock())
