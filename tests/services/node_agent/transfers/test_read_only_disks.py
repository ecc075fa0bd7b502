"""Read-only disks and media cross as files before the migration: whole, or the port ends and nothing is left."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from services.node_agent.hypervisor.disk_images import DiskImageError
from services.node_agent.hypervisor.fake_host import DISK_BYTES
from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.read_only_images import open_made
from services.node_agent.lanes.arrivals import Arrivals
from services.node_agent.lanes.core.errors import QuestionError, StreamResetError
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.session import LaneSession
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.lanes.testing import MemoryRoute, PlainSeal
from services.node_agent.page_codec.codec import CodecError
from services.node_agent.page_codec.contents import CONTENT_BYTES
from services.node_agent.page_codec.disk.image_stream import ImageEncoder
from services.node_agent.page_codec.port_codec import PortDecoder, PortEncoder
from services.node_agent.page_codec.store import FileStore
from services.node_agent.state.journal import Kind
from services.node_agent.transfers import read_only_disks
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.outbound_result import OutboundResult
from services.node_agent.transfers.read_only_disks import (
    READ_ONLY,
    ReadOnlyImage,
    ReadOnlyReceiver,
    of_reserved,
    send_read_only,
)
from shared.messages.porting import ReservedDisk, Side
from shared.messages.vm import VmState
from shared.page_stream.bodies import LaneRole, StreamKind
from shared.topology import Lane
from tests.support.lane_credentials import Pair as CredentialsPair
from tests.support.transfer_pair import Pair, made_pair

KEY = bytes(32)
ISO = np.random.default_rng(5).bytes(70 * CONTENT_BYTES) + bytes(90 * CONTENT_BYTES) + b"the end of it"
SOON_S = 10.0


class Ends:
    """A disk lane, a donor's files, and the recipient's receiver."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        route = MemoryRoute()
        self.near, self.far = (
            LaneSession(link, LaneSettings(lane="p.disk", role=role), seal=PlainSeal())
            for link, role in ((route.a, LaneRole.INITIATOR), (route.b, LaneRole.ACCEPTOR))
        )
        self.running = [asyncio.ensure_future(session.run()) for session in (self.near, self.far)]
        self.store = FileStore(tmp / "store", keep=1024)
        self.port = PortEncoder(KEY)
        self.sent: list[int] = []
        self.received: asyncio.Task[None] | None = None

    def image(self, target: str, data: bytes, *, agreed_bytes: int | None = None) -> ReadOnlyImage:
        """A file at the donor."""
        path = self.tmp / f"{target}.iso"
        path.write_bytes(data)
        return ReadOnlyImage(target, str(path), len(data) if agreed_bytes is None else agreed_bytes)

    def disk(self, target: str, size_bytes: int, *, image_format: str = "raw") -> ReservedDisk:
        """A file that was made at the recipient."""
        path = self.tmp / "there" / f"{target}.raw"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size_bytes))
        return ReservedDisk(
            target=target,
            path=str(path),
            format=image_format,
            virtual_size_bytes=size_bytes,
            read_only=True,
            file_bytes=size_bytes,
        )

    @staticmethod
    def at(disk: ReservedDisk) -> Path:
        """Where it lies."""
        return Path(disk.path)

    def receive(self, *disks: ReservedDisk) -> ReadOnlyReceiver:
        """Serve the donor's stream."""
        receiver = ReadOnlyReceiver(of_reserved(disks), PortDecoder(lambda _: self.store), Arrivals())

        async def serve() -> None:
            stream = await self.far.accept()
            try:
                await receiver.receive(stream)
            except (DiskImageError, CodecError) as error:
                stream.reset(str(error))
                raise

        self.received = asyncio.ensure_future(serve())
        return receiver

    async def send(self, *images: ReadOnlyImage) -> None:
        """The donor's side."""
        async with asyncio.timeout(SOON_S):
            await send_read_only(self.near, self.port, images, self.sent.append)

    async def stream(self) -> tuple[LaneStream, ImageEncoder]:
        """For a donor that does as it likes."""
        stream, encoder = self.near.open_stream(StreamKind.DISK, READ_ONLY), ImageEncoder(self.port)
        await stream.write(encoder.greet())
        return stream, encoder

    async def failure(self) -> BaseException:
        """How the recipient's side ended."""
        assert self.received is not None
        async with asyncio.timeout(SOON_S):
            await asyncio.wait({self.received})
        error = self.received.exception()
        assert error is not None
        return error

    async def close(self) -> None:
        """End all."""
        tasks = [*self.running, *([self.received] if self.received else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.store.close()


@pytest.fixture
async def ends(tmp_path: Path) -> AsyncIterator[Ends]:
    """Both ends of a disk lane."""
    made = Ends(tmp_path)
    yield made
    await made.close()


async def test_images_arrive_byte_for_byte(ends: Ends) -> None:
    """Also one that ends within a block, and one that is empty; holes stay holes."""
    other, nothing = ISO[: 3 * CONTENT_BYTES + 5], b""
    disks = [ends.disk(target, len(data)) for target, data in (("sda", ISO), ("sdb", other), ("fda", nothing))]
    receiver = ends.receive(*disks)
    await ends.send(ends.image("sda", ISO), ends.image("sdb", other), ends.image("fda", nothing))
    assert [ends.at(disk).read_bytes() for disk in disks] == [ISO, other, nothing]
    assert receiver.missing == set()
    assert sum(ends.sent) == len(ISO) + len(other)


async def test_a_file_that_is_not_as_agreed_is_not_sent(ends: Ends) -> None:
    """Another size is another medium."""
    receiver = ends.receive(ends.disk("sda", len(ISO)))
    with pytest.raises(DiskImageError, match="no regular file of 5 bytes"):
        await ends.send(ends.image("sda", ISO, agreed_bytes=5))
    assert isinstance(await ends.failure(), StreamResetError)
    assert receiver.missing == {"sda"}


async def test_a_file_that_changes_meanwhile_is_not_sent(ends: Ends) -> None:
    """The recipient would have half of each."""
    image = ends.image("sda", ISO)
    ends.receive(ends.disk("sda", len(ISO)))

    def changes(_: int) -> None:
        Path(image.path).write_bytes(ISO[::-1])

    with pytest.raises(DiskImageError, match="changed while it was sent"):
        await send_read_only(ends.near, ends.port, [image], changes)
    assert isinstance(await ends.failure(), StreamResetError)


async def test_what_was_not_agreed_is_refused(ends: Ends) -> None:
    """Another disk, another size, or the same one again."""
    ends.receive(ends.disk("sda", 5))
    with pytest.raises(StreamResetError, match="not agreed"):
        await ends.send(ends.image("sdb", b"12345"))


async def test_an_image_is_taken_once(ends: Ends) -> None:
    """A second one over the first would not be what was confirmed."""
    receiver = ends.receive(ends.disk("sda", 5))
    with pytest.raises(StreamResetError, match="sent already"):
        await ends.send(ends.image("sda", b"12345"), ends.image("sda", b"54321"))
    assert receiver.missing == set()


async def test_damage_on_the_way_is_found(ends: Ends) -> None:
    """The digest is of the whole file, and the file is read again."""
    disk = ends.disk("sda", len(ISO))
    receiver = ends.receive(disk)
    stream, encoder = await ends.stream()
    await stream.write(encoder.begin("sda", len(ISO)))
    await stream.write(encoder.piece(0, ISO[:CONTENT_BYTES]))
    await stream.write(encoder.end(hashlib.sha256(ISO).digest()))
    with pytest.raises(StreamResetError, match="SHA-256"):
        await stream.read()
    assert receiver.missing == {"sda"}


async def test_nothing_is_written_past_the_end(ends: Ends) -> None:
    """However the donor lies about places."""
    disk = ends.disk("sda", CONTENT_BYTES)
    ends.receive(disk)
    stream, encoder = await ends.stream()
    await stream.write(encoder.begin("sda", CONTENT_BYTES))
    await stream.write(encoder.piece(CONTENT_BYTES, b"x" * 100))
    with pytest.raises(StreamResetError, match="past its end"):
        await stream.read()
    assert ends.at(disk).stat().st_size == CONTENT_BYTES


@pytest.mark.parametrize("order", ["piece", "end", "begin twice"])
async def test_the_wrong_order_is_refused(ends: Ends, order: str) -> None:
    """Nothing without a beginning, and one image at a time."""
    ends.receive(ends.disk("sda", 5))
    stream, encoder = await ends.stream()
    if order == "begin twice":
        await stream.write(encoder.begin("sda", 5))
        await stream.write(encoder.begin("sda", 5))
    else:
        await stream.write(encoder.piece(0, b"12345") if order == "piece" else encoder.end(bytes(32)))
    with pytest.raises(StreamResetError, match="wrong order"):
        await stream.read()


async def test_a_cancel_waits_with_closing_for_the_writer(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the writer's next bytes could go into a file that was opened meanwhile."""
    disk = ends.disk("sda", 2 * CONTENT_BYTES)
    writing, go_on, written = threading.Event(), threading.Event(), threading.Event()
    real, files = os.pwrite, []

    def opened(path: str, size_bytes: int) -> int:
        files.append(open_made(path, size_bytes))
        return files[0]

    def slow(file: int, data: memoryview, at: int) -> int:
        if file not in files:
            return real(file, data, at)
        if not writing.is_set():
            writing.set()
            go_on.wait(SOON_S)
            return real(file, data[:1], at)
        count = real(file, data, at)
        written.set()
        return count

    monkeypatch.setattr(read_only_disks, "open_made", opened)
    monkeypatch.setattr(os, "pwrite", slow)
    ends.receive(disk)
    sending = asyncio.ensure_future(ends.send(ends.image("sda", ISO[: 2 * CONTENT_BYTES])))
    await asyncio.to_thread(writing.wait, SOON_S)
    assert ends.received is not None
    ends.received.cancel()
    await asyncio.wait({ends.received})
    go_on.set()
    assert await asyncio.to_thread(written.wait, SOON_S)
    assert ends.at(disk).read_bytes() == ISO[: 2 * CONTENT_BYTES]
    sending.cancel()
    await asyncio.wait({sending})


async def test_a_link_in_the_place_of_the_file_is_not_followed(ends: Ends) -> None:
    """What it leads to stays as it is."""
    disk = ends.disk("sda", 5)
    victim = ends.tmp / "victim"
    victim.write_bytes(b"inner")
    ends.at(disk).unlink()
    ends.at(disk).symlink_to(victim)
    ends.receive(disk)
    with pytest.raises(StreamResetError):
        await ends.send(ends.image("sda", b"12345"))
    assert victim.read_bytes() == b"inner"


async def test_a_hostile_image_is_not_kept(ends: Ends) -> None:
    """A QCOW2 image that names a file of this host would make QEMU open it."""
    header = bytearray(512)
    header[:4], header[7] = b"QFI\xfb", 3
    header[8:16], header[16:20], header[24:32] = (
        (104).to_bytes(8, "big"),
        (11).to_bytes(4, "big"),
        (512).to_bytes(8, "big"),
    )
    header[104:115] = b"/etc/shadow"
    receiver = ends.receive(ends.disk("sda", 512, image_format="qcow2"))
    with pytest.raises(StreamResetError, match="another file"):
        await ends.send(ends.image("sda", bytes(header)))
    assert receiver.missing == {"sda"}


async def test_an_answer_that_is_none_ends_it(ends: Ends) -> None:
    """The file may not be on the recipient's disk."""

    async def says_nothing() -> None:
        stream = await ends.far.accept()
        while await stream.read() and stream.label == READ_ONLY:
            await stream.write(b"?")

    ends.received = asyncio.ensure_future(says_nothing())
    with pytest.raises(QuestionError, match="does not confirm disk sda"):
        await ends.send(ends.image("sda", b"12345"))


# ---- with both transfers ----


@pytest.fixture
async def media_pair(credentials: CredentialsPair) -> AsyncIterator[Pair]:
    """A VM with a medium inserted."""
    async with made_pair(credentials, medium=ISO) as made:
        yield made


async def test_a_medium_is_there_before_libvirt_begins(media_pair: Pair) -> None:
    """It is not copied by the hypervisor, counts as bytes of the disks, and stays at the donor."""
    pair = media_pair
    result, failure = await pair.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    assert pair.arrived_medium.read_bytes() == ISO
    assert pair.recipient.prepared.is_set()
    assert result.disk_bytes >= len(ISO)
    assert pair.medium.read_bytes() == ISO
    record = pair.journals[Side.OUTBOUND].record
    assert record.read_only_disks == (str(pair.medium),)
    assert str(pair.medium) not in record.disks
    assert (Kind.DISK, str(pair.arrived_medium)) in [
        (made.kind, made.id) for made in pair.journals[Side.INBOUND].record.made
    ]
    assert pair.heard.percents == sorted(pair.heard.percents)


async def test_a_medium_that_the_recipient_has_already_goes_as_references(media_pair: Pair) -> None:
    """As a published image of the same contents, under whatever name."""
    pair = media_pair
    published = pair.settings(Side.INBOUND).base_image_dir / "another-name.iso"
    published.parent.mkdir(parents=True)
    published.write_bytes(ISO)
    result, failure = await pair.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    assert pair.arrived_medium.read_bytes() == ISO
    assert pair.lanes_a.stats()[Lane.DISK].sent_bytes < 70 * CONTENT_BYTES // 4


async def test_a_medium_that_cannot_be_stored_ends_the_port_before_it_begins(
    media_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides say why, libvirt was never asked, and nothing is left."""

    def full(*_: object) -> None:
        raise DiskImageError("sda", "no room", code="read_only_disk")

    monkeypatch.setattr(read_only_disks, "check_stored", full)
    result, failure = await media_pair.run()
    assert isinstance(result, TransferError)
    assert isinstance(failure, TransferError)
    assert (result.code, failure.code) == ("read_only_disk", "read_only_disk")
    assert result.guest_running
    assert "no room" in failure.detail
    assert not media_pair.arrived_medium.exists()
    assert not media_pair.recipient.prepared.is_set()


async def test_a_cancel_ends_it(media_pair: Pair) -> None:
    """While the recipient cannot be heard, too."""
    pair = media_pair
    await pair.inbound.open()
    pair.routes[Lane.DISK].cut()
    running = asyncio.gather(pair.run_outbound(), pair.run_inbound())
    await asyncio.sleep(0.05)
    pair.outbound.cancel()
    pair.inbound.cancel()
    async with asyncio.timeout(SOON_S):
        result, failure = await running
    assert isinstance(result, TransferError)
    assert isinstance(failure, TransferError)
    assert result.code == "cancelled"
    assert pair.donor.vms[pair.agreement.vm_uuid].state is VmState.RUNNING
    assert not pair.arrived_medium.exists()


async def test_a_donor_that_skips_it_is_refused(media_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest would find zeros in its drive."""

    async def nothing(*_: object) -> None:
        return

    monkeypatch.setattr(media_pair.outbound._preparation, "send_read_only", nothing)
    result, failure = await media_pair.run()
    assert isinstance(failure, TransferError)
    assert failure.code == "read_only_disk"
    assert isinstance(result, TransferError)
    assert not media_pair.recipient.prepared.is_set()


async def test_a_medium_that_was_taken_out_is_noticed(media_pair: Pair) -> None:
    """The guest would find it again at the recipient."""
    pair = media_pair
    vm = pair.donor.vms[pair.agreement.vm_uuid]
    vm.domain_xml = pair.domain_xml.replace(f"<source file='{pair.medium}'/>", "")
    result, _ = await asyncio.gather(pair.run_outbound(), pair.inbound.open())
    assert isinstance(result, TransferError)
    assert "media and read-only disks changed since the agreement: none, agreed: sda" in result.detail


async def test_a_medium_that_is_exchanged_meanwhile_is_noticed(
    media_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipient has the old one."""
    pair = media_pair
    vm = pair.donor.vms[pair.agreement.vm_uuid]
    real = pair.outbound._preparation._send_read_only

    async def exchanged(*arguments: object) -> None:
        await real(*arguments)  # type: ignore[arg-type]  # passed on as they came
        vm.domain_xml = pair.domain_xml.replace("tools.iso", "other.iso")

    monkeypatch.setattr(pair.outbound._preparation, "_send_read_only", exchanged)
    await pair.inbound.open()
    arriving = asyncio.ensure_future(pair.run_inbound())
    result = await pair.run_outbound()
    pair.inbound.cancel()
    await arriving
    assert isinstance(result, TransferError)
    assert "media changed while the port was prepared" in result.detail


async def test_a_medium_that_cannot_leave_may_stay_behind(credentials: CredentialsPair) -> None:
    """It is in the network: the donor's node lets the VM go without it, and not with it."""
    async with made_pair(credentials, medium=ISO, eject=("sda",)) as pair:
        vm = pair.donor.vms[pair.agreement.vm_uuid]
        vm.domain_xml = pair.domain_xml.replace(
            f"<source file='{pair.medium}'/>", "<source protocol='https' name='/x.iso'><host name='h'/></source>"
        )
        assert vm.domain_xml != pair.domain_xml
        result, failure = await pair.run()
        assert failure is None
        assert isinstance(result, OutboundResult)
    async with made_pair(credentials, medium=ISO) as pair:
        vm = pair.donor.vms[pair.agreement.vm_uuid]
        vm.domain_xml = pair.domain_xml.replace(
            f"<source file='{pair.medium}'/>", "<source protocol='https' name='/x.iso'><host name='h'/></source>"
        )
        with pytest.raises(HypervisorError, match="on a server in the network"):
            await pair.outbound._preparation.check_vm()


async def test_a_medium_that_stays_behind_is_no_disk(credentials: CredentialsPair) -> None:
    """The tenant ejects it: the recipient's drive is empty, and nothing is sent."""
    async with made_pair(credentials, medium=ISO, eject=("sda",)) as pair:
        result, failure = await pair.run()
        assert failure is None
        assert isinstance(result, OutboundResult)
        assert not pair.arrived_medium.exists()
        assert result.disk_bytes < DISK_BYTES
        arrived = await pair.recipient.describe(pair.agreement.vm_uuid)
        assert [(disk.target, disk.empty) for disk in arrived.description.disks] == [("vda", False), ("sda", True)]
