"""What a port leaves serves the next one of the same VM: a second attempt, and the return port."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from blake3 import blake3

from services.node_agent.dedup import file_scans
from services.node_agent.dedup.base_images import BaseImage, OverlaysWanted
from services.node_agent.dedup.blocks import Scanned, scan
from services.node_agent.dedup.seeding import SEED, SeedSource
from services.node_agent.hypervisor.ram_layout import RamRange
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.testing import MemoryRoute, PlainSeal
from services.node_agent.page_codec.contents import CONTENT_BYTES
from services.node_agent.page_codec.hello import STORING, Technique
from services.node_agent.settings import NodeSection
from services.node_agent.state.journal import Journal
from services.node_agent.transfers import port_contents
from services.node_agent.transfers.port_contents import InboundContents, OutboundContents, PortContents
from shared.messages.porting import ServiceChangeAgreement
from shared.messages.service_change import PortLimits
from shared.page_stream.bodies import LaneRole
from shared.topology import Lane
from tests.support.lane_traffic import hot_stream

DOMAIN = """<domain type='qemu'><name>web</name><uuid>11111111-2222-3333-4444-555555555501</uuid>
<memory unit='MiB'>1</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os></domain>"""
DISK = np.random.default_rng(11).bytes(400 * CONTENT_BYTES)
VM = uuid4()


def node(folder: Path, **settings: object) -> PortContents:
    """One node's contents; its catalogue is `images`."""
    section = NodeSection.model_validate({"state_dir": folder, "base_image_dir": folder / "images", **settings})
    (folder / "journal").mkdir(parents=True, exist_ok=True)
    return PortContents(section, quarantined=Journal(folder / "journal").quarantined_disks)


def agreement(vm: UUID = VM, *, seed: bool = False) -> ServiceChangeAgreement:
    """Only what is looked at here."""
    limits = PortLimits(seed=seed, window_start=datetime.now(UTC))
    facts: dict[str, Any] = {"port_id": uuid4(), "vm_uuid": vm, "limits": limits, "domain_xml": DOMAIN}
    return ServiceChangeAgreement.model_construct(**facts)


@asynccontextmanager
async def porting(
    donor: PortContents,
    recipient: PortContents,
    disk: Path,
    vm: UUID = VM,
    *,
    ahead: tuple[SeedSource, FakeHypervisor] | None = None,
    seed: bool = True,
    agreed: ServiceChangeAgreement | None = None,
) -> AsyncIterator[tuple[OutboundContents, InboundContents]]:
    """Both sides, after one pass of seeding and the exchange; closed at the end, as when a port ends."""
    route, agreed = MemoryRoute(), agreed or agreement(vm, seed=seed)
    near, far = (
        LaneSession(link, LaneSettings(lane="p.control", role=role), seal=PlainSeal())
        for link, role in ((route.a, LaneRole.INITIATOR), (route.b, LaneRole.ACCEPTOR))
    )
    outbound, inbound = donor.outbound(agreed), recipient.inbound(agreed)

    async def answer() -> None:
        stream = await far.accept()
        if stream.label == SEED:
            await inbound.receive_seed(stream)
            stream = await far.accept()
        await inbound.answer(stream)

    async def send_ahead(source: SeedSource, host: FakeHypervisor) -> None:
        with outbound.seeding(near, source, host) as seeding:
            running = loop.create_task(seeding.run())
            while True:
                await asyncio.wait({running}, timeout=0.005)
                if seeding.passes or running.done():
                    break
            running.cancel()
            await asyncio.wait({running})

    loop = asyncio.get_running_loop()
    async with asyncio.timeout(30):
        tasks = [loop.create_task(work) for work in (near.run(), far.run(), answer())]
        try:
            if ahead is not None:
                await send_ahead(*ahead)
            await outbound.learn(near, [disk])
            tasks.append(loop.create_task(outbound.serve_refetches()))
            yield outbound, inbound
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            outbound.codecs.close()
            inbound.codecs.close()


def send(outbound: OutboundContents, inbound: InboundContents, disk: bytes) -> int:
    """Mirror a disk; it must arrive exactly. Returns the bytes that crossed."""
    stream = struct.pack(">I", 3) + struct.pack(">IHHQQI", 0x25609513, 0, 1, 9, 0, len(disk)) + disk
    encoder, _ = outbound.codecs.pair(Lane.DISK)
    _, decoder = inbound.codecs.pair(Lane.DISK)
    payloads = [each for at in range(0, len(stream), 1 << 18) for each in encoder.encode(stream[at : at + (1 << 18)])]
    payloads += encoder.flush()
    assert b"".join(bytes(chunk) for payload in payloads for chunk in decoder.decode(payload)) == stream
    return sum(map(len, payloads))


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(DISK)
    return path


async def test_a_second_attempt_sends_only_what_is_missing(tmp_path: Path, disk: Path) -> None:
    """The first attempt broke off after most of the disk; the second, with new processes, sends the rest."""
    border = 300 * CONTENT_BYTES
    async with porting(node(tmp_path / "a"), node(tmp_path / "b"), disk) as (outbound, inbound):
        assert send(outbound, inbound, DISK[:border]) > border
    async with porting(node(tmp_path / "a"), node(tmp_path / "b"), disk) as (outbound, inbound):
        assert send(outbound, inbound, DISK) < len(DISK) - border + 4000


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that was scanned, each time."""
    files: list[Path] = []

    def watched(path: Path, *, limit: int, stopped: Callable[[], bool]) -> Scanned:
        files.append(path)
        return scan(path, limit=limit, stopped=stopped)

    monkeypatch.setattr(file_scans, "scan", watched)
    return files


def knowing(folder: Path) -> PortContents:
    """A node whose catalogue has the disk."""
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "base.raw").write_bytes(DISK)
    return node(folder)


async def test_what_was_read_ahead_is_not_read_again(tmp_path: Path, disk: Path, scanned: list[Path]) -> None:
    """The transfer that begins then takes it."""
    agreed, donor = agreement(), node(tmp_path / "a")
    ahead = asyncio.ensure_future(donor.scan_ahead(agreed.port_id, [disk]))
    await asyncio.sleep(0)
    async with porting(donor, knowing(tmp_path / "b"), disk, agreed=agreed) as (outbound, inbound):
        assert send(outbound, inbound, DISK) < len(DISK) / 50
    assert scanned == [disk]
    ahead.cancel()
    await asyncio.wait({ahead})


async def test_what_no_half_takes_is_forgotten(
    tmp_path: Path, disk: Path, scanned: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port ended before it began here; one that comes all the same reads for itself."""
    monkeypatch.setattr(port_contents, "SCANNED_AHEAD_S", 0.0)
    agreed, donor = agreement(), node(tmp_path / "a")
    await donor.scan_ahead(agreed.port_id, [disk])
    before = len(scanned)
    async with porting(donor, knowing(tmp_path / "b"), disk, agreed=agreed):
        assert len(scanned) == before + 1


async def test_a_node_without_the_exchange_reads_nothing_ahead(tmp_path: Path, disk: Path, scanned: list[Path]) -> None:
    """It would offer nothing."""
    donor = node(tmp_path / "a", without=[Technique.BASE, Technique.CACHE])
    async with asyncio.timeout(10):
        await donor.scan_ahead(uuid4(), [disk])
    assert scanned == []


async def test_the_way_home_refers_to_the_memory_that_left(tmp_path: Path, disk: Path) -> None:
    """Pages that the donor sent in full are known to it when the guest comes back from where they arrived."""
    pages = np.random.default_rng(3).integers(0, 256, (300, CONTENT_BYTES), dtype=np.uint8)
    async with porting(node(tmp_path / "a"), node(tmp_path / "b"), disk) as (outbound, _):
        assert outbound.codecs.port.keeper is not None
        outbound.codecs.port.keeper(pages)
    there = tmp_path / "there.raw"
    there.write_bytes(pages.tobytes())
    async with porting(node(tmp_path / "b"), node(tmp_path / "a"), there) as (outbound, inbound):
        assert send(outbound, inbound, pages.tobytes()) < 3000


@pytest.mark.parametrize("technique", [Technique.CACHE, None])
async def test_another_vm_and_a_switched_off_technique_know_nothing(
    tmp_path: Path, disk: Path, technique: Technique | None
) -> None:
    """What one VM left is never looked through for another one."""
    settings = {"without": [technique]} if technique else {}
    async with porting(node(tmp_path / "a"), node(tmp_path / "b", **settings), disk) as (outbound, inbound):
        send(outbound, inbound, DISK)
    vm = VM if technique else uuid4()
    async with porting(node(tmp_path / "a"), node(tmp_path / "b", **settings), disk, vm) as (outbound, inbound):
        assert send(outbound, inbound, DISK) > len(DISK)


@pytest.mark.parametrize(
    ("without", "seed", "known"), [((), True, True), ((Technique.CACHE,), True, False), ((), False, False)]
)
async def test_a_seed_is_known_to_the_port_itself(
    tmp_path: Path, disk: Path, without: tuple[Technique, ...], *, seed: bool, known: bool
) -> None:
    """Disk and memory that were seeded cross as references.

    A donor that caches nothing seeds nothing, and a recipient that did not agree to it takes nothing.
    """
    donor, recipient = node(tmp_path / "a", without=without), node(tmp_path / "b")
    pages = np.random.default_rng(3).integers(0, 256, (100, CONTENT_BYTES), dtype=np.uint8).tobytes()
    host = FakeHypervisor()
    vm = host.add(DOMAIN, memory=pages)
    source = SeedSource(vm_uuid=vm, disks=[disk], disk_bytes=len(DISK), ram=[RamRange(0, 1 << 20)])
    async with porting(donor, recipient, disk, ahead=(source, host), seed=seed) as (outbound, inbound):
        crossed = send(outbound, inbound, DISK + pages)
    assert (crossed < 6000) if known else (crossed > len(DISK))


@pytest.mark.parametrize("overlays", [True, False])
async def test_a_node_that_makes_no_overlays_reads_no_image_for_them(tmp_path: Path, overlays: bool) -> None:  # noqa: FBT001
    """And finds none to lay a disk on; its contents are known all the same."""
    images = tmp_path / "published"
    images.mkdir()
    (images / "base.raw").write_bytes(DISK)
    recipient = node(tmp_path / "b", base_image_dir=images, overlays=overlays)
    await recipient.sweep(())
    wanted = OverlaysWanted(
        bases={"vda": BaseImage(blake3=blake3(DISK).hexdigest(), size_bytes=len(DISK), format="raw")}
    )
    found = await recipient.inbound(agreement()).bases(wanted)
    assert found == ({"vda": images / "base.raw"} if overlays else None)
    assert len(list((tmp_path / "b" / "indexes").iterdir())) == (2 if overlays else 1)
    recipient.close()


async def test_what_is_kept_goes_by_the_sweep(tmp_path: Path, disk: Path) -> None:
    """Nothing is kept past its time."""
    recipient = node(tmp_path / "b", keep_contents_s=0)
    async with porting(node(tmp_path / "a"), recipient, disk) as (outbound, inbound):
        send(outbound, inbound, DISK)
    assert list((tmp_path / "b" / "contents").iterdir())
    await recipient.sweep(())
    assert not list((tmp_path / "b" / "contents").iterdir())


LUKS = "<disk><driver type='qcow2'/><source file='/l'><encryption format='luks'/></source><target dev='vda'/></disk>"


def contents_in(folder: Path) -> list[Path]:
    """Files of contents, of both nodes."""
    return list(folder.rglob("*.contents"))


@pytest.mark.parametrize("encrypted", [True, False])
async def test_of_an_encrypted_vm_nothing_is_stored_at_either_node(
    tmp_path: Path, disk: Path, *, encrypted: bool
) -> None:
    """Not even while the port runs, not by seeding, and not for a return port; blocks cross as they are."""
    xml = DOMAIN.replace("</domain>", f"<devices>{LUKS}</devices></domain>") if encrypted else DOMAIN
    agreed = agreement(seed=True).model_copy(update={"domain_xml": xml})
    donor, recipient = node(tmp_path / "a"), node(tmp_path / "b")
    async with porting(donor, recipient, disk, agreed=agreed) as (outbound, inbound):
        crossed = send(outbound, inbound, DISK)
        pages, _ = outbound.codecs.pair(Lane.MEMORY)
        pages.encode(hot_stream(1))
        pages.flush()
        while_it_runs = contents_in(tmp_path)
    assert bool(while_it_runs) is not encrypted
    assert bool(contents_in(tmp_path)) is not encrypted
    assert crossed >= len(DISK)
    assert (inbound._seed is None) is encrypted


@pytest.mark.parametrize("xml", ["<domain", "not XML"])
def test_what_cannot_be_read_counts_as_encrypted(tmp_path: Path, xml: str) -> None:
    """The transfer fails later, by its own check; nothing is stored until then."""
    agreed = agreement().model_copy(update={"domain_xml": xml})
    assert port_contents.is_encrypted(agreed)
    assert port_contents.techniques_off(NodeSection(state_dir=tmp_path), agreed) >= STORING
