"""The lab itself, for real: its networks, its idempotence, and that nothing is left after a crash."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.labkit import GuestSpec, Lab, LabError, LabOptions, switches
from deploy.labkit.processes import is_alive

LAB_NAME = "selftest"

pytestmark = [pytest.mark.lab, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab without vmport's own processes."""
    lab = Lab(LAB_NAME)
    lab.down()
    try:
        lab.up(LabOptions(services=False))
        yield lab
    finally:
        lab.down()


def _round_trip_ms(lab: Lab, host: str, address: str) -> float:
    shown = lab.exec(host, ["busybox", "ping", "-c", "5", "-W", "2", address]).stdout
    found = re.search(r"min/avg/max = ([\d.]+)/", shown)
    assert found, shown
    return float(found[1])


def test_up_again_changes_nothing(lab: Lab) -> None:
    """A second `up` keeps every process."""
    before = {name: record for name, (record, _) in lab.processes().items()}
    lab.up(LabOptions(services=False))
    assert before == {name: record for name, (record, alive) in lab.processes().items() if alive}


def test_the_delay_is_between_providers_and_can_be_lifted(lab: Lab) -> None:
    """--rtt is the round trip between two providers; half of it is that to the hub."""
    lab.up(LabOptions(rtt="20ms", services=False))
    try:
        assert 20 <= _round_trip_ms(lab, "alpha", "10.77.0.12") < 24
        assert 10 <= _round_trip_ms(lab, "alpha", "10.77.0.1") < 13
    finally:
        lab.up(LabOptions(rtt="none", services=False))
    assert _round_trip_ms(lab, "alpha", "10.77.0.12") < 5


def test_the_link_is_as_slow_as_asked_and_counts_what_crosses(lab: Lab) -> None:
    """10 MB over 80 Mbit/s take a second, and the link's counters see them with their headers."""
    size = 10_000_000
    lab.up(LabOptions(link="80mbit", services=False))
    listen = "import socket; s = socket.create_server(('', 7)); c = s.accept()[0]\nwhile c.recv(1 << 20): pass"
    send = (
        "import socket, time\nfor _ in range(100):\n try: c = socket.create_connection(('10.77.0.12', 7)); break\n"
        f" except OSError: time.sleep(0.05)\nc.sendall(bytes({size})); c.shutdown(1); c.recv(1)"
    )
    server = subprocess.Popen(lab.exec_argv("beta", ["python3", "-c", listen]))
    try:
        before = lab.read_link_bytes("alpha")
        began = time.monotonic()
        done = lab.exec("alpha", ["python3", "-c", send])
        took_s = time.monotonic() - began
        crossed = lab.read_link_bytes("alpha").since(before)
    finally:
        server.kill()
        server.wait(10)
        lab.up(LabOptions(link="none", services=False))
    assert done.returncode == 0, done.stderr
    assert 0.9 < took_s < 3
    assert size * 1.02 < crossed.sent < size * 1.2


def test_a_guest_answers_on_network_and_console_and_goes(lab: Lab) -> None:
    """The tiny guest boots, reports the same identity on both ways, and leaves no file behind."""
    lab.guest_build()
    record = lab.guest_start(GuestSpec("g1", "beta", memory_mib=192, workload="writer"))
    try:
        report = lab.guest_report("g1")
        assert (record.uuid, record.mac) == (report["uuid"], report["mac"])
        assert report["boot_id"] == lab.guest_console_ask("g1")["boot_id"]
        assert report["mismatches"] == 0
        assert lab.guest_place("g1").provider == "beta"
        with pytest.raises(LabError, match="exists"):
            lab.guest_start(GuestSpec("g1", "alpha"))
        assert not [name for name in lab.processes() if name.startswith(switches.DAEMON)]
    finally:
        lab.guest_remove("g1")
    assert lab.virsh("beta", "list", "--all", "--name").strip() == ""
    assert list(lab.host_path("beta", "/var/lib/libvirt/images").iterdir()) == []


def test_a_switch_that_crashed_comes_back_with_its_guests(lab: Lab) -> None:
    """Open vSwitch runs once a guest asks for a VLAN, and `up` starts it again."""
    lab.guest_build()
    lab.guest_start(GuestSpec("tagged", "alpha", memory_mib=192, vlan=lab.plan.vlan("alpha")))
    try:
        daemon = lab.process(switches.process_name(switches.DAEMON, "alpha"))
        os.kill(daemon.pid, signal.SIGKILL)
        with pytest.raises(LabError, match="does not answer"):
            lab.guest_report("tagged", timeout_s=2)
        lab.up(LabOptions(services=False))
        assert lab.guest_report("tagged")["mismatches"] == 0
    finally:
        lab.guest_remove("tagged")


def test_down_removes_all_of_a_crashed_lab() -> None:
    """Daemons killed, a guest running, the state file gone: `down` still finds and removes everything."""
    lab = Lab(f"{LAB_NAME}2")
    try:
        lab.up(LabOptions(services=False))
        lab.guest_build()
        lab.guest_start(GuestSpec("g1", "alpha", memory_mib=192, vlan=lab.plan.vlan("alpha")))
        records = [record for record, _ in lab.processes().values()]
        inside = {host: lab.host_processes(host) for host in lab.plan.hosts}
        for program in ("qemu-system", switches.DAEMON):
            assert any(program in command for command in inside["alpha"].values())
        for daemon in ("libvirtd-alpha", switches.process_name(switches.DATABASE, "alpha")):
            os.kill(lab.process(daemon).pid, signal.SIGKILL)
        lab.plan.state_file.unlink()
    finally:
        Lab(f"{LAB_NAME}2").down()
    assert not [record for record in records if is_alive(record)]
    for program in ("qemu-system", switches.DAEMON):
        assert not [pid for commands in inside.values() for pid in commands if _still_runs(pid, program)]
    assert not list(Path("/run/netns").glob(f"{lab.plan.namespace_prefix}*"))
    assert not lab.plan.state_dir.exists()
    assert not lab.plan.run_dir.exists()


def _still_runs(pid: int, word: str) -> bool:
    try:
        return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
