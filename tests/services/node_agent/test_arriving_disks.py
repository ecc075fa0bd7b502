"""An arriving VM's disks: whole, or overlays on this provider's own images, all of them or none, and decided once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from services.node_agent import disk_images
from services.node_agent.arriving_disks import ArrivingDisks
from services.node_agent.base_images import BaseImage, Lower, identify
from services.node_agent.block_files import BlockIndex
from services.node_agent.disk_images import DiskImageError
from services.node_agent.journal import HalfJournal, Journal, Kind, PortRecord
from services.node_agent.port_contents import PortContents
from services.node_agent.settings import NodeSection
from services.node_agent.signals import SignalError
from shared.messages.porting import ReservedDisk, Side
from shared.messages.service_change import PortLimits
from tests.services.node_agent.conftest import BASE, DOMAIN, make_agreement

SIZE = 1 << 20
OTHER = b"another system" * 1000


class Arrival:
    """A port of a VM with two disks to a provider that publishes two images, and what the donor says of its own."""

    def __init__(self, tmp: Path, **settings: Any) -> None:
        self.images, self.published = tmp / "images", tmp / "published"
        self.published.mkdir()
        self.files = {"vda": self.published / "x", "vdb": self.published / "y"}
        for path, content in zip(self.files.values(), (BASE, OTHER), strict=True):
            path.write_bytes(content)
        self.paths = {target: self.images / f"web-{target}.qcow2" for target in self.files}
        disks = tuple(
            ReservedDisk(target=target, path=str(path), format="qcow2", virtual_size_bytes=SIZE)
            for target, path in self.paths.items()
        )
        agreed = make_agreement(self.images / "unused", domain_xml=DOMAIN % "/donor/web.qcow2", port_id=uuid4())
        self.agreement = agreed.model_copy(update={"disks": disks})
        store = Journal(tmp / "journal").open()
        self.journal = HalfJournal(store, PortRecord(side=Side.INBOUND, agreement=self.agreement))
        section = NodeSection(state_dir=tmp / "state", base_image_dir=self.published, **settings)
        self.contents = PortContents(section, store)
        self.wanted = {target: image(path, tmp / "donors-index") for target, path in self.files.items()}

    def disks(self, **limits: Any) -> ArrivingDisks:
        """Under these limits of the tenant."""
        agreement = self.agreement.model_copy(update={"limits": PortLimits(**limits)})
        contents = self.contents.inbound(agreement)
        return ArrivingDisks(agreement, image_dir=self.images, journal=self.journal, contents=contents)

    def bases(self) -> dict[str, str | None]:
        """What the headers of the disks name."""
        return {target: base_of(path) for target, path in self.paths.items()}


def image(path: Path, index: Path) -> BaseImage:
    found = identify(Lower(path, "raw"), BlockIndex(index))
    assert found is not None
    return found


def base_of(path: Path) -> str | None:
    header = path.read_bytes()
    assert header[:4] == disk_images.QCOW2_MAGIC
    at, length = int.from_bytes(header[8:16], "big"), int.from_bytes(header[16:20], "big")
    return header[at : at + length].decode() or None


WHOLE = {"vda": None, "vdb": None}

pytestmark = pytest.mark.servers  # qemu-img


@pytest.fixture
def arrival(tmp_path: Path) -> Arrival:
    return Arrival(tmp_path)


async def test_disks_lie_on_this_providers_own_images(arrival: Arrival) -> None:
    """Each on its own one; the images are as they were, and the journal lists the disks only."""
    disks = arrival.disks()
    await disks.make()
    assert arrival.bases() == WHOLE
    assert await disks.make_overlays(arrival.wanted) is None
    assert arrival.bases() == {target: str(path) for target, path in arrival.files.items()}
    assert await disks.settle()
    assert [path.read_bytes() for path in arrival.files.values()] == [BASE, OTHER]
    made = {thing.id for thing in arrival.journal.record.made if thing.kind is Kind.DISK}
    assert made == {str(path) for path in arrival.paths.values()}


async def test_a_disk_that_the_donor_does_not_name_stays_whole(arrival: Arrival) -> None:
    """It lies on nothing there, so that its top layer is all of it."""
    disks = arrival.disks()
    await disks.make()
    assert await disks.make_overlays({"vda": arrival.wanted["vda"]}) is None
    assert arrival.bases() == {"vda": str(arrival.files["vda"]), "vdb": None}


async def test_one_missing_image_leaves_all_disks_whole(arrival: Arrival) -> None:
    """The reason names the disk."""
    arrival.files["vdb"].unlink()
    disks = arrival.disks()
    await disks.make()
    assert "vdb" in str(await disks.make_overlays(arrival.wanted))
    assert arrival.bases() == WHOLE
    assert not await disks.settle()


async def test_one_overlay_that_cannot_be_made_leaves_all_disks_whole(
    arrival: Arrival, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was made already is made whole again."""
    create_overlay = disk_images.create_overlay

    async def fail_at_the_second(path: str, size_bytes: int, **base: str) -> None:
        if path == str(arrival.paths["vdb"]):
            await asyncio.to_thread(Path(path).touch)
            raise DiskImageError(path, "no room")
        await create_overlay(path, size_bytes, **base)

    monkeypatch.setattr(disk_images, "create_overlay", fail_at_the_second)
    disks = arrival.disks()
    await disks.make()
    assert "no room" in str(await disks.make_overlays(arrival.wanted))
    assert arrival.bases() == WHOLE
    assert not await disks.settle()


async def test_the_tenant_and_the_provider_may_want_whole_disks(tmp_path: Path) -> None:
    """The one by its limits, the other by a setting."""
    for folder, settings, limits in (("a", {}, {"overlays": "never"}), ("b", {"overlays": False}, {})):
        (tmp_path / folder).mkdir()
        arrival = Arrival(tmp_path / folder, **settings)
        disks = arrival.disks(**limits)
        await disks.make()
        assert await disks.make_overlays(arrival.wanted) is not None
        assert arrival.bases() == WHOLE


async def test_disks_in_use_are_not_made_anew(arrival: Arrival) -> None:
    """Nor are those that were decided about."""
    disks = arrival.disks()
    await disks.make()
    assert not await disks.settle()
    with pytest.raises(SignalError, match="too late"):
        await disks.make_overlays(arrival.wanted)
    assert arrival.bases() == WHOLE
