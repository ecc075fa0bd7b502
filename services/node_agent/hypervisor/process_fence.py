"""The fence around a QEMU process: a stopped process runs no vCPU, whatever libvirtd asks of its monitor.

It closes the one gap that libvirt leaves: if the driver connection breaks after Finish was sent, libvirtd resumes the
donor's copy of the guest. While the process is stopped (SIGSTOP), from the Finish call until its outcome is known, it
cannot do that, not even if this agent dies meanwhile. The next agent to start kills the process or lets it continue, as
the broker's ledger says.

Linux only (pidfd_open(2), kernel 5.3). The agent needs the right to signal QEMU: root, or QEMU's user.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from uuid import UUID


class ProcessFence:
    """Finds a VM's QEMU by libvirt's pid file and checks by its command line that it is this VM's."""

    def __init__(self, pid_dir: Path) -> None:
        self._pid_dir = pid_dir

    def freeze(self, name: str, uuid: UUID) -> bool:
        """Stop the process; False if it is not found or may not be signalled."""
        return self._signal(name, uuid, signal.SIGSTOP)

    def thaw(self, name: str, uuid: UUID) -> bool:
        """Let the process continue; no effect if it is not stopped."""
        return self._signal(name, uuid, signal.SIGCONT)

    def kill_frozen(self, name: str, uuid: UUID) -> bool:
        """Kill the process if it is stopped; False if there was nothing to do."""
        pid = self._pid(name)
        if pid is None or not _is_stopped(pid):
            return False
        return self._signal(name, uuid, signal.SIGKILL)

    def _pid(self, name: str) -> int | None:
        try:
            return int((self._pid_dir / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return None

    def _signal(self, name: str, uuid: UUID, number: signal.Signals) -> bool:
        pid = self._pid(name)
        if pid is None:
            return False
        try:
            # The descriptor pins the process: if the pid is reused after the check, the signal reaches nobody.
            process = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            if str(uuid) not in _command_line(pid):
                return False
            signal.pidfd_send_signal(process, number)
        except OSError:
            return False
        finally:
            os.close(process)
        return True


def _command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _is_stopped(pid: int) -> bool:
    try:
        # proc_pid_stat(5): the name in parentheses may contain anything; the state follows the last parenthesis.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False
