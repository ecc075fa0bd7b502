"""Starting, finding and ending processes of the lab; entering its namespaces.

A process belongs to the lab if it is recorded (pid and start time) or if it stands in one of the lab's network
namespaces: that finds what libvirtd or a crashed command started, too. Nothing else is ever signalled.
"""

import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from deploy.labkit.errors import CommandFailed, LabError
from deploy.labkit.state import ProcessRecord

_CLONE_NEWNET = 0x40000000
_POLL_S = 0.05


def run(argv: Sequence[str], *, stdin: str | None = None, timeout_s: float = 60.0) -> str:
    """Run a program to its end and return what it printed. Raises `CommandFailed`."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(argv, code=None, output=str(error.stderr or "")) from error
    except FileNotFoundError as error:
        raise CommandFailed(argv, code=127, output=f"{argv[0]} is not installed: run deploy/bootstrap") from error
    if done.returncode != 0:
        raise CommandFailed(argv, code=done.returncode, output=done.stderr + done.stdout)
    return done.stdout


def start_time(pid: int) -> int | None:
    """When the process began (clock ticks since boot), or None if it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def command_line(pid: int) -> str:
    """The process's arguments, joined by spaces; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def peak_memory_mib(pid: int) -> float | None:
    """The most memory that the process had resident, ever or since `forget_peak_memory`; None if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return round(int(found[0]) / 1024, 1) if found else None


def forget_peak_memory(pid: int) -> None:
    """Have `peak_memory_mib` count from now on (proc(5), clear_refs); nothing if the process is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def is_alive(record: ProcessRecord) -> bool:
    """Whether the very process that was recorded still runs."""
    with suppress(ChildProcessError):
        os.waitpid(record.pid, os.WNOHANG)
    return start_time(record.pid) == record.start_time


def spawn(argv: list[str], *, env: Mapping[str, str], log: Path) -> ProcessRecord:
    """Start a process in the background, in a session of its own, its output appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    empty = os.open(os.devnull, os.O_RDONLY)
    try:
        pid = os.posix_spawnp(
            argv[0],
            argv,
            env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, empty, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE],  # Python ignores it, and that would be inherited
        )
    finally:
        os.close(output)
        os.close(empty)
    began = start_time(pid)
    if began is None:
        raise CommandFailed(argv, code=None, output=f"ended at once, see {log}")
    return ProcessRecord(pid, began)


def enter(namespace: Path, holder: ProcessRecord | None, argv: Sequence[str]) -> list[str]:
    """The command that runs `argv` in a network namespace and, with a holder, in its mount namespace."""
    mount = [] if holder is None else [f"--mount=/proc/{holder.pid}/ns/mnt"]
    return ["nsenter", f"--net={namespace}", *mount, "--", *argv]


def namespace_inode(path: Path) -> int | None:
    """Identity of a namespace, or None if there is none at the path."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def processes_in(inodes: Iterable[int]) -> dict[int, ProcessRecord]:
    """Every process in one of these network namespaces, by pid. This very process is never among them."""
    wanted = {f"net:[{inode}]" for inode in inodes}
    found: dict[int, ProcessRecord] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            inside = os.readlink(entry / "ns/net") in wanted
        except OSError:  # it ended meanwhile, or is a kernel thread
            continue
        began = start_time(int(entry.name)) if inside else None
        if began is not None:
            found[int(entry.name)] = ProcessRecord(int(entry.name), began)
    return found


def prefer(record: ProcessRecord, *, nice: int) -> None:
    """Give a process that leads its session, as all that `spawn` starts, this niceness against all of the machine."""
    with suppress(ProcessLookupError, FileNotFoundError):  # it ended, or the kernel does not group by session
        os.setpriority(os.PRIO_PROCESS, record.pid, nice)
        # Where it does (sched(7), autogroup), niceness counts only within a session.
        Path(f"/proc/{record.pid}/autogroup").write_text(str(nice), encoding="ascii")


def send_signal(record: ProcessRecord, number: signal.Signals) -> None:
    """Signal the recorded process if it still is that one."""
    try:
        handle = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if start_time(record.pid) == record.start_time:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def end(records: Sequence[ProcessRecord], *, grace_s: float) -> None:
    """End processes: SIGTERM, and SIGKILL after `grace_s`. Raises `LabError` if one survives that, too."""
    for number, bound_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        alive = [record for record in records if is_alive(record)]
        for record in alive:
            send_signal(record, number)
        deadline = time.monotonic() + bound_s
        while alive and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            alive = [record for record in alive if is_alive(record)]
        if not alive:
            return
    raise LabError(f"processes {[record.pid for record in alive]} survive SIGKILL")


def wait_until(ready: Callable[[], bool], *, what: str, timeout_s: float) -> None:
    """Wait for a condition. Raises `LabError` naming `what` when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not ready after {timeout_s:.0f} s")
        time.sleep(_POLL_S)


def socket_in(namespace: Path, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """A socket that lives in another network namespace, usable from this process. Raises `OSError`.

    A namespace is a property of the thread, and a socket keeps the one in which it was made: so a short thread does it.
    """
    made: list[socket.socket | OSError] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            handle = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(handle, _CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number), str(namespace))
                made.append(socket.socket(family, kind))
            finally:
                os.close(handle)
        except OSError as error:
            made.append(error)

    worker = threading.Thread(target=make, name="socket-in-namespace")
    worker.start()
    worker.join()
    (result,) = made
    if isinstance(result, OSError):
        raise result
    return result
