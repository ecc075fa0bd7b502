"""The probe's life, over a socket pair in the place of the bridge; a real bridge is `tests/integration`'s."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.node_agent.switchover.outage_meter import probe_frame
from services.node_agent.switchover.outage_probe import FINISH_WITHIN_S, ArpProbe, BridgeSocket, NoProbe
from services.node_agent.transfers.outbound_result import OutboundResult
from shared.domain import DomainSource, describe
from tests.services.node_agent.switchover.test_outage_meter import ADDRESS, GUEST, HOST, ipv4, reply

if TYPE_CHECKING:
    from tests.support.transfer_pair import Pair

XML = """<domain type='kvm'><name>web</name><uuid>11111111-2222-3333-4444-555555555501</uuid>
<memory unit='KiB'>262144</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc-q35-9.2'>hvm</type></os>
<devices>%s</devices></domain>"""
NIC = "<interface type='bridge'><mac address='52:54:00:aa:bb:01'/><source bridge='vmbr0'/></interface>"
INTERVAL_S = 0.005


class FakeBridge(BridgeSocket):
    """One end of a socket pair; the guest is at the other one."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self.to_all: list[bool] = []
        self.arp_only = False

    def source(self) -> bytes:
        """The host's MAC address."""
        return HOST

    def listen_to_all(self, *, wanted: bool) -> None:
        """Noted."""
        self.to_all.append(wanted)

    def hear_arp_only(self) -> None:
        """Noted."""
        self.arp_only = True


class Guest:
    """Answers every probe while `runs`."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.runs = True
        self.asked = asyncio.Event()
        self.answered = asyncio.Event()
        asyncio.get_running_loop().add_reader(end.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        assert self.end.recv(100) == probe_frame(HOST, GUEST, ADDRESS)
        self.asked.set()
        if self.runs:
            self.end.send(reply())
            self.answered.set()

    async def hear(self, event: asyncio.Event, *, times: int = 1) -> None:
        """Wait for the next ones."""
        async with asyncio.timeout(5):
            for _ in range(times):
                event.clear()
                await event.wait()


@asynccontextmanager
async def probing(tmp_path: Path) -> AsyncIterator[tuple[ArpProbe, FakeBridge, Guest]]:
    """A probe that listens, and its guest."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        table = tmp_path / "arp"
        table.write_text("IP address\n")
        bridge, guest = FakeBridge(ours), Guest(theirs)
        probe = ArpProbe(interval_s=INTERVAL_S, open_socket=lambda _, __: bridge, neighbour_table=table)
        probe.open(XML % NIC)
        try:
            yield probe, bridge, guest
        finally:
            await probe.close()
            asyncio.get_running_loop().remove_reader(theirs.fileno())


async def test_a_guest_that_pauses_and_answers_again(tmp_path: Path) -> None:
    """Its address is learned from what it sends; the outage is its silence; the end comes once it is steady."""
    async with probing(tmp_path) as (probe, bridge, guest):
        guest.end.send(ipv4(ADDRESS))
        await guest.hear(guest.answered)
        probe.memory_flows()
        await guest.hear(guest.answered, times=3)
        guest.runs = False
        await guest.hear(guest.asked, times=20)
        paused_at_s = time.monotonic() - 10 * INTERVAL_S
        guest.runs = True
        outage_ms = await probe.finish(paused_at_s)
        assert outage_ms is not None
        assert 15 * INTERVAL_S < outage_ms / 1000 < 1.0
        assert (bridge.to_all[0], bridge.to_all[-1], bridge.arp_only) == (True, False, True)


async def test_networks_that_are_not_joined(tmp_path: Path) -> None:
    """No answer after the pause: no figure, and the port's end is held up by a second at most."""
    async with probing(tmp_path) as (probe, _, guest):
        guest.end.send(ipv4(ADDRESS))
        await guest.hear(guest.answered)
        probe.memory_flows()
        await guest.hear(guest.answered, times=3)
        guest.runs = False
        await guest.hear(guest.asked, times=3)
        began_s = time.monotonic()
        assert await probe.finish(began_s) is None
        assert time.monotonic() - began_s < FINISH_WITHIN_S + 0.5


async def test_an_address_that_is_never_heard(tmp_path: Path) -> None:
    """No probe goes out, and the end waits for nothing."""
    async with probing(tmp_path) as (probe, _, guest):
        probe.memory_flows()
        await asyncio.sleep(0)
        began_s = time.monotonic()
        assert await probe.finish(began_s) is None
        assert time.monotonic() - began_s < 0.5
        assert not guest.asked.is_set()


async def test_a_pause_that_was_not_heard_of(tmp_path: Path) -> None:
    """Without the hypervisor's word there is no switchover to measure around."""
    async with probing(tmp_path) as (probe, _, guest):
        guest.end.send(ipv4(ADDRESS))
        await guest.hear(guest.answered)
        assert await probe.finish(None) is None


async def test_a_bridge_that_goes_away_costs_only_the_figure(tmp_path: Path) -> None:
    """The socket's error ends the measurement, not the port."""
    async with probing(tmp_path) as (probe, _, guest):
        guest.end.send(ipv4(ADDRESS))
        await guest.hear(guest.answered)
        guest.end.shutdown(socket.SHUT_RDWR)
        probe.memory_flows()
        async with asyncio.timeout(5):
            assert await probe.finish(time.monotonic()) is None


@pytest.mark.parametrize("devices", ["", NIC])
async def test_what_cannot_be_measured(devices: str) -> None:
    """No card on a bridge, or no right to a raw socket: no figure, no error."""

    def refuse(bridge: str, guest: bytes) -> BridgeSocket:
        raise PermissionError(1, "Operation not permitted", f"{bridge} {guest.hex()}")

    probe = ArpProbe(interval_s=INTERVAL_S, open_socket=refuse)
    probe.open(XML % devices)
    probe.memory_flows()
    assert await probe.finish(0.0) is None
    await probe.close()


async def test_switched_off() -> None:
    """Nothing happens."""
    probe = NoProbe()
    probe.open(XML % NIC)
    probe.memory_flows()
    assert await probe.finish(0.0) is None
    await probe.close()


class Told(NoProbe):
    """Notes what it is told, and has a figure."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def open(self, domain_xml: DomainSource) -> None:
        """The VM's own XML."""
        assert describe(domain_xml).nics[0].bridge == "vmbr0"
        self.words.append("open")

    def memory_flows(self) -> None:
        """The memory connection is there."""
        self.words.append("memory flows")

    async def finish(self, paused_at_s: float | None) -> int | None:
        """The guest was paused by now."""
        assert paused_at_s is not None
        self.words.append("finish")
        return 77

    async def close(self) -> None:
        """Always."""
        self.words.append("close")


async def test_the_outbound_transfer_says_when(pair: Pair) -> None:
    """Before the migration, with the first byte of memory, after the switchover; the figure is in the result."""
    pair.outbound._outage = told = Told()
    result, _ = await pair.run()
    assert isinstance(result, OutboundResult)
    assert (result.outage_ms, told.words) == (77, ["open", "memory flows", "finish", "close"])


async def test_a_port_that_fails_ends_the_measurement(pair: Pair) -> None:
    """No figure is asked for, and the probe is closed."""
    pair.broker.denies = "the tenant cancelled"
    pair.outbound._outage = told = Told()
    await pair.run()
    assert told.words == ["open", "memory flows", "close"]
