"""The outage probe on a real bridge, with a real kernel as the guest; both in the test's own namespaces."""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.node_agent.switchover.outage_probe import ArpProbe, BridgeSocket

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MAC, ADDRESS = "52:54:00:aa:bb:01", "10.99.7.2"
XML = f"""<domain type='kvm'><name>web</name><uuid>11111111-2222-3333-4444-555555555501</uuid>
<memory unit='KiB'>262144</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc-q35-9.2'>hvm</type></os>
<devices><interface type='bridge'><mac address='{MAC}'/><source bridge='vmbr0'/></interface></devices></domain>"""
CLONE_NEWNET = 0x40000000
SILENCE_S = 0.3


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


@pytest.fixture
def networks() -> Iterator[tuple[str, str, str]]:
    """Host with a bridge, guest and client behind it; names of the three namespaces."""
    names = tuple(f"vmport-outage-{os.getpid()}-{role}" for role in ("host", "guest", "client"))
    host, guest, client = names
    try:
        for name in names:
            ip("netns", "add", name)
        ip("-n", host, "link", "add", "vmbr0", "type", "bridge", "forward_delay", "0")
        ip("-n", host, "link", "set", "vmbr0", "up")
        for name, address, port in ((guest, ADDRESS, "vnet0"), (client, "10.99.7.1", "vnet1")):
            ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", host)
            if name == guest:
                ip("-n", name, "link", "set", "eth0", "address", MAC)
            ip("-n", host, "link", "set", port, "master", "vmbr0", "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
        yield host, guest, client
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=10)


def socket_in(namespace: str, bridge: str, guest: bytes) -> BridgeSocket:
    """The probe's socket, made by a thread that has entered the namespace; it stays there."""
    made: list[BridgeSocket] = []

    def work() -> None:
        with Path(f"/run/netns/{namespace}").open("rb") as entry:
            assert ctypes.CDLL(None, use_errno=True).setns(entry.fileno(), CLONE_NEWNET) == 0
        made.append(BridgeSocket(bridge, guest))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return made[0]


def promiscuous(namespace: str) -> bool:
    """Whether the bridge passes everything up."""
    shown = subprocess.run(
        ["ip", "-n", namespace, "-d", "link", "show", "dev", "vmbr0"], check=True, capture_output=True, text=True
    )
    return "promiscuity 1" in shown.stdout


async def test_the_silence_of_a_real_kernel(networks: tuple[str, str, str], tmp_path: Path) -> None:
    """The probe learns the guest's address from its traffic with a client, and measures a silence of known length."""
    host, guest, client = networks
    table = tmp_path / "arp"
    table.write_text("")
    probe = ArpProbe(
        interval_s=0.01, open_socket=lambda bridge, mac: socket_in(host, bridge, mac), neighbour_table=table
    )
    probe.open(XML)
    try:
        await asyncio.sleep(0.05)
        assert promiscuous(host)
        talk = ["ip", "netns", "exec", client, "busybox", "ping", "-c", "2", "-W", "2", ADDRESS]
        await asyncio.to_thread(subprocess.run, talk, check=True, capture_output=True, timeout=10)
        await asyncio.sleep(0.5)
        assert not promiscuous(host)
        probe.memory_flows()
        await asyncio.sleep(0.2)
        ip("-n", host, "link", "set", "vnet0", "down")
        paused_at_s = time.monotonic()
        await asyncio.sleep(SILENCE_S)
        ip("-n", host, "link", "set", "vnet0", "up")
        silent_s = time.monotonic() - paused_at_s
        outage_ms = await probe.finish(paused_at_s)
        assert outage_ms is not None
        assert SILENCE_S - 0.05 < outage_ms / 1000 < silent_s + 0.5
        neighbours = ["ip", "-4", "-n", guest, "neigh", "show", "nud", "all"]
        known = await asyncio.to_thread(subprocess.run, neighbours, check=True, capture_output=True, text=True)
        assert {line.split()[0] for line in known.stdout.splitlines() if "lladdr" in line} <= {"10.99.7.1"}
    finally:
        await probe.close()
