"""The lock of a state directory: one process at a time, and none after its death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.node_agent.state.lock import StateInUse, StateLock

HOLD = """
import sys, time
from pathlib import Path
from services.node_agent.state.lock import StateLock
StateLock(Path(sys.argv[1])).acquire()
print("locked", flush=True)
time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_process_is_refused_by_name(tmp_path: Path) -> None:
    """The error names the directory and who has it; when that process is killed the lock is free."""
    other = holder(tmp_path)
    try:
        with pytest.raises(StateInUse) as refused:
            StateLock(tmp_path).acquire()
        assert str(tmp_path) in str(refused.value)
        assert refused.value.pid == str(other.pid)
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.communicate(timeout=10)
    lock = StateLock(tmp_path)
    lock.acquire()
    lock.release()


def test_a_released_lock_is_free(tmp_path: Path) -> None:
    """Released twice is as released once; the directory is made where it is missing."""
    first, second = StateLock(tmp_path / "state"), StateLock(tmp_path / "state")
    first.acquire()
    with pytest.raises(StateInUse, match=str(os.getpid())):
        second.acquire()
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_a_program_that_is_started_does_not_hold_the_lock_on(tmp_path: Path) -> None:
    """The lock ends with its own process, not with the last of its children."""
    lock = StateLock(tmp_path)
    lock.acquire()
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        lock.release()
        StateLock(tmp_path).acquire()
    finally:
        child.kill()
        child.wait(timeout=10)
