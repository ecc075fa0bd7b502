"""Disks of a guest that arrives: recorded before they are made, never over others, written back once."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.hypervisor.disk_images import DiskImageError
from services.node_agent.hypervisor.fake_host import DISK_BYTES
from services.node_agent.settings import NodeSection
from services.node_agent.state.journal import Journal, Kind, PortRecord, TransferJournal
from services.node_agent.transfers.inbound_disks import InboundDisks
from services.node_agent.transfers.port_contents import PortContents
from shared.messages.porting import Side
from shared.tasks import Tasks
from tests.support.transfer_pair import DOMAIN, make_agreement


class Disks:
    """The disks of one port, in a folder."""

    def __init__(self, folder: Path, *, image_dir: Path) -> None:
        self.path = folder / "images" / "web.raw"
        self.path.parent.mkdir()
        agreement = make_agreement(self.path, domain_xml=DOMAIN % "/a.raw")
        store = Journal(folder / "ports").open()
        self.journal = TransferJournal(store, PortRecord(side=Side.INBOUND, agreement=agreement))
        section = NodeSection(state_dir=folder / "state", base_image_dir=folder / "bases")
        contents = PortContents(section, quarantined=store.quarantined_disks)
        self.tasks = Tasks("test")
        self.disks = InboundDisks(
            agreement,
            image_dir=image_dir,
            journal=self.journal,
            contents=contents.inbound(agreement),
            tasks=self.tasks,
        )


async def test_a_disk_is_recorded_and_made(tmp_path: Path) -> None:
    """Of the agreed size, and it takes no room yet."""
    made = Disks(tmp_path, image_dir=tmp_path / "images")
    await made.disks.create()
    assert [(each.kind, each.id) for each in made.journal.record.made] == [(Kind.DISK, str(made.path))]
    stat = made.path.stat()
    assert (stat.st_size, stat.st_blocks) == (DISK_BYTES, 0)


async def test_a_disk_that_is_there_is_refused_and_not_recorded(tmp_path: Path) -> None:
    """Else the clean-up would remove it."""
    made = Disks(tmp_path, image_dir=tmp_path / "images")
    made.path.write_bytes(b"precious")
    with pytest.raises(DiskImageError) as caught:
        await made.disks.create()
    assert caught.value.code == "disk_exists"
    assert made.journal.record.made == ()


async def test_a_path_that_leaves_the_image_directory_is_refused(tmp_path: Path) -> None:
    """Also through a symbolic link."""
    link = tmp_path / "link"
    made = Disks(tmp_path, image_dir=link)
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DiskImageError) as caught:
        await made.disks.create()
    assert caught.value.code == "disk_outside"
    assert not made.path.exists()


async def test_disks_are_written_back_by_one_task(tmp_path: Path) -> None:
    """However many streams arrive."""
    made = Disks(tmp_path, image_dir=tmp_path / "images")
    await made.disks.create()
    made.disks.write_back()
    made.disks.write_back()
    assert len(made.tasks) == 1
    await made.tasks.close()
