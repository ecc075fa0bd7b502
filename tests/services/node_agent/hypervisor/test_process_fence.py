"""The fence: a stopped process stays stopped until it is thawed or killed; another process is never touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from services.node_agent.hypervisor import process_fence
from services.node_agent.hypervisor.process_fence import ProcessFence

UUID = uuid4()
FILE = '{"filename":"/images/web.raw"}'


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose command line names the VM, as QEMU's does."""
    started = subprocess.Popen(["sh", "-c", "read line", "-uuid", str(UUID), "-blockdev", FILE], stdin=subprocess.PIPE)
    deadline = time.monotonic() + 5
    while str(UUID) not in Path(f"/proc/{started.pid}/cmdline").read_text() and time.monotonic() < deadline:
        time.sleep(0.005)  # exec takes a moment
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def state(process: subprocess.Popen[bytes]) -> str:
    """T is stopped."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def until(process: subprocess.Popen[bytes], *, stopped: bool) -> bool:
    """Whether the process gets there: signals need a moment."""
    deadline = time.monotonic() + 5
    while (state(process) == "T") is not stopped and time.monotonic() < deadline:
        time.sleep(0.005)
    return (state(process) == "T") is stopped


def test_a_process_is_frozen_and_thawed(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Stopped, then not."""
    (tmp_path / "web.pid").write_text(str(process.pid))
    fence = ProcessFence(tmp_path)
    assert fence.freeze(UUID)
    assert until(process, stopped=True)
    assert fence.thaw(UUID)
    assert until(process, stopped=False)
    assert not fence.kill_frozen(UUID)


def test_a_frozen_process_can_be_killed(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """It would not hear SIGTERM."""
    (tmp_path / "web.pid").write_text(str(process.pid))
    fence = ProcessFence(tmp_path)
    fence.freeze(UUID)
    assert until(process, stopped=True)
    assert fence.kill_frozen(UUID)
    assert process.wait(timeout=5) == -9


def test_the_frozen_ones_are_found(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Whoever stopped them; a pid file that is of no VM is passed over."""
    (tmp_path / "web.pid").write_text(str(process.pid))
    (tmp_path / "self.pid").write_text(str(os.getpid()))
    fence = ProcessFence(tmp_path)
    assert fence.frozen() == frozenset()
    fence.freeze(UUID)
    assert until(process, stopped=True)
    assert fence.frozen() == {UUID}
    fence.thaw(UUID)


def test_a_killed_process_is_gone_when_the_call_returns(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Only then it can neither run nor write."""
    (tmp_path / "web.pid").write_text(str(process.pid))
    fence = ProcessFence(tmp_path)
    assert fence.freeze(UUID)
    assert fence.kill_frozen(UUID), "a frozen process stands when the call returns"
    assert state(process) == "Z"


def test_a_process_is_known_by_its_files(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """All of them must be its own."""
    (tmp_path / "web.pid").write_text(str(process.pid))
    fence = ProcessFence(tmp_path)
    assert fence.holds_files(UUID, ["/images/web.raw"])
    assert not fence.holds_files(UUID, ["/images/web.raw", "/images/other.raw"])
    assert not fence.holds_files(uuid4(), ["/images/web.raw"])


def test_a_uuid_elsewhere_in_the_command_line_names_no_vm(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Another VM's disk may be named after this one."""
    other = uuid4()
    process.kill()
    process.wait()
    named = subprocess.Popen(["sh", "-c", "read line", "-uuid", str(UUID), f"/{other}.raw"], stdin=subprocess.PIPE)
    try:
        (tmp_path / "web.pid").write_text(str(named.pid))
        assert not ProcessFence(tmp_path).freeze(other)
    finally:
        named.kill()
        named.communicate()


def test_another_vms_process_is_not_touched(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """A stale pid file names a process of somebody else."""
    (tmp_path / "web.pid").write_text(str(process.pid))
    assert not ProcessFence(tmp_path).freeze(uuid4())
    assert state(process) != "T"


@pytest.mark.parametrize("content", ["", "x", "999999999"])
def test_without_a_process_there_is_no_fence(tmp_path: Path, content: str) -> None:
    """It says so, and raises nothing."""
    fence = ProcessFence(tmp_path)
    assert not fence.freeze(UUID)
    (tmp_path / "web.pid").write_text(content)
    assert not fence.freeze(UUID)
    assert not fence.kill_frozen(UUID)


def test_a_process_that_does_not_stop_is_no_fence(
    process: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is busy in the kernel may run on for a while."""
    (tmp_path / "web.pid").write_text(str(process.pid))
    monkeypatch.setattr(process_fence, "STOPPED_WITHIN_S", 0.01)
    monkeypatch.setattr(process_fence, "_state", lambda _: "D")
    assert not ProcessFence(tmp_path).freeze(UUID)
    process.send_signal(signal.SIGCONT)


def test_the_cpu_time_of_vcpu_threads_is_counted(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """By their names; what QEMU itself uses does not count. A process that is gone has none."""
    (tmp_path / "web.pid").write_text(str(process.pid))
    fence = ProcessFence(tmp_path)
    assert fence.vcpu_time_ns(uuid4()) is None
    assert fence.vcpu_time_ns(UUID) == 0
    process.kill()
    process.wait()
    assert fence.vcpu_time_ns(UUID) is None


@pytest.mark.parametrize(("name", "counts"), [("CPU 0/TCG", True), ("ALL CPUs/TCG", True), ("IO mon (1)", False)])
def test_a_vcpu_is_known_by_its_name(name: str, tmp_path: Path, *, counts: bool) -> None:
    """Two ticks and more of a busy thread of this name."""
    busy = f"open('/proc/self/comm', 'w').write('{name}')\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", busy, "-uuid", str(UUID)]) as process:
        (tmp_path / "web.pid").write_text(str(process.pid))
        fence = ProcessFence(tmp_path)
        stat = Path(f"/proc/{process.pid}/stat")
        deadline = time.monotonic() + 20
        while f"({name})" not in (text := stat.read_text()) or int(text.rpartition(")")[2].split()[11]) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        used_ns = fence.vcpu_time_ns(UUID)
        process.kill()
    assert used_ns is not None
    assert (used_ns >= 20_000_000) is counts
