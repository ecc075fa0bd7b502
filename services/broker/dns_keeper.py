"""Keeps DNS as the ledger is: compares the newest epoch of each VM that was ported with what was written, and writes.

What is written is read from the ledger in the moment of writing, never from a message. `dns_names` remembers the label
of each VM and what the server has confirmed; a row is behind until its epoch is the ledger's. Nothing waits for it: a
server that is away is tried again, with an alarm and a metric.

Two brokers may write the same at once, or a slow one something old: each write expects the mark that the writer knew,
so that the server takes one and refuses the other, which then looks at the mark. A newer epoch there is left alone.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, insert, not_, or_, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from services.broker.dns import DnsChanged, DnsRefused, DnsUnavailable
from services.broker.dns_records import DnsMark, DnsRecords, label_of, parse_mark
from services.broker.metrics import BrokerMetrics
from services.broker.tables import dns_names, epochs, vms
from services.broker.whereabouts import Whereabouts, whereabouts
from shared.backoff import Backoff
from shared.errors import VmportError
from shared.logs import get_logger
from shared.store import Store, StoreDown

log = get_logger(__name__)

BATCH = 100
"""VMs of one pass."""
ATTEMPTS = 4
"""Of one VM in one pass, each after a look at what the server has."""

RETRIES = Backoff(min_s=1.0, max_s=60.0)


class Zone(Protocol):
    """What the keeper needs of a name server; see `services.broker.dns.NameServer`."""

    @property
    def zone(self) -> str:
        """Its name, without a dot at the end."""

    @property
    def ttl_s(self) -> int:
        """Of all records."""

    async def write(self, label: str, expected: tuple[str, ...], records: DnsRecords | None) -> None:
        """Replace what is said of a label if its mark is as expected."""

    async def marks(self, label: str) -> tuple[str, ...]:
        """The texts at a label's mark."""


class DnsOutdated(VmportError):
    """DNS has a newer epoch of a VM than the ledger: the ledger is not the newest one."""

    code = "dns_newer_than_ledger"


class LabelTaken(VmportError):
    """A label is in use for something else, even the VM's id."""

    code = "dns_label_taken"


@dataclass(frozen=True, slots=True)
class _Row:
    """What was written of a VM. `written` is the mark's text; empty: nothing is there."""

    label: str
    written: str


class DnsKeeper:
    """One task per broker: ``await keeper.run()`` until cancelled."""

    def __init__(
        self,
        store: Store,
        server: Zone,
        metrics: BrokerMetrics,
        *,
        forget_after: timedelta = timedelta(days=1),
        poll_s: float = 5.0,
        backoff: Backoff = RETRIES,
    ) -> None:
        self._store = store
        self._server = server
        self._metrics = metrics
        self._forget_after = forget_after
        self._poll_s = poll_s
        self._backoff = backoff
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """An epoch was committed."""
        self._wake.set()

    async def run(self) -> None:
        """Write what is behind, again and again; try again what has failed."""
        failures = 0
        while True:
            self._wake.clear()
            try:
                failures = 0 if await self.work() else failures + 1
            except (StoreDown, SQLAlchemyError) as error:
                failures += 1
                log.warning("ledger unavailable for DNS; trying again", error=str(error))
            if failures:
                # Not woken: a port that commits makes a server that is away no nearer.
                await asyncio.sleep(self._backoff.delay_s(failures, random.random()))  # noqa: S311  # no secret
                continue
            try:
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def work(self) -> bool:
        """Write everything that is behind now, once; False where something could not be written."""
        whole = True
        for vm_uuid in await self._behind():
            try:
                await self._bring(vm_uuid)
            except DnsUnavailable as error:
                self._failed("unavailable", vm_uuid, error)
                whole = False
                break
            except (DnsRefused, DnsChanged, DnsOutdated, LabelTaken) as error:
                self._failed("refused", vm_uuid, error)
                whole = False
        await self._show()
        return whole

    def _failed(self, outcome: str, vm_uuid: UUID, error: VmportError) -> None:
        self._metrics.dns_updates_total.labels(outcome).inc()
        log.error("DNS not updated; trying again", vm=str(vm_uuid), reason=error.code, error=str(error))

    # What is behind

    async def _behind(self) -> list[UUID]:
        async with self._store.reading() as connection:
            oldest = self._wanted(vms.c.uuid).order_by(epochs.c.committed_at).limit(BATCH)
            return list(await connection.scalars(oldest))

    async def _show(self) -> None:
        async with self._store.reading() as connection:
            statement = self._wanted(func.count().label("vms"), func.min(epochs.c.committed_at).label("since"))
            row = (await connection.execute(statement)).one()
        age_s = (self._store.clock() - row.since).total_seconds() if row.since is not None else 0.0
        self._metrics.dns_behind.set(row.vms)
        self._metrics.dns_behind_seconds.set(max(0.0, age_s))

    def _wanted(self, *columns: ColumnElement[Any]) -> Select[Any]:
        """VMs whose records differ from the ledger. Records of a VM that its provider no longer has are removed."""
        newest = (epochs.c.vm_uuid == vms.c.uuid) & (epochs.c.epoch == vms.c.epoch)
        is_gone = self._is_gone()
        is_old = or_(
            dns_names.c.vm_uuid.is_(None),
            dns_names.c.zone != self._server.zone,
            dns_names.c.ttl_s != self._server.ttl_s,
            dns_names.c.epoch != vms.c.epoch,
            dns_names.c.written == "",
        )
        is_left = dns_names.c.vm_uuid.is_not(None) & (dns_names.c.written != "")
        return (
            select(*columns)
            .select_from(vms)
            .join(epochs, newest)
            .outerjoin(dns_names, dns_names.c.vm_uuid == vms.c.uuid)
            .where(epochs.c.port_id.is_not(None), or_(not_(is_gone) & is_old, is_gone & is_left))
        )

    def _is_gone(self) -> ColumnElement[bool]:
        before = self._store.clock() - self._forget_after
        return vms.c.missing_since.is_not(None) & (vms.c.missing_since < before)

    # One VM

    async def _bring(self, vm_uuid: UUID) -> None:
        """Write one VM's records, or remove them."""
        for _ in range(ATTEMPTS):
            async with self._store.reading() as connection:
                place = await whereabouts(connection, vm_uuid)
                row = (await connection.execute(select(dns_names).where(dns_names.c.vm_uuid == vm_uuid))).one_or_none()
                gone = await connection.scalar(select(vms.c.uuid).where(vms.c.uuid == vm_uuid, self._is_gone()))
            if place is None:
                return
            if row is None or row.zone != self._server.zone:
                await self._claim(place, label_of(place.vm_name, vm_uuid), known=row is not None)
                continue
            if await self._write(place, _Row(row.label, row.written), is_gone=gone is not None):
                return
        raise DnsChanged(f"{vm_uuid}: the zone changed with each attempt")

    async def _claim(self, place: Whereabouts, label: str, *, known: bool) -> None:
        """Give the VM a label that no other VM has; its id is always free."""
        values = {"zone": self._server.zone, "label": label, "epoch": 0, "written": "", "ttl_s": 0}
        try:
            async with self._store.transaction() as tx:
                if known:
                    await tx.execute(update(dns_names).where(dns_names.c.vm_uuid == place.vm_uuid).values(**values))
                else:
                    await tx.execute(insert(dns_names).values(vm_uuid=place.vm_uuid, **values))
        except IntegrityError:
            # Another VM has the label, or another broker has just entered this VM.
            async with self._store.reading() as connection:
                mine = select(dns_names.c.zone).where(dns_names.c.vm_uuid == place.vm_uuid)
                entered = await connection.scalar(mine) == self._server.zone
            if not entered and label != str(place.vm_uuid):
                await self._claim(place, str(place.vm_uuid), known=known)

    async def _write(self, place: Whereabouts, row: _Row, *, is_gone: bool) -> bool:
        """True when the server has it; False where another attempt may be made."""
        mark = DnsMark(place.vm_uuid, place.epoch, place.provider)
        records = None if is_gone else DnsRecords(mark, place.addresses)
        expected: tuple[str, ...] = (row.written,) if row.written else ()
        try:
            await self._server.write(row.label, expected, records)
        except DnsChanged:
            found = await self._server.marks(row.label)
            if not found and expected:
                expected = ()  # The zone was made again from nothing.
            elif (theirs := self._of_others(place, found)) is None:
                return await self._use_id(place, row.label)
            elif theirs > place.epoch:
                return await self._is_newer(place, theirs)
            else:
                expected = found
            try:
                await self._server.write(row.label, expected, records)
            except DnsChanged:
                return False
        await self._confirm(place, row.label, "" if records is None else str(mark))
        return True

    @staticmethod
    def _of_others(place: Whereabouts, found: tuple[str, ...]) -> int | None:
        """The newest epoch of this VM that is there; None where the label is not this VM's."""
        marks = [parse_mark(text) for text in found]
        mine = [mark.epoch for mark in marks if mark is not None and mark.vm_uuid == place.vm_uuid]
        return max(mine) if mine and len(mine) == len(marks) else None

    async def _use_id(self, place: Whereabouts, label: str) -> bool:
        """Somebody else has the label: the VM is found by its id."""
        own = str(place.vm_uuid)
        if label == own:
            raise LabelTaken(f"{own}.{self._server.zone} is in use for something else")
        log.warning("DNS label is in use; the VM's id is taken", vm=own, label=label)
        await self._claim(place, own, known=True)
        return False

    async def _is_newer(self, place: Whereabouts, theirs: int) -> bool:
        """Another broker was faster, or the ledger was set back. Nothing older is written."""
        async with self._store.reading() as connection:
            now = await whereabouts(connection, place.vm_uuid)
        if now is not None and now.epoch < theirs:
            raise DnsOutdated(
                f"DNS has epoch {theirs} of VM {place.vm_uuid}, the ledger {now.epoch}; nothing is written"
            )
        return False

    async def _confirm(self, place: Whereabouts, label: str, written: str) -> None:
        values = {"epoch": place.epoch, "written": written, "ttl_s": self._server.ttl_s}
        mine = (dns_names.c.vm_uuid == place.vm_uuid) & (dns_names.c.label == label)
        async with self._store.transaction() as tx:
            still = update(dns_names).where(mine, dns_names.c.zone == self._server.zone)
            await tx.execute(still.where(dns_names.c.epoch <= place.epoch).values(**values))
        self._metrics.dns_updates_total.labels("written").inc()
        log.info("DNS updated", vm=str(place.vm_uuid), label=label, epoch=place.epoch, provider=place.provider)
