"""Watches the VM of a recording at one real host: what libvirtd says of it, its events, and whether its vCPU runs."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Final

import libvirt

from services.node_agent.hypervisor.process_fence import ProcessFence
from tests.simulation.calibration.guest import NAME, VM_UUID
from tests.simulation.calibration.trace import ABSENT, NO_ANSWER, Place

LOOK_S: Final = 0.05
SLOW_S: Final = 1.0
"""A libvirtd that takes longer does not answer."""
_SAMPLE_S: Final = 0.5
_LONG_SAMPLE_S: Final = 4.0
"""Where libvirtd does not say that the guest stands, and the machine may be busy."""
_RUNS_NS: Final = 30_000_000
"""A guest that is never idle uses more CPU time in a sample."""
_EVENTS: Final = (
    "DEFINED",
    "UNDEFINED",
    "STARTED",
    "SUSPENDED",
    "RESUMED",
    "STOPPED",
    "SHUTDOWN",
    "PMSUSPENDED",
    "CRASHED",
)
_STATES: Final = ("NOSTATE", "RUNNING", "BLOCKED", "PAUSED", "SHUTDOWN", "SHUTOFF", "CRASHED", "PMSUSPENDED")


def _names(prefix: str) -> dict[int, str]:
    """libvirt's constants of a prefix: their numbers, and what they are called after it."""
    found = {}
    for name in dir(libvirt):
        value = getattr(libvirt, name)
        if name.startswith(prefix) and isinstance(value, int):
            found[value] = name.removeprefix(prefix).lower()
    return found


_DETAILS: Final = {name: _names(f"VIR_DOMAIN_EVENT_{name}_") for name in _EVENTS}
_REASONS: Final = {name: _names(f"VIR_DOMAIN_{name}_") for name in _STATES}


def _ignore(_context: object, _error: object) -> None:
    """libvirt's errors are raised; it need not print them, too."""


def serve_events() -> None:
    """Have libvirt's events delivered in this process, from a thread."""
    libvirt.registerErrorHandler(_ignore, None)
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True).start()


class HostWatch:
    """One host; looks from its beginning until `close`."""

    def __init__(self, uri: str, pid_dir: Path) -> None:
        self._uri = uri
        self.fence = ProcessFence(pid_dir)
        self._pid_file = pid_dir / f"{NAME}.pid"
        self._events: list[str] = []
        self._said: tuple[str, str, bool] = (NO_ANSWER, "", False)
        self._asked_s: float | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    @property
    def said(self) -> tuple[str, str, bool]:
        """State, reason, and whether the VM is lasting, as libvirtd said last."""
        asked_s = self._asked_s
        slow = asked_s is not None and time.monotonic() - asked_s > SLOW_S
        return (NO_ANSWER, "", False) if slow else self._said

    @property
    def event_count(self) -> int:
        """How many events were heard and not yet taken."""
        return len(self._events)

    def take_events(self) -> tuple[str, ...]:
        """The events since the last time."""
        taken, self._events = tuple(self._events), []
        return taken

    def place(self) -> Place:
        """Take what the host shows now; takes a sample of the vCPU's time."""
        return Place(*self.said, self._vcpus(), self.take_events())

    def _vcpus(self) -> str:
        before_ns, began_s = self.fence.vcpu_time_ns(VM_UUID), time.monotonic()
        while True:
            time.sleep(LOOK_S)
            now_ns, state = self.fence.vcpu_time_ns(VM_UUID), self.said[0]
            if before_ns is None or now_ns is None:
                return "none"
            if now_ns - before_ns >= _RUNS_NS:
                return "run"
            if time.monotonic() - began_s >= (_LONG_SAMPLE_S if state in {"running", NO_ANSWER} else _SAMPLE_S):
                return "stand"

    def qemu_pid(self) -> int | None:
        """The process of the VM, if libvirt has one."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._pid_file.read_text())
        return None

    def _look_on(self) -> None:
        connection: libvirt.virConnect | None = None
        while not self._closed:
            self._asked_s = time.monotonic()
            try:
                if connection is None:
                    connection = libvirt.open(self._uri)
                    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_event, None)
                self._said = _look(connection)
            except libvirt.libvirtError:
                connection, self._said = None, (NO_ANSWER, "", False)
            self._asked_s = None
            time.sleep(LOOK_S)
        if connection is not None:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()

    def _on_event(self, _connection: object, domain: libvirt.virDomain, event: int, detail: int, _: object) -> None:
        if domain.name() == NAME:
            kind = _EVENTS[event]
            self._events.append(f"{kind.lower()} {_DETAILS[kind].get(detail, str(detail))}")

    def close(self) -> None:
        """Look no more."""
        self._closed = True
        self._thread.join(SLOW_S)


def _look(connection: libvirt.virConnect) -> tuple[str, str, bool]:
    try:
        domain = connection.lookupByUUID(VM_UUID.bytes)
        number, reason = domain.state()[:2]
        state = _STATES[number]
        return state.lower(), _REASONS[state].get(reason, str(reason)), bool(domain.isPersistent())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return ABSENT, "", False
        raise
