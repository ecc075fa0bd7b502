"""libvirt's hook that refuses to start a VM which this host has given away: its text, its installation, its check.

The hook itself is `qemu_hook.sh`. Who was given away is in `state/given_away`; this module never writes there.
Source: https://libvirt.org/hooks.html; scripts in qemu.d since libvirt 6.5.
"""

from __future__ import annotations

import os
import signal
import stat
from dataclasses import dataclass
from pathlib import Path

from services.node_agent.metrics import NodeMetrics
from services.node_agent.state.files import write_atomically
from shared.logs import get_logger

log = get_logger(__name__)

SOURCE = Path(__file__).with_name("qemu_hook.sh")
_DIRECTORY_LINE = "given_away=/var/lib/vmport/node/given-away\n"
_MODE = 0o755
_CLOCK_SLACK_S = 2.0
"""A process's start is known to a second only, for the time of the boot is."""
_START_TICKS_FIELD = 22
"""proc_pid_stat(5), counted from 1; two fields end before the name does."""


def hook_text(given_away: Path) -> str:
    """The hook for a node whose files of given-away VMs lie there. Raises ValueError for a path that no shell takes."""
    path = str(given_away)
    if not given_away.is_absolute() or not path.isprintable() or "'" in path:
        raise ValueError(f"{path!r} cannot stand in a shell script: give an absolute path without quotes")
    text = SOURCE.read_text()
    if _DIRECTORY_LINE not in text:
        raise ValueError(f"{SOURCE} has no line for the directory")
    return text.replace(_DIRECTORY_LINE, f"given_away='{path}'\n")


def hook_problem(hook: Path, given_away: Path) -> str | None:
    """Why this hook file does not do its work, in one clause; None where it does."""
    try:
        text, mode = hook.read_text(errors="replace"), hook.stat().st_mode
    except FileNotFoundError:
        return f"{hook} is not installed"
    except OSError as error:
        return f"{hook} cannot be read: {error.strerror}"
    if text != hook_text(given_away):
        return f"{hook} is not the hook of this release and this state directory"
    return None if stat.S_IMODE(mode) & 0o111 == 0o111 else f"{hook} is not executable"


def unseen_problem(hook: Path, run_dir: Path) -> str | None:
    """Why libvirtd does not know of the hook, in one clause; None where it does, or that cannot be told.

    libvirtd looks for hooks when it starts, and when it is told to reload. `run_dir` has its pid file.
    """
    try:
        installed_s = hook.stat().st_mtime
    except OSError:
        return None
    for daemon in _daemons(run_dir):
        if installed_s > daemon.started_s + _CLOCK_SLACK_S:
            return (
                f"{daemon.name} runs since before {hook} was installed, and does not know of it: reload {daemon.name}"
            )
    return None


def reload_libvirtd(hook: Path, run_dir: Path) -> tuple[str, ...]:
    """Have a libvirtd that runs look for hooks, which disturbs no guest; return the names of the daemons.

    The hook's time becomes that of a hook that was there when they started. Raises OSError.
    """
    told = []
    for daemon in _daemons(run_dir):
        os.kill(daemon.pid, signal.SIGHUP)
        os.utime(hook, (daemon.started_s, daemon.started_s))
        told.append(daemon.name)
    return tuple(told)


def install(hook: Path, given_away: Path) -> None:
    """Write the hook. An older one keeps its time: libvirtd knows of it and will run the new text. Raises OSError."""
    hook.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    before = hook.stat().st_mtime_ns if hook.exists() else None
    write_atomically(hook, hook_text(given_away).encode(), mode=_MODE)
    if before is not None:
        os.utime(hook, ns=(before, before))


class StartHook:
    """This host's hook, as the agent watches it. `required`: without it the node takes part in no port."""

    def __init__(self, hook: Path, given_away: Path, *, run_dir: Path, required: bool, metrics: NodeMetrics) -> None:
        """`run_dir` has libvirtd's pid file, `given_away` the files that the hook reads."""
        self._hook = hook
        self._given_away = given_away
        self._run_dir = run_dir
        self._required = required
        self._metrics = metrics
        self._said: str | None = None

    def problems(self) -> tuple[str, ...]:
        """For the heartbeat: why a VM that has left could be started here; only where the hook is required.

        Looks at the files at each call, counts, and logs what has changed.
        """
        problem = hook_problem(self._hook, self._given_away) or unseen_problem(self._hook, self._run_dir)
        self._metrics.start_hook.set(int(problem is None))
        if problem != self._said:
            self._said = problem
            if problem is None:
                log.info("start hook in place", hook=str(self._hook))
            else:
                log.warning("start hook missing: VMs that left could be started here", reason=problem)
        return (f"start hook: {problem}",) if problem is not None and self._required else ()


@dataclass(frozen=True, slots=True)
class _Daemon:
    """A daemon of libvirt that runs. `started_s` is in seconds since the epoch."""

    name: str
    pid: int
    started_s: float


def _daemons(run_dir: Path) -> tuple[_Daemon, ...]:
    found = (_daemon(name, run_dir / f"{name}.pid") for name in ("virtqemud", "libvirtd"))
    return tuple(daemon for daemon in found if daemon is not None)


def _daemon(name: str, pid_file: Path) -> _Daemon | None:
    """What a pid file tells of; None where that process is gone, or is another one by now."""
    try:
        pid = int(pid_file.read_text())
        head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
        fields = tail.split()
        if head.partition("(")[2] != name:
            return None
        booted_s = next(
            int(line.split()[1]) for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime ")
        )
        started_s = booted_s + int(fields[_START_TICKS_FIELD - 3]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return _Daemon(name, pid, started_s)
