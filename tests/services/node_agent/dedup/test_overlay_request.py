"""Both halves of a port whose disk is an overlay: it is one again where that is sound, and whole everywhere else."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from blake3 import blake3

from services.node_agent.dedup.base_images import BaseImage, OverlaysWanted
from services.node_agent.dedup.overlay_request import ask_for_overlays
from services.node_agent.hypervisor.fake_host import DISK_BYTES
from services.node_agent.hypervisor.interface import HypervisorError, LiveVm
from services.node_agent.page_codec.contents import CONTENT_BYTES
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.outbound_result import OutboundResult
from shared.messages.porting import Side
from shared.messages.service_change import PortLimits

if TYPE_CHECKING:
    from tests.support.transfer_pair import Pair

pytestmark = pytest.mark.servers
"""They need qemu-img."""

BASE = np.random.default_rng(7).bytes(DISK_BYTES)
WANTED = OverlaysWanted(bases={"vda": BaseImage(blake3=blake3(BASE).hexdigest(), size_bytes=len(BASE), format="raw")})
"""What the donor asks."""


@pytest.fixture
def pair(overlaid: Pair) -> Pair:
    """The second host publishes what the disk lies on, too."""
    published(overlaid).parent.mkdir(parents=True)
    published(overlaid).write_bytes(overlaid.base.read_bytes())
    return overlaid


def published(pair: Pair) -> Path:
    """The recipient's own copy."""
    return pair.settings(Side.INBOUND).base_image_dir / "debian-12.img"


async def open_port(pair: Pair) -> None:
    """As node agents that have been up for a while."""
    await pair.contents[Side.INBOUND].sweep(())
    await pair.open()


def limits(pair: Pair, **changes: str) -> None:
    """What the tenant allows."""
    pair.agreement = pair.agreement.model_copy(update={"limits": PortLimits.model_validate(changes)})


def beneath(image: Path) -> tuple[str, str] | None:
    """The path and the format of what an image lies on."""
    command = ["qemu-img", "info", "--output=json", str(image)]
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert said["virtual-size"] == DISK_BYTES
    return (said["backing-filename"], said["backing-filename-format"]) if "backing-filename" in said else None


async def test_an_overlay_is_an_overlay_again(pair: Pair) -> None:
    """On the recipient's own image, by whatever name; both base images are as they were."""
    await open_port(pair)
    result, failure = await pair.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    assert beneath(pair.image) == (str(published(pair)), "raw")
    assert pair.outbound._contents._learnt is not None
    assert pair.outbound._contents._learnt.offers == 0
    assert (published(pair).read_bytes(), pair.base.read_bytes()) == (BASE, BASE)


@pytest.mark.parametrize("why", ["never", "not published", "other content", "not indexed yet", "by settings"])
async def test_a_disk_is_whole_where_it_cannot_or_must_not_be_an_overlay(pair: Pair, why: str) -> None:
    """The port goes on as if there were no overlays."""
    match why:
        case "never":
            limits(pair, overlays="never")
        case "not published":
            published(pair).unlink()
        case "other content":
            published(pair).write_bytes(BASE[:-1] + b"!")
    if why == "not indexed yet":
        await pair.open()
    else:
        await open_port(pair)
    if why == "by settings":
        pair.inbound._contents._bases = None
    result, failure = await pair.run()
    assert failure is None
    assert isinstance(result, OutboundResult)
    assert beneath(pair.image) is None


async def test_what_a_whole_disk_lies_on_is_offered(pair: Pair) -> None:
    """Its contents need not be sent, though no overlay is made; for an overlay they are not even offered."""
    limits(pair, overlays="never")
    await open_port(pair)
    _, failure = await pair.run()
    assert failure is None
    learnt = pair.outbound._contents._learnt
    assert learnt is not None
    assert learnt.count == DISK_BYTES // CONTENT_BYTES


async def test_a_recipient_does_not_do_what_the_tenant_does_not_allow(pair: Pair) -> None:
    """Even if the donor asks for it."""
    limits(pair, overlays="never")
    await open_port(pair)
    await pair.inbound.open()
    assert not await pair.inbound._disks._make_overlays(WANTED)
    assert beneath(pair.image) is None


async def test_a_disk_that_is_not_agreed_on_changes_nothing(pair: Pair) -> None:
    """All or none: one unknown target, and the known one stays whole, too."""
    await open_port(pair)
    await pair.inbound.open()
    both = OverlaysWanted(bases={**WANTED.bases, "vdz": WANTED.bases["vda"]})
    assert not await pair.inbound._disks._make_overlays(both)
    assert beneath(pair.image) is None


async def test_a_failed_port_removes_the_overlay_and_not_its_base(pair: Pair) -> None:
    """What the recipient made is gone, what its provider published is not."""
    await open_port(pair)
    pair.broker.denies = "the tenant cancelled"
    result, _ = await pair.run()
    assert isinstance(result, TransferError)
    assert not pair.image.exists()
    assert published(pair).read_bytes() == BASE


async def test_disks_that_change_while_the_port_is_prepared_do_not_move(pair: Pair) -> None:
    """A snapshot in between puts one more layer below the top: the port fails, the guest runs on."""
    await open_port(pair)
    describe, seen = pair.donor.describe, 0

    async def changing(uuid: object) -> LiveVm:
        nonlocal seen
        vm, seen = await describe(uuid), seen + 1  # type: ignore[arg-type]
        return vm if seen == 1 else replace(vm, files=("/snapshot", *vm.files))

    pair.donor.describe = changing  # type: ignore[method-assign]
    await pair.inbound.open()
    arriving = asyncio.ensure_future(pair.run_inbound())
    result = await pair.run_outbound()
    pair.inbound.cancel()
    await arriving
    assert isinstance(result, TransferError)
    assert result.code == HypervisorError.code
    assert "changed" in result.detail
    assert result.guest_running


async def test_the_base_is_not_the_donors_to_put_away(pair: Pair) -> None:
    """The journal lists for the quarantine what is the VM's own, not what its disk lies on."""
    await open_port(pair)
    await pair.run()
    disks = pair.journals[Side.OUTBOUND].record.disks
    assert disks
    assert str(pair.base) not in disks


async def test_what_a_described_vm_lies_on_is_read_ahead(pair: Pair) -> None:
    """A port then finds it known."""
    await pair.open()
    await pair.contents[Side.OUTBOUND].read_ahead(await pair.donor.describe(pair.agreement.vm_uuid))
    bases = pair.contents[Side.OUTBOUND]._bases
    assert bases.find(pair.base.parent, WANTED.bases.values()) == {WANTED.bases["vda"]: pair.base}


async def test_a_question_after_the_disks_are_settled_changes_nothing(pair: Pair) -> None:
    """What somebody may have open is not laid on another image any more."""
    await open_port(pair)
    await pair.inbound.open()
    await pair.inbound._disks.settle()
    running = asyncio.ensure_future(pair.run_inbound())
    assert not await ask_for_overlays(pair.lanes_a.control, WANTED)
    assert beneath(pair.image) is None
    pair.inbound.cancel()
    await running
