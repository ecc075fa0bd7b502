"""The fence around a QEMU process: a stopped process runs no vCPU, whatever libvirtd asks of its monitor.

It closes the one gap that libvirt leaves: when the driver connection breaks after Finish went out, libvirtd resumes the
donor's copy. With the process stopped (SIGSTOP) between the Finish call and the news of its outcome, it cannot, not
even
while this agent is dead; who starts next kills the process or lets it go on, as the broker's ledger says.
Linux only; needs the right to signal QEMU (root, or its user).
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
        """Stop the process; False where it is not found or may not be signalled."""
        return self._signal(name, uuid, signal.SIGSTOP)

    def thaw(self, name: str, uuid: UUID) -> bool:
        """Let the process go on; harmless where it was not stopped."""
        return self._signal(name, uuid, signal.SIGCONT)

    def kill_frozen(self, name: str, uuid: UUID) -> bool:
        """Kill the process if it is stopped; False where there was nothing to do."""
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
            # The descriptor pins the process: if the pid is used anew after the check, the signal goes nowhere.
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
        # The name in parentheses may hold anything; the state is the first word after the last one.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False
