"""The contents that this node's ports know: where they are cached, what is offered, what is searched. Joins the cache,
the exchange (both in `dedup`) and a port's codecs.

Only a VM's own files are offered and looked through for it, and the catalogue of published base images. Of a VM with
an encrypted disk nothing is stored or kept at either node, and nothing is sent ahead: what its tenant encrypts must not
lie around in clear.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from services.node_agent.dedup.base_images import BaseImages, ImageReader, OverlaysWanted, published
from services.node_agent.dedup.block_index import BlockIndex
from services.node_agent.dedup.cache import INDEX_KEPT_S, Cache
from services.node_agent.dedup.early_transfer import receive_early, send_early
from services.node_agent.dedup.exchange import (
    EXCHANGE_WITHIN_S,
    AskingReader,
    ExchangeResult,
    Sources,
    answer_offers,
    index_images,
    offer_contents,
    serve_blocks,
    tell_ready,
)
from services.node_agent.dedup.file_scans import FileScans
from services.node_agent.dedup.seeding import Seeding, SeedKeeper, SeedPlace, SeedSource, SeedTuning, receive_seed
from services.node_agent.hypervisor.disk_images import DiskImageError
from services.node_agent.hypervisor.interface import Hypervisor, LiveVm
from services.node_agent.lanes.core.errors import StreamError
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.hello import STORING, Technique
from services.node_agent.settings import NodeSection
from services.node_agent.transfers.port_codecs import DonorCodecs, RecipientCodecs
from shared.domain import DomainXmlError, LayerFacts, describe
from shared.logs import get_logger
from shared.messages.porting import ServiceChangeAgreement

log = get_logger(__name__)

SENT = "sent"
RECEIVED = "received"
SEED = "seed"
"""At the recipient what seeding brought; at the donor what it sent of the memory, to be offered."""
SEEDED_EXCHANGE_WITHIN_S = 120.0
"""After seeding it is worth waiting longer for the exchange."""
SCANNED_AHEAD_S = 60.0
"""How long disks that were scanned ahead of a transfer wait for it."""
MIB = 1 << 20


class PortContents:
    """The known contents of one node."""

    def __init__(self, settings: NodeSection, *, quarantined: Callable[[UUID], Iterable[Path]]) -> None:
        """`quarantined` gives the disks of a VM that wait here for erasure since it left."""
        self._settings = settings
        self._quarantined = quarantined
        self._index = BlockIndex(settings.state_dir / "indexes")
        self._bases = BaseImages(settings.state_dir / "indexes")
        self._reader = ImageReader(self._bases)
        self._scans: dict[UUID, FileScans] = {}
        self._cache = Cache(
            settings.state_dir / "contents",
            self._index,
            keep_s=settings.keep_contents_s,
            quota_bytes=settings.keep_contents_mib * MIB,
        )

    def close(self) -> None:
        """Read no more base images."""
        self._reader.close()

    def outbound(self, agreement: ServiceChangeAgreement) -> OutboundContents:
        """For the side that the guest leaves."""
        scans = self._scans.pop(agreement.port_id, None) or FileScans()
        return OutboundContents(self._settings, self._cache, self._reader, agreement, scans)

    def inbound(self, agreement: ServiceChangeAgreement) -> InboundContents:
        """For the side where the guest arrives."""
        uuid, port_id = agreement.vm_uuid, agreement.port_id
        cached = [*self._cache.files(uuid, other_than=port_id), *self._quarantined(uuid)]
        without = techniques_off(self._settings, agreement)
        sources = Sources(
            images=None if Technique.BASE in without else self._settings.base_image_dir,
            cached=() if Technique.CACHE in without else tuple(cached),
            index=self._index,
        )
        folder = self._cache.folder(uuid, port_id, RECEIVED)
        seeds = agreement.limits.seed and Technique.CACHE not in without
        seed = seed_place(self._cache, agreement) if seeds else None
        bases = self._bases if self._settings.overlays else None
        codecs = RecipientCodecs(folder, without=without, stores=not is_encrypted(agreement))
        return InboundContents(codecs, sources, bases, seed)

    async def read_ahead(self, vm: LiveVm) -> None:
        """A port of this VM may come: know by then what its disks lie on."""
        bases = {beneath[0].path: None for beneath in vm.layers.values() if len(beneath) == 1}
        await self._reader.read_ahead(Path(path) for path in bases if path is not None)

    async def scan_ahead(self, port_id: UUID, files: Iterable[Path]) -> None:
        """Read what an outbound transfer will offer that begins in a moment; discarded if it does not."""
        if port_id in self._scans or {Technique.BASE, Technique.CACHE} <= set(self._settings.without):
            return
        scans = self._scans[port_id] = FileScans()
        scans.begin(files)
        try:
            await asyncio.sleep(SCANNED_AHEAD_S)
        finally:
            if self._scans.get(port_id) is scans:
                del self._scans[port_id]
                await scans.close()

    async def sweep(self, active: Collection[UUID]) -> None:
        """Remove what was kept long enough, and index new base images. What fails is logged and tried the next time."""
        try:
            await asyncio.to_thread(self._cache.sweep, time.time(), active=active)
        except (OSError, DiskImageError) as error:
            log.warning("cache cannot be swept", error=str(error))
        try:
            await asyncio.to_thread(index_images, self._settings.base_image_dir, self._index)
            await asyncio.to_thread(self._bases.sweep, time.time() - INDEX_KEPT_S)
            if self._settings.overlays:
                await self._reader.read_ahead(await asyncio.to_thread(published, self._settings.base_image_dir))
        except OSError as error:
            log.warning("base images cannot be indexed", error=str(error))


def is_encrypted(agreement: ServiceChangeAgreement) -> bool:
    """Whether the VM has an encrypted disk. One that cannot be read counts as if it had."""
    try:
        return bool(describe(agreement.domain_xml).encrypted_disks)
    except DomainXmlError:
        return True


def techniques_off(settings: NodeSection, agreement: ServiceChangeAgreement) -> frozenset[Technique]:
    """What is not used for a port."""
    return frozenset(settings.without) | (STORING if is_encrypted(agreement) else frozenset())


def seed_place(cache: Cache, agreement: ServiceChangeAgreement) -> SeedPlace:
    """Where this node stores the seed of a port."""
    return SeedPlace(cache.folder(agreement.vm_uuid, agreement.port_id, SEED), cache.quota_bytes)


class OutboundContents:
    """The contents of one outbound transfer."""

    def __init__(
        self,
        settings: NodeSection,
        cache: Cache,
        reader: ImageReader,
        agreement: ServiceChangeAgreement,
        scans: FileScans,
    ) -> None:
        """`scans` may have begun; they are closed with this."""
        self._reader = reader
        uuid, port_id = agreement.vm_uuid, agreement.port_id
        without = techniques_off(settings, agreement)
        caches = Technique.CACHE not in without
        self._cached = cache.files(uuid, other_than=port_id) if caches else ()
        self._learnt: ExchangeResult | None = None
        folder = cache.folder(uuid, port_id, SENT)
        self.codecs = DonorCodecs(folder, scratch=settings.state_dir, without=without)
        self._scans = scans
        self._seed = seed_place(cache, agreement)
        asked = agreement.limits.seed_bandwidth_bytes_per_s
        self._seed_rate = settings.seed_bandwidth_bytes_per_s if asked is None else asked

    @contextmanager
    def seeding(self, lane: LaneSession, source: SeedSource, hypervisor: Hypervisor) -> Iterator[Seeding]:
        """The seeding, not running yet; it has nothing to send where this node caches nothing.

        End it before the block ends.
        """
        if Technique.CACHE not in self.codecs.techniques:
            source = replace(source, disks=(), ram=())
        with SeedKeeper(self._seed) as keeper:
            tuning = SeedTuning(send_bytes_per_s=self._seed_rate)
            key = self.codecs.port.hello.key
            yield Seeding(lane, key, source, hypervisor=hypervisor, keep=keeper.keep, tuning=tuning)

    async def overlays(self, layers: Mapping[str, Sequence[LayerFacts]]) -> OverlaysWanted | None:
        """What the recipient may be asked to make overlays on; None where the disks cannot be overlays there."""
        return await self._reader.beneath(layers)

    def scan_ahead(self, disks: Iterable[Path]) -> None:
        """Begin to read what `learn` will offer; `close_scans` at the end."""
        if self._learns:
            self._scans.begin(disks)

    async def close_scans(self) -> None:
        """Read no more; idempotent."""
        await self._scans.close()

    @property
    def _learns(self) -> bool:
        return bool(self.codecs.techniques & {Technique.BASE, Technique.CACHE})

    async def learn(self, control: LaneSession, disks: Sequence[Path]) -> None:
        """Find out what the recipient has. Raises LaneError."""
        if not self._learns:
            return
        began_s = time.monotonic()
        seeded = self._seed.files()
        within_s = SEEDED_EXCHANGE_WITHIN_S if seeded else EXCHANGE_WITHIN_S
        files = [*disks, *seeded, *self._cached]
        try:
            learnt = await offer_contents(control, self.codecs.port, files, self._scans, within_s=within_s)
        finally:
            await self._scans.close()
        self._learnt = learnt
        log.info(
            "contents exchanged",
            known=learnt.count,
            offered=learnt.offers,
            exchanged_bytes=learnt.exchanged_bytes,
            seconds=round(time.monotonic() - began_s, 3),
        )

    async def send_early(self, lane: LaneSession, images: Sequence[Path], *, over: Callable[[], bool]) -> None:
        """After `learn`, send contents of raw images until it is `over`. Raises LaneError, StreamError."""
        if Technique.EARLY in self.codecs.techniques:
            await send_early(lane, self.codecs.port, images, over=over)

    async def serve_refetches(self) -> None:
        """Send contents that the recipient asks for after `learn`; cancel it at the end."""
        if self._learnt is None:
            return
        try:
            await serve_blocks(self._learnt)
        finally:
            if self._learnt.known is not None:
                self._learnt.known.close()


class InboundContents:
    """The contents of one inbound transfer."""

    def __init__(
        self, codecs: RecipientCodecs, sources: Sources, bases: BaseImages | None, seed: SeedPlace | None = None
    ) -> None:
        """`seed` is where to store the seed; None: none is received. Without `bases` no disk lies on an image."""
        self.codecs = codecs
        self._sources = sources
        self._bases = bases
        self._seed = seed
        self._seeded = False

    async def receive_seed(self, stream: LaneStream) -> None:
        """Store what the donor's seeding sends, once, until it ends or is cancelled. Raises LaneError."""
        if self._seed is None or self._seeded:
            stream.reset("this node receives no seed")
            return
        self._seeded = True
        await receive_seed(stream, self._sources, self._seed)

    async def receive_early(self, stream: LaneStream) -> None:
        """Store what comes while the hypervisors prepare themselves. Raises as `early_transfer.receive_early`."""
        await receive_early(stream, self.codecs.port, self.codecs.arrivals)

    async def bases(self, wanted: OverlaysWanted) -> Mapping[str, Path] | None:
        """The catalogue's own file for every target; None where one is not published here, or none may be a base."""
        if self._bases is None:
            log.info("overlays off", reason="settings")
            return None
        images = wanted.bases
        try:
            found = await asyncio.to_thread(self._bases.find, self._sources.images, set(images.values()))
        except OSError as error:
            log.warning("base images cannot be searched", error=str(error))
            return None
        if missing := sorted(target for target, image in images.items() if image not in found):
            log.info("base images missing", disks=missing)
            return None
        return {target: found[image] for target, image in images.items()}

    async def answer(self, stream: LaneStream) -> None:
        """Answer the donor's offers, then ask it for what turns out to have changed; until cancelled.

        Raises LaneError; whatever else fails, fails without harm to the port.
        """
        known = None
        try:
            known = await answer_offers(stream, self._with_seed())
            if known is None:
                stream.write_eof()
                return
            reader = AskingReader(known, self.codecs.arrivals)
            self.codecs.know(reader)
            await tell_ready(stream, known)
            await reader.serve(stream, self._sources.index)
        except (StreamError, CodecError, OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            log.warning("contents exchange failed", error=reason)
            stream.reset(reason)
        finally:
            if known is not None:
                known.close()

    def _with_seed(self) -> Sources:
        """The seed is known like what an earlier port left."""
        if self._seed is None:
            return self._sources
        return replace(self._sources, cached=(*self._seed.files(), *self._sources.cached))
