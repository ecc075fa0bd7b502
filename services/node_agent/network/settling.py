"""Makes this host's network what a record wants, and remembers what could not be made, removed or stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.netlink import NetlinkError
from services.node_agent.network.nft import NftError
from services.node_agent.network.parties import MovedVm
from services.node_agent.network.plan import EXTENSION_PREFIX, own_bridges
from services.node_agent.network.steps import Bridge
from services.node_agent.network.succession import superseded
from services.node_agent.network.voices import Voices
from shared.errors import VmportError
from shared.logs import get_logger
from shared.messages.porting import Side

log = get_logger(__name__)

FAILURES: Final = (NetlinkError, NftError, VmportError, OSError)
"""What the kernel, its tools and the disk refuse by."""

Key = tuple[UUID, Side]
"""A port, and this host's side of it."""

Write = Callable[[Callable[[], object]], Awaitable[object]]
"""Does what writes to the disk. Raises what that raises."""


async def in_thread(work: Callable[[], object]) -> object:
    """Beside the event loop, on which an extension's frames wait."""
    writing = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])  # else older steps could be written over newer ones
        raise


@dataclass
class Unfinished:
    """What is to be tried again of one port's side."""

    told: dict[str, object] = field(default_factory=dict)
    """What is so of the record, and could not be stored."""
    moved: MovedVm | None = None
    """The VM has moved by this port, and not all that follows from it for the records could be stored."""
    looks: int = 0
    """How often it was looked at."""


class Settling:
    """Of all ports of this host. What is unfinished is tried again after 1, 2, 4 ... looks, and every `retry_looks`."""

    def __init__(
        self, journal: NetworkJournal, maker: StepMaker, voices: Voices, *, write: Write, retry_looks: int
    ) -> None:
        self._journal = journal
        self._maker = maker
        self._voices = voices
        self._write = write
        self._retry_looks = retry_looks
        self._problems: dict[UUID, str] = {}
        self.unfinished: dict[Key, Unfinished] = {}

    def problems(self) -> tuple[str, ...]:
        """A sentence for each port whose network is not as it should be."""
        return tuple(f"port {port_id}: {problem}" for port_id, problem in self._problems.items())

    def due(self) -> tuple[Key, ...]:
        """Those that are to be tried now; asked once at each look."""
        found = []
        for key, what in self.unfinished.items():
            what.looks += 1
            if what.looks.bit_count() == 1 or what.looks % self._retry_looks == 0:
                found.append(key)
        return tuple(found)

    def told(self, key: Key) -> dict[str, object]:
        """What is so, and could not be stored yet."""
        return dict(self.unfinished[key].told) if key in self.unfinished else {}

    def is_moving(self, key: Key) -> bool:
        """Whether that the VM has moved by this port could not be stored yet."""
        return key in self.unfinished and self.unfinished[key].moved is not None

    def has_moved(self, record: NetworkRecord) -> bool:
        """Whether the VM has moved by this port, and no later one has taken that back."""
        return (record.there or self.is_moving((record.port_id, record.side))) and not record.retired

    def again(self, key: Key, told: Mapping[str, object] | None = None, *, moved: MovedVm | None = None) -> None:
        """It is to be tried again."""
        what = self.unfinished.setdefault(key, Unfinished())
        what.told.update(told or {})
        what.moved = moved or what.moved

    def done(self, key: Key) -> None:
        """All is as the record wants, and the record is stored; a move that is not noted in it remains."""
        if self.is_moving(key):
            self.unfinished[key].told.clear()
            return
        self.unfinished.pop(key, None)
        self._problems.pop(key[0], None)

    def trouble(self, record: NetworkRecord, what: str, error: Exception) -> None:
        """It is told to the operator, and tried again."""
        self._problems[record.port_id] = f"network {what}: {error}"
        self.again((record.port_id, record.side))
        log.error("network trouble", side=record.side, what=what, error=str(error))

    def note_moved(self, moved: MovedVm, side: Side, now: datetime) -> bool:
        """The VM runs at the recipient. What earlier ports of it have made at this side is not needed any more. Whether
        that is stored; else it is tried again, as long as this process lives.
        """
        key = (moved.port_id, side)
        try:
            record = self._journal.get(*key)
            if record is not None and not record.undone:
                self._journal.note(*key, there=True)
            for earlier, news in superseded(self._journal.of_vm(moved.vm_uuid), moved.epoch, side, now):
                self._journal.note(earlier.port_id, earlier.side, **news)
        except OSError as error:
            self.again(key, moved=moved)
            self._problems[moved.port_id] = f"network move not stored: {error}"
            log.error("move not noted", port_id=str(moved.port_id), error=str(error))  # noqa: TRY400  # a full disk
            return False
        self.forget_move(key)
        return True

    def forget_move(self, key: Key) -> None:
        """That the VM has moved by this port is stored, or is not so any more."""
        if key in self.unfinished:
            self.unfinished[key].moved = None

    async def guest_taps(self, record: NetworkRecord) -> dict[str, str]:
        """The devices that the hypervisor has made at the cards' own bridges, by the cards' MACs. Raises
        `NetlinkError`.
        """
        return {
            card.card.mac: tap
            for _, card in own_bridges(record.plan)
            for tap in await self._maker.taps(card.bridge)
            if not tap.startswith(EXTENSION_PREFIX)
        }

    async def note(self, record: NetworkRecord, news: Mapping[str, object]) -> bool:
        """Store what is so; whether that was possible. Else it is tried again, as long as this process lives."""
        key = (record.port_id, record.side)
        try:
            await self._write(lambda: self._journal.note(record.port_id, record.side, **news))
        except OSError as error:
            self.again(key, news)
            log.error("change not noted", port_id=str(record.port_id), error=str(error))  # noqa: TRY400  # a full disk
            return False
        return True

    async def bring_about(self, record: NetworkRecord, told: Mapping[str, object], *, again: bool = False) -> bool:
        """Have what the record wants with what is told; whether nothing is left to do. Raises those of `FAILURES`.

        What the journal names ahead is made before the news are written: a guest stands still meanwhile.
        """
        changed = record.model_copy(update=dict(told))
        is_named = all(step in record.known for step in changed.wanted)
        is_stored = not told or (not is_named and await self.note(record, told))
        try:
            left = await self.settle(changed, again=again)
        finally:
            if told and is_named:
                is_stored = await self.note(record, told)
        return is_stored and not left

    async def settle(self, record: NetworkRecord, *, again: bool = False) -> tuple[str, ...]:
        """Bring about what the record wants; what is made already is made again only if `again`. Returns what could not
        be removed, by name. Raises those of `FAILURES`.

        Nothing is made that the journal does not name. What it names ahead is made at once: a disk may take longer than
        all else of a switchover.
        """
        wanted, made = record.wanted, record.known if again else record.steps
        bridges = {step.name for step in wanted if isinstance(step, Bridge)}
        # A bridge that is wanted with another MAC is the same device.
        unwanted = tuple(s for s in made if s not in wanted and not (isinstance(s, Bridge) and s.name in bridges))
        missing = wanted if again else tuple(step for step in wanted if step not in made)
        if any(step not in record.known for step in missing):
            steps = (*made, *(step for step in wanted if step not in made))
            await self._write(partial(self._journal.store_steps, record, steps))
        await self._maker.make(missing)
        self._voices.follow(record)
        left = await self._maker.undo(unwanted)
        await self._write(partial(self._journal.store_steps, record, wanted if not left else (*unwanted, *wanted)))
        if left:
            self._remains(record, left)
        elif record.is_over:
            self._journal.remove(record.port_id, record.side)
        return left

    async def clear(self, record: NetworkRecord) -> tuple[str, ...]:
        """Undo all that the record names, and forget it; returns what remains, by name. That is tried again, also by
        the next process.
        """
        self._voices.cease(record)
        await self.note(record, {"extension": False, "undone": True})
        try:
            left = await self._maker.undo(record.known)
            if not left:
                self._journal.remove(record.port_id, record.side)
        except FAILURES as error:
            left = (f"anything: {error}",)
        if left:
            self._remains(record, left)
            log.error("network not cleaned up", port_id=str(record.port_id), left=left)
        return left

    def _remains(self, record: NetworkRecord, left: tuple[str, ...]) -> None:
        self._problems[record.port_id] = f"not removed from the network: {', '.join(left)}"
        self.again((record.port_id, record.side))
