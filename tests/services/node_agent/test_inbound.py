"""What only the recipient's half shows: it makes what was agreed and nothing else, and removes what it made."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from services.node_agent.base_images import BaseImage
from services.node_agent.inbound import InboundFailed
from services.node_agent.journal import Kind, Phase
from services.node_agent.signals import ask_for_overlays
from shared.messages.porting import Side

if TYPE_CHECKING:
    from tests.services.node_agent.conftest import Pair


async def failure_of_opening(pair: Pair) -> InboundFailed:
    """Why it does not open."""
    with pytest.raises(InboundFailed) as caught:
        await pair.inbound.open()
    assert not pair.sockets_b.directory.exists()
    return caught.value


async def test_everything_is_recorded_before_it_is_made(pair: Pair) -> None:
    """The journal lists directory, disk and domain, and the half is open."""
    await pair.inbound.open()
    record = pair.journals[Side.INBOUND].record
    assert record.phase is Phase.OPEN
    assert [made.kind for made in record.made] == [Kind.DIRECTORY, Kind.DISK, Kind.DOMAIN]
    assert pair.image.exists()
    assert pair.image.stat().st_blocks == 0


async def test_an_existing_file_is_not_overwritten_and_not_removed(pair: Pair) -> None:
    """A disk that is there already belongs to somebody."""
    pair.image.write_bytes(b"precious")
    assert (await failure_of_opening(pair)).code == "disk_exists"
    assert pair.image.read_bytes() == b"precious"


async def test_a_disk_outside_of_the_image_directory_is_refused(pair: Pair) -> None:
    """An agreement cannot make files anywhere."""
    pair.inbound._disks._image_dir = pair.tmp / "elsewhere"
    assert (await failure_of_opening(pair)).code == "disk_outside"
    assert not pair.image.exists()


async def test_a_vm_that_is_here_already_is_not_touched(pair: Pair) -> None:
    """The same UUID on this host ends the port before anything is made."""
    uuid = pair.recipient.add(pair.domain_xml)
    assert "already" in (await failure_of_opening(pair)).detail
    assert uuid in pair.recipient.vms
    assert not pair.image.exists()


async def test_a_missing_bridge_is_found_before_anything_moves(pair: Pair) -> None:
    """The error names the bridge."""
    pair.recipient._bridges = ("br9",)
    assert "vmbr0" in (await failure_of_opening(pair)).detail


WANTED = BaseImage(blake3="0" * 64, size_bytes=1, format="raw")


async def test_only_agreed_disks_become_overlays(pair: Pair) -> None:
    """A raw disk, or one of another name, does not; the disk that was made stays."""
    await pair.inbound.open()
    inbound = asyncio.ensure_future(pair.run_inbound())
    refusal = await ask_for_overlays(pair.lanes_a.control, {"vda": WANTED, "vdb": WANTED})
    assert refusal is not None
    assert "vda, vdb" in refusal
    assert pair.image.exists()
    pair.inbound.cancel()
    await inbound


async def test_overlays_are_asked_for_once_and_in_time(pair: Pair) -> None:
    """A donor that asks again could make disks anew that are being filled: its port ends."""
    await pair.inbound.open()
    inbound = asyncio.ensure_future(pair.run_inbound())
    await ask_for_overlays(pair.lanes_a.control, {"vda": WANTED})
    refusal = await ask_for_overlays(pair.lanes_a.control, {"vda": WANTED})
    assert refusal is not None
    assert "twice" in refusal
    failure = await inbound
    assert isinstance(failure, InboundFailed)
    assert failure.code == "signal"
    assert not pair.image.exists()


async def test_a_cancelled_half_removes_what_it_made(pair: Pair) -> None:
    """Disk, directory and domain are gone; the journal is empty."""
    await pair.inbound.open()
    pair.inbound.cancel()
    failure = await pair.run_inbound()
    assert isinstance(failure, InboundFailed)
    assert (failure.code, failure.left_overs) == ("cancelled", ())
    assert not pair.image.exists()
    assert pair.journals[Side.INBOUND].record.made == ()
