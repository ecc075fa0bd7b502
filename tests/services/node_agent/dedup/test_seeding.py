"""What goes ahead of a port's window: once, at its rate, and nothing but contents."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from services.node_agent.dedup.block_index import BlockIndex
from services.node_agent.dedup.exchange import Sources
from services.node_agent.dedup.seeding import (
    SEED,
    Seeding,
    SeedKeeper,
    SeedPlace,
    SeedSource,
    SeedTuning,
    pause_s,
    receive_seed,
)
from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.ram_layout import RamRange
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.testing import MemoryRoute, PlainSeal
from services.node_agent.page_codec.contents import CONTENT_BYTES, KEY_BYTES
from shared.page_stream.bodies import LaneRole

MIB = 1 << 20
SOON_S = 20.0
DOMAIN = """<domain type='qemu'><name>web</name><uuid>11111111-2222-3333-4444-555555555501</uuid>
<memory unit='MiB'>4</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os></domain>"""


def noise(seed: int, blocks: int) -> bytes:
    return np.random.default_rng(seed).bytes(blocks * CONTENT_BYTES)


def blocks_of(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[at : at + CONTENT_BYTES] for at in range(0, len(data), CONTENT_BYTES)]


class Seeded:
    """A guest with a disk, a recipient with a catalogue, and the disk lane between them."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.disk, self.images = tmp / "disk.raw", tmp / "images"
        self.disk.write_bytes(noise(1, 300) + bytes(MIB) + noise(2, 3))
        self.images.mkdir()
        self.hypervisor = FakeHypervisor()
        self.uuid = self.hypervisor.add(DOMAIN, memory=noise(3, 400) + noise(1, 20))
        self.there = SeedPlace(tmp / "there" / "seed", 64 * MIB)
        self.here = SeedPlace(tmp / "here" / "seed", 64 * MIB)
        self.route = MemoryRoute()
        self.seeding: Seeding

    @property
    def memory(self) -> bytes:
        return self.hypervisor.vms[self.uuid].memory

    @memory.setter
    def memory(self, memory: bytes) -> None:
        self.hypervisor.vms[self.uuid].memory = memory

    def came(self) -> list[bytes]:
        """What the recipient has stored."""
        return [block for path in self.there.files() for block in blocks_of(path)]

    @asynccontextmanager
    async def running(self, **tuning: float | None) -> AsyncIterator[asyncio.Task[None]]:
        """Both ends; the seeding is cancelled at the end, as when the window opens."""
        near, far = (
            LaneSession(link, LaneSettings(lane="p.disk", role=role), seal=PlainSeal())
            for link, role in ((self.route.a, LaneRole.INITIATOR), (self.route.b, LaneRole.ACCEPTOR))
        )
        source = SeedSource(
            vm_uuid=self.uuid,
            disks=[self.tmp / "gone", self.disk],
            disk_bytes=303 * CONTENT_BYTES,
            ram=[RamRange(0, 2 * MIB)],
        )
        fast: dict[str, float | None] = {
            "send_bytes_per_s": None,
            "read_bytes_per_s": None,
            "peek_bytes_per_s": None,
            "least_pause_s": 0.01,
        }

        async def take() -> None:
            stream = await far.accept()
            assert stream.label == SEED
            await receive_seed(
                stream, Sources(images=self.images, cached=(), index=BlockIndex(self.tmp / "i")), self.there
            )

        loop = asyncio.get_running_loop()
        with SeedKeeper(self.here) as keeper:
            self.seeding = Seeding(
                near,
                bytes(KEY_BYTES),
                source,
                hypervisor=self.hypervisor,
                keep=keeper.keep,
                tuning=SeedTuning(**{**fast, **tuning}),  # type: ignore[arg-type]  # its own fields
            )
            others = [loop.create_task(work) for work in (near.run(), far.run(), take())]
            seeding = loop.create_task(self.seeding.run())
            try:
                async with asyncio.timeout(SOON_S):
                    yield seeding
            finally:
                for task in (seeding, *others):
                    task.cancel()
                await asyncio.gather(seeding, *others, return_exceptions=True)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what the running ends come to."""
        while True:
            if holds():
                return
            await asyncio.sleep(0.002)


@pytest.fixture
def seeded(tmp_path: Path) -> Seeded:
    return Seeded(tmp_path)


async def test_disk_and_memory_go_ahead_once(seeded: Seeded) -> None:
    """Each content arrives once, in order, zeros and holes not at all; the donor keeps what it read of the memory."""
    async with seeded.running():
        await seeded.until(lambda: seeded.seeding.passes >= 3)
    wanted = [block for data in (noise(1, 300), noise(2, 3), noise(3, 400)) for block in _cut(data)]
    assert seeded.came() == wanted
    assert [block for path in seeded.here.files() for block in blocks_of(path)] == _cut(noise(3, 400))
    assert seeded.seeding.sent_bytes < len(wanted) * CONTENT_BYTES * 1.01
    for progress in (seeded.seeding.disk, seeded.seeding.memory):
        assert (progress.processed_bytes, progress.remaining_bytes) == (progress.total_bytes, 0)


async def test_what_the_recipient_has_does_not_go(seeded: Seeded) -> None:
    """A published base image is known before anything is sent."""
    (seeded.images / "base.raw").write_bytes(noise(1, 300)[::-1] + noise(1, 300))
    async with seeded.running():
        await seeded.until(lambda: seeded.seeding.passes >= 1)
    assert seeded.came() == _cut(noise(2, 3)) + _cut(noise(3, 400))


async def test_later_passes_send_what_has_come_to_rest(seeded: Seeded) -> None:
    """New contents go when two passes found them; the guest's QEMU is asked again each time."""
    async with seeded.running():
        await seeded.until(lambda: seeded.seeding.passes >= 1)
        seeded.memory = noise(8, 1) + seeded.memory[CONTENT_BYTES:]
        before = len(seeded.came())
        changed_in = seeded.seeding.passes
        await seeded.until(lambda: seeded.seeding.passes >= changed_in + 3)
    assert seeded.came()[before:] == _cut(noise(8, 1))
    assert seeded.hypervisor.peeks >= 2 * seeded.seeding.passes


async def test_it_keeps_to_its_rate(seeded: Seeded) -> None:
    """Of 2.8 MB at 10 MB/s not all is sent after a tenth of a second; a burst is a tenth of a second's worth."""
    loop = asyncio.get_running_loop()
    async with seeded.running(send_bytes_per_s=10e6):
        await seeded.until(lambda: seeded.seeding.sent_bytes > 0)
        began_s = loop.time()
        await seeded.until(lambda: seeded.seeding.passes >= 1)
        took_s = loop.time() - began_s
    assert seeded.seeding.sent_bytes > 2_800_000
    assert took_s > (seeded.seeding.sent_bytes - 1_000_000 - 2 * 262_144) / 10e6


async def test_a_cancel_ends_it_at_once(seeded: Seeded) -> None:
    """The window opens while a piece waits for its turn: nobody waits for it, and what came stays."""
    loop = asyncio.get_running_loop()
    async with seeded.running(send_bytes_per_s=65536.0) as seeding:
        await seeded.until(lambda: bool(seeded.came()))
        seeding.cancel()
        began_s = loop.time()
        await asyncio.wait({seeding})
        assert loop.time() - began_s < 1.0
    assert seeded.came() == _cut(noise(1, 300))[: len(seeded.came())]


def test_a_long_pass_is_followed_by_a_long_pause() -> None:
    """The host's disk is read a fifth of the time at most."""
    assert pause_s(10.0, least_s=300.0) == 300.0
    assert pause_s(1800.0, least_s=300.0) == 7200.0


async def test_a_full_recipient_ends_it(seeded: Seeded) -> None:
    """It stores as much as it said, then nothing more is read or sent."""
    seeded.there = SeedPlace(seeded.there.folder, 50 * CONTENT_BYTES)
    async with seeded.running() as seeding:
        await asyncio.wait({seeding})
    assert seeded.came() == _cut(noise(1, 300))[:50]


async def test_a_recipient_that_keeps_nothing_is_sent_nothing(seeded: Seeded) -> None:
    """Its quota is nought."""
    seeded.there = SeedPlace(seeded.there.folder, 0)
    async with seeded.running() as seeding:
        await asyncio.wait({seeding})
    assert (seeded.came(), seeded.seeding.sent_bytes, seeded.hypervisor.peeks) == ([], 0, 0)


async def test_memory_that_cannot_be_read_is_absent(seeded: Seeded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk goes all the same."""

    async def refuse(*_: object) -> bytes:
        raise HypervisorError("read memory", "no")

    monkeypatch.setattr(seeded.hypervisor, "peek_memory", refuse)
    async with seeded.running():
        await seeded.until(lambda: seeded.seeding.passes >= 2)
    assert seeded.came() == _cut(noise(1, 300)) + _cut(noise(2, 3))
    assert seeded.here.files() == ()


async def test_a_recipient_that_cannot_write_costs_the_seeding(seeded: Seeded) -> None:
    """Its error ends the seeding, which says so and raises nothing."""
    seeded.there = SeedPlace(seeded.disk / "seed", 64 * MIB)
    async with seeded.running() as seeding:
        await asyncio.wait({seeding})
    assert seeding.exception() is None
    assert seeded.seeding.sent_bytes < 1 << 20


def _cut(data: bytes) -> list[bytes]:
    return [data[at : at + CONTENT_BYTES] for at in range(0, len(data), CONTENT_BYTES)]
