"""The fence around a QEMU process: a stopped process runs no vCPU, whatever libvirtd asks of its monitor.

It closes the one gap that libvirt leaves: if the driver connection breaks after Finish was sent, libvirtd resumes the
donor's copy of the guest. While the process is stopped (SIGSTOP), from the Finish call until its outcome is known, it
cannot do that, not even if this agent dies meanwhile. The next agent to start kills the process or lets it continue, as
the broker's ledger says.

Linux only (pidfd_open(2), kernel 5.3). The agent needs the right to signal QEMU: root, or QEMU's user.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from uuid import UUID

STOPPED_WITHIN_S = 1.0
"""How long a thread may be busy in the kernel before it stops."""
GONE_WITHIN_S = 5.0
"""A killed process may be busy in the kernel for a moment, writing to a disk."""


class ProcessFence:
    """Finds a VM's QEMU among libvirt's pid files, by the UUID in its command line. Asks nothing of libvirtd: one that
    hangs on a stopped QEMU cannot hang this.
    """

    def __init__(self, pid_dir: Path) -> None:
        self._pid_dir = pid_dir

    def freeze(self, uuid: UUID) -> bool:
        """Stop the process, and return when all its threads stand; False if it is not found or may not be signalled, or
        does not stop in time.
        """
        return any(_signal(pid, uuid, signal.SIGSTOP) and _stops(pid) for pid in self._pids(uuid))

    def thaw(self, uuid: UUID) -> bool:
        """Let the process continue; no effect if it is not stopped."""
        return any(_signal(pid, uuid, signal.SIGCONT) for pid in self._pids(uuid))

    def kill_frozen(self, uuid: UUID) -> bool:
        """Kill the process if it is stopped, and wait until it is gone; False if there was nothing to do."""
        return any(_signal(pid, uuid, signal.SIGKILL) for pid in self._pids(uuid) if _is_stopped(pid))

    def frozen(self) -> frozenset[UUID]:
        """The VMs whose process is stopped."""
        stopped = (_uuid_of(pid) for pid in self._all_pids() if _is_stopped(pid))
        return frozenset(uuid for uuid in stopped if uuid is not None)

    def holds_files(self, uuid: UUID, paths: Collection[str]) -> bool:
        """Whether the process was started with all these files."""
        return any(all(path in _command_line(pid) for path in paths) for pid in self._pids(uuid))

    def vcpu_time_ns(self, uuid: UUID) -> int | None:
        """CPU time of all threads that QEMU calls a vCPU's, in the kernel's ticks; None where there is no process."""
        pids = self._pids(uuid)
        return sum(_vcpu_ticks(pid) for pid in pids) * (1_000_000_000 // os.sysconf("SC_CLK_TCK")) if pids else None

    def _pids(self, uuid: UUID) -> list[int]:
        return [pid for pid in self._all_pids() if _uuid_of(pid) == uuid]

    def _all_pids(self) -> Iterator[int]:
        for path in sorted(self._pid_dir.glob("*.pid")):
            try:
                yield int(path.read_text())
            except (OSError, ValueError):
                continue  # it has ended, or libvirt is writing it


def _signal(pid: int, uuid: UUID, number: signal.Signals) -> bool:
    try:
        # The descriptor pins the process: if the pid is reused after the check, the signal reaches nobody.
        process = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if _uuid_of(pid) != uuid:
            return False
        signal.pidfd_send_signal(process, number)
        if number == signal.SIGKILL:
            # Readable when the process is gone: only then nothing of it can run, or write to a disk.
            select.select([process], [], [], GONE_WITHIN_S)
    except OSError:
        return False
    finally:
        os.close(process)
    return True


def _uuid_of(pid: int) -> UUID | None:
    """The VM that a QEMU process is of, by its argument `-uuid`."""
    arguments = iter(_command_line(pid).split("\0"))
    for argument in arguments:
        if argument == "-uuid":
            try:
                return UUID(next(arguments, ""))
            except ValueError:
                return None
    return None


def _command_line(pid: int) -> str:
    """All arguments, separated by zero bytes; empty where the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _stops(pid: int) -> bool:
    """A signal reaches each thread when it next leaves the kernel, or guest mode."""
    deadline_s = time.monotonic() + STOPPED_WITHIN_S
    while not all(_state(Path(f"/proc/{pid}/task/{thread}/stat")) == "T" for thread in _threads(pid)):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.001)
    return True


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _vcpu_ticks(pid: int) -> int:
    """Of the threads called `CPU 0/KVM`, `CPU 0/TCG` or `ALL CPUs/TCG`; libvirt has QEMU name its threads."""
    ticks = 0
    for thread in _threads(pid):
        try:
            stat = Path(f"/proc/{pid}/task/{thread}/stat").read_text()
        except OSError:
            continue  # it has ended
        name, _, figures = stat.partition("(")[2].rpartition(")")
        if name.startswith(("CPU ", "ALL CPUs/")):
            # proc_pid_stat(5): utime and stime are the 14th and 15th figure, and the third follows the name.
            ticks += sum(map(int, figures.split()[11:13]))
    return ticks


def _is_stopped(pid: int) -> bool:
    return _state(Path(f"/proc/{pid}/stat")) == "T"


def _state(stat: Path) -> str:
    try:
        # proc_pid_stat(5): the name in parentheses may contain anything; the state follows the last parenthesis.
        return stat.read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
