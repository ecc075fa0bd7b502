"""The client's connections against the guest's own server, in a network namespace."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.labkit.connections import KINDS, Download, Lost, Probe, piece
from deploy.labkit.processes import run

GUEST = Path("deploy/guest")


class Namespace:
    """A network namespace with guestd in it."""

    def __init__(self, guestd: subprocess.Popen[bytes]) -> None:
        self.guestd = guestd

    def run_probe(self) -> "subprocess.Popen[str]":
        """A client beside the server; ready when this returns."""
        probe = subprocess.Popen(
            [*self._enter(), sys.executable, "-m", "deploy.labkit.connections", "127.0.0.1", "::1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        assert probe.stdout is not None
        assert json.loads(probe.stdout.readline()) == {"ready": True}
        return probe

    def _enter(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.guestd.pid}/ns/net", "--"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """guestd, for this machine."""
    target = tmp_path_factory.mktemp("guestd") / "guestd"
    run(["gcc", "-O2", "-pthread", "-o", str(target), *(str(source) for source in sorted(GUEST.glob("*.c")))])
    return target


@contextmanager
def _namespace(program: Path) -> Iterator[Namespace]:
    inside = f"ip link set lo up && exec {program}"
    guestd = subprocess.Popen(["unshare", "--net", "sh", "-c", inside], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert guestd.stdout is not None
        assert b"ready" in guestd.stdout.readline()
        yield Namespace(guestd)
    finally:
        guestd.kill()
        guestd.communicate()


def _finish(probe: "subprocess.Popen[str]") -> dict[str, Any]:
    output, _ = probe.communicate(timeout=60)
    found: dict[str, Any] = json.loads(output)
    return found


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")


@pytest.mark.lab
@needs_root
def test_all_connections_live_through_a_pause_and_tell_how_long_it_was(program: Path) -> None:
    """The server stands still for half a second, as a guest that moves: nothing is lost, each busy kind saw it."""
    with _namespace(program) as there:
        probe = there.run_probe()
        time.sleep(0.5)
        there.guestd.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        resumed_at = time.time()
        there.guestd.send_signal(signal.SIGCONT)
        time.sleep(1.0)
        found = _finish(probe)
    assert (found["connections"], found["kept"]) == (50, 50), found
    assert {kind: report["kept"] for kind, report in found["kinds"].items()} == KINDS
    assert not [report["errors"] for report in found["kinds"].values() if report["errors"]]
    for kind in ("http", "download", "upload"):
        assert 300 < found["kinds"][kind]["longest_gap_ms"] < 1500, kind
    for family in ("ipv4", "ipv6"):
        udp = found["udp"][family]
        assert 450 < udp["outage_ms"] < 900
        assert 0 < udp["answered"] <= udp["sent"]
        assert abs(udp["answered_again_at"] - resumed_at) < 0.2


@pytest.mark.lab
@needs_root
def test_connections_of_a_guest_that_died_are_lost_and_say_why(program: Path) -> None:
    """A new guest at the same address does not count as the old one."""
    with _namespace(program) as there:
        probe = there.run_probe()
        there.guestd.kill()
        time.sleep(1.0)
        found = _finish(probe)
    assert found["kept"] == 0
    assert all(report["errors"] for report in found["kinds"].values())
    assert found["udp"]["ipv4"]["answered_again_at"] is None


async def test_connections_to_nobody_are_lost_at_once_and_do_not_delay_the_report() -> None:
    """A refused connection is an error of its own; the probe is ready, with nothing kept."""
    with _free_port() as port:
        probe = Probe("127.0.0.1", "::1", tcp_port=port, udp_port=port)
        async with asyncio.timeout(20):
            running = asyncio.ensure_future(probe.run())
            await probe.ready.wait()
            probe.stop()
            found = await running
    assert (found.connections, found.kept) == (50, 0)
    assert all(each.errors for each in found.kinds.values())


@contextmanager
def _free_port() -> Iterator[int]:
    """A TCP port that is bound and does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


async def test_a_wrong_answer_is_a_loss() -> None:
    """What came and what was expected are both named."""
    reader = asyncio.StreamReader()
    reader.feed_data(piece(1))
    with pytest.raises(Lost, match="came instead of"):
        await Download(reader, lambda _: None).once(0)
    reader.feed_data(piece(1))
    await Download(reader, lambda _: None).once(1)


def test_pieces_of_a_stream_go_on_from_each_other() -> None:
    """The numbers never repeat, so a piece that is lost, doubled or from elsewhere is noticed."""
    first, second = piece(0), piece(1)
    assert first[-8:] == (2047).to_bytes(8, "big")
    assert second[:8] == (2048).to_bytes(8, "big")
