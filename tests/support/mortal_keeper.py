"""A keeper of a host's network in processes of their own that are killed between any two of their deeds.

A story is the moments of a port at one side. A process goes through it from where the last one came to, and a fuse
counts each deed that is seen outside: a file, a change of the kernel, a message, before and after it. When the fuse is
burnt the process kills itself as `kill -9` does. The next process restores, is told the moment again if the transfer
had not stored that it was told, and goes on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.keeper import NetworkKeeper
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.netlink import Netlink
from services.node_agent.network.nft import Nft
from services.node_agent.network.own_things import own_things, unclaimed
from services.node_agent.network.plan import EXTENSION_PREFIX, device_name, own_bridges
from services.node_agent.network.steps import Step
from services.node_agent.network.tap import Tap
from shared.messages.addresses import NetworkState
from shared.messages.porting import ServiceChangeAgreement, Side

CRASHED = 70
_WITHIN_S = 60.0


class Fuse:
    """Kills this process at the deed of this number; counts on where it is None."""

    def __init__(self, deeds: int | None) -> None:
        self._deeds = deeds
        self.burnt = 0

    def burn(self) -> None:
        """A deed is about to be done, or has been done."""
        self.burnt += 1
        if self.burnt == self._deeds:
            os.kill(os.getpid(), signal.SIGKILL)


class _Journal(NetworkJournal):
    def __init__(self, directory: Path, fuse: Fuse) -> None:
        super().__init__(directory)
        self._fuse = fuse

    def store(self, record: NetworkRecord) -> None:
        self._fuse.burn()
        super().store(record)
        self._fuse.burn()

    def remove(self, port_id: UUID, side: Side) -> None:
        self._fuse.burn()
        super().remove(port_id, side)
        self._fuse.burn()


class FusedMaker(StepMaker):
    """Makes and undoes steps, each of which is a deed."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self._fuse = fuse

    async def _make(self, kernel: Netlink, step: Step) -> None:
        await super()._make(kernel, step)
        self._fuse.burn()

    async def _make_tables(self, steps: Iterable[Step]) -> None:
        await super()._make_tables(steps)
        self._fuse.burn()

    async def _undo(self, kernel: Netlink, step: Step) -> None:
        await super()._undo(kernel, step)
        self._fuse.burn()

    async def packets_routed(self, tables: Iterable[str]) -> int:
        """One has come by the own uplink."""
        return len(list(tables))


class _Wires:
    """Extensions with their real devices, and no lane."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse
        self._taps: dict[UUID, list[Tap]] = {}
        self.activated: set[UUID] = set()

    async def open(self, agreement: ServiceChangeAgreement, side: Side, *, activated: bool) -> None:
        if activated:
            self.activated.add(agreement.port_id)
        if agreement.port_id in self._taps or agreement.network is None:
            return
        taps = self._taps[agreement.port_id] = []
        async with Netlink() as kernel:
            for place, card in own_bridges(agreement.network):
                taps.append(Tap(device_name(EXTENSION_PREFIX, agreement.port_id, place), mtu_bytes=card.card.mtu))
                self._fuse.burn()
                await kernel.join_bridge(taps[-1].name, card.donor_bridge if side is Side.OUTBOUND else card.bridge)
                self._fuse.burn()

    def deactivate(self, port_id: UUID) -> None:
        self.activated.discard(port_id)

    def activate(self, port_id: UUID) -> None:
        self.activated.add(port_id)

    async def close(self, port_id: UUID) -> None:
        for tap in self._taps.pop(port_id, ()):
            tap.close()
            self._fuse.burn()

    def idle_s(self, port_id: UUID) -> float | None:
        return 60.0 if port_id in self._taps else None


Moment = Callable[["Process"], Awaitable[object]]
"""What a transfer tells at one moment; returns when the transfer would store its own end."""


class Process:
    """One process over a folder."""

    def __init__(self, folder: Path, fuse: Fuse) -> None:
        self.fuse = fuse
        self.folder = folder
        self.journal = _Journal(folder / "network", fuse)
        self.maker = FusedMaker(fuse)
        self.wires = _Wires(fuse)
        self.keeper = NetworkKeeper(
            self.journal, self.maker, extensions=self.wires, report=self._report, look_every_s=0.01, idle_s=0.01
        )

    def _report(self, agreement: ServiceChangeAgreement, state: NetworkState, detail: str = "") -> None:
        """As the outbox: what was said arrives."""
        self.fuse.burn()
        with (self.folder / "told").open("a", encoding="ascii") as file:
            file.write(f"{agreement.port_id} {state}{': ' if detail else ''}{detail}\n")
        self.fuse.burn()

    async def settled(self) -> None:
        """What was told has been carried out."""
        async with asyncio.timeout(_WITHIN_S):
            while len(self.keeper._tasks):  # noqa: ASYNC110  # the keeper has nobody to tell it
                await asyncio.sleep(0.001)

    async def watched(self, is_so: Callable[[], bool]) -> None:
        """The keeper watches until something is so."""
        watching = asyncio.ensure_future(self.keeper.run())
        try:
            async with asyncio.timeout(_WITHIN_S):
                while not is_so():  # noqa: ASYNC110  # as above
                    await asyncio.sleep(0.005)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def strangers(self) -> list[str]:
        """What `vmport-node net list` would complain of: what is of no record, and what is missing."""
        records = self.journal.readable()
        found = [f"of no port: {step}" for step in unclaimed(await own_things(Nft()), records)]
        for record in records:
            found += [f"missing: {step}" for step in await StepMaker().missing(record.wanted)]
        return found


def in_a_process(do: Callable[[Fuse], Coroutine[Any, Any, object]], folder: Path, *, dies_at: int | None) -> int | None:
    """Do it in a process of its own; the number of its deeds, None if it was killed at one. Its errors are raised."""
    child = os.fork()
    if child == 0:
        fuse = Fuse(dies_at)
        try:
            asyncio.run(do(fuse))
            (folder / "deeds").write_text(str(fuse.burnt), "ascii")
            os._exit(0)
        except BaseException:  # noqa: BLE001  # of a process that has nobody else to tell
            (folder / "error").write_text(traceback.format_exc(), "utf-8")
            os._exit(CRASHED)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    if os.WEXITSTATUS(status):
        raise AssertionError((folder / "error").read_text("utf-8"))
    return int((folder / "deeds").read_text("ascii"))


class Mortal:
    """The host's node agent, one process after the other, over one folder."""

    def __init__(self, folder: Path, story: tuple[Moment, ...]) -> None:
        self.folder = folder
        self._story = story
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def told(self) -> list[str]:
        """What was said to the broker."""
        path = self.folder / "told"
        return path.read_text("ascii").splitlines() if path.exists() else []

    def live(self, *, dies_at: int | None = None) -> int | None:
        """A process that goes on to the story's end; the number of deeds it did, None if it was killed."""
        return in_a_process(self._go_on, self.folder, dies_at=dies_at)

    async def _go_on(self, fuse: Fuse) -> None:
        process = Process(self.folder, fuse)
        damaged = await process.keeper.restore()
        assert not damaged, damaged
        strangers = await process.strangers()
        assert not strangers, strangers
        place = self.folder / "place"
        for number in range(int(place.read_text("ascii")) if place.exists() else 0, len(self._story)):
            await self._story[number](process)
            place.write_text(str(number + 1), "ascii")
            fuse.burn()
        await process.settled()
        assert process.keeper.problems() == ()
        strangers = await process.strangers()
        assert not strangers, strangers


def at_once(say: Callable[[NetworkKeeper], None]) -> Moment:
    """What returns at once: the rest follows while the transfer has stored its end already."""

    async def moment(process: Process) -> None:
        say(process.keeper)

    return moment


def whole(do: Callable[[NetworkKeeper], Coroutine[Any, Any, object]]) -> Moment:
    """What the transfer waits for."""

    async def moment(process: Process) -> None:
        await process.settled()
        await do(process.keeper)

    return moment
