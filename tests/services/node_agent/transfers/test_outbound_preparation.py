"""What comes before the migration: the VM is what was agreed, and nothing waits for a recipient that was cancelled."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from lxml import etree

from services.node_agent.hypervisor.interface import HypervisorError, MigrationAborted, Obstacle, ObstacleCode
from services.node_agent.lanes.core.errors import LaneError
from services.node_agent.switchover.readiness import BrokerReadiness
from shared.messages.base import PortMessage
from shared.messages.porting import SwitchoverState
from shared.messages.vm import VmState
from tests.support.transfer_pair import VM

if TYPE_CHECKING:
    from tests.support.transfer_pair import Pair

PORT = uuid4()


async def test_a_vm_that_does_not_run_is_refused(pair: Pair) -> None:
    """The error says what it does instead."""
    pair.donor.vms[VM].state = VmState.PAUSED
    with pytest.raises(HypervisorError, match="web is paused, not running"):
        await pair.outbound._preparation.check_vm()


async def test_a_vm_that_changed_is_refused(pair: Pair) -> None:
    """The recipient would run another guest than the one that is here."""
    pair.donor.vms[VM].domain_xml = pair.domain_xml.replace("262144", "524288")
    with pytest.raises(HypervisorError, match="changed since the agreement"):
        await pair.outbound._preparation.check_vm()


async def test_what_came_up_since_the_agreement_is_named(pair: Pair) -> None:
    """A backup that began meanwhile: libvirt would refuse the migration, or the removal afterwards."""
    pair.donor.vms[VM].obstacles = (Obstacle(ObstacleCode.CHECKPOINTS, "the VM has checkpoints"),)
    with pytest.raises(HypervisorError, match="checkpoints: the VM has checkpoints"):
        await pair.outbound._preparation.check_vm()


async def test_the_live_xml_is_read_once(seeded_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check and the seeding share it; then, when the window is open, the check and the early transfer."""
    pair = seeded_pair
    pair.donor.vms[VM].domain_xml = live = pair.domain_xml + "<!-- as libvirt says it now -->"
    read: list[bytes] = []
    real = etree.fromstring

    def counted(raw: bytes, parser: etree.XMLParser) -> etree._Element:
        read.append(raw)
        return real(raw, parser)

    async def opens_the_window(_: object) -> None:
        pair.now += timedelta(hours=1)

    async def learns(*_: object) -> None:
        return

    async def sends_early(*_: object, **__: object) -> None:
        sent.set()

    preparation, sent = pair.outbound._preparation, asyncio.Event()
    monkeypatch.setattr(pair.outbound._contents, "learn", learns)
    monkeypatch.setattr(pair.outbound._contents, "send_early", sends_early)
    monkeypatch.setattr(preparation, "_report_until_window", opens_the_window)
    monkeypatch.setattr("shared.domain.parsing.etree.fromstring", counted)
    await preparation.seed_until_window()
    assert read.count(live.encode()) == 1
    preparation.exchange_contents(await preparation.check_vm())
    async with asyncio.timeout(5):
        await sent.wait()
    await pair.outbound._tasks.close()
    assert read.count(live.encode()) == 2


async def test_a_cancel_ends_the_wait_for_the_recipient(pair: Pair) -> None:
    """Its lanes never answer."""
    preparation = pair.outbound._preparation
    for route in pair.routes.values():
        route.cut()
    vm = await preparation.check_vm()
    waiting = asyncio.ensure_future(preparation.negotiate_overlays(vm))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    preparation.cancelled.set()
    async with asyncio.timeout(5):
        with pytest.raises(MigrationAborted):
            await waiting


async def test_disks_that_lie_on_nothing_are_copied_whole(pair: Pair) -> None:
    """The recipient is not even asked."""
    preparation = pair.outbound._preparation
    await preparation.negotiate_overlays(await preparation.check_vm())
    assert not preparation.overlays


async def test_an_open_window_is_not_waited_for(seeded_pair: Pair) -> None:
    """Nothing is seeded, nothing is reported."""
    seeded_pair.now += timedelta(hours=1)
    await seeded_pair.outbound._preparation.seed_until_window()
    assert seeded_pair.outbound._preparation.seeded_bytes == 0
    assert (seeded_pair.heard.starts, seeded_pair.heard.phases) == (0, [])


async def test_the_migration_waits_no_longer_for_contents_when_the_lane_fails(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt is let on, and the trouble ends the port."""
    preparation = pair.outbound._preparation

    async def fails(*_: object) -> None:
        raise LaneError("silent for too long", lane="p.control")

    monkeypatch.setattr(pair.outbound._contents, "learn", fails)
    preparation.exchange_contents(await preparation.check_vm())
    async with asyncio.timeout(5):
        await preparation.contents_known.wait()
        await pair.outbound._troubled.wait()
    assert pair.outbound._trouble is not None
    assert pair.outbound._trouble[0] == "lane_failed"
    await pair.outbound._tasks.close()


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), -timedelta(minutes=10)])
async def test_the_window_opens_by_the_brokers_clock(seeded_pair: Pair, ahead: timedelta) -> None:
    """A node whose clock is ahead would move all before the window, and be denied the switchover."""
    pair = seeded_pair
    opens_in = pair.agreement.window_start - pair.now
    here = pair.now + ahead

    async def publish(_: PortMessage, question: UUID) -> None:
        answer = SwitchoverState(port_id=PORT, committed=False, owner="alpha", epoch=1, ended=False, ready=False)
        readiness.heard(answer, question=question, sent_at=pair.now)

    readiness = BrokerReadiness(PORT, publish, clock=time.monotonic, now=lambda: here)
    preparation = pair.outbound._make_preparation(lambda: here, readiness)
    seeding = asyncio.ensure_future(preparation.seed_until_window())
    async with asyncio.timeout(10):
        while not readiness.is_fresh:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)
    assert abs(preparation._to_window_s() - opens_in.total_seconds()) < 1
    seeding.cancel()
    await asyncio.gather(seeding, return_exceptions=True)
