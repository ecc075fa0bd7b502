"""What every part of `Lab` uses: the plan, the recorded state, and the lock that guards it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from deploy.labkit import state
from deploy.labkit.errors import LabError
from deploy.labkit.plan import LabPlan
from deploy.labkit.state import LabState, ProcessRecord
from shared.messages.network import NetworkMode


class LabBase:
    """The plan and the state of one lab."""

    def __init__(self, name: str | None = None) -> None:
        """Take the lab of this name (default: environment VMPORT_LAB, else `lab`). Raises `LabError` for a bad name."""
        name = name or os.environ.get("VMPORT_LAB") or "lab"
        try:
            self.plan = LabPlan(name)
            self._state = state.load(self.plan.state_file) or LabState()
            if self._state.providers:
                self.plan = LabPlan(name, self._state.providers, NetworkMode(self._state.network))
        except ValueError as error:
            raise LabError(str(error)) from error

    def process(self, name: str) -> ProcessRecord:
        """A recorded process, e.g. `node-alpha` or `broker`, running or not. Raises `LabError` for an unknown name."""
        try:
            return self._state.processes[name]
        except KeyError:
            raise LabError(
                f"lab {self.plan.name} has no process {name!r}; it has {', '.join(sorted(self._state.processes))}"
            ) from None

    def _need_host(self, host: str) -> None:
        if host not in self.plan.hosts:
            raise LabError(f"lab {self.plan.name} has no host {host!r}; it has {', '.join(self.plan.hosts)}")
        if not self.plan.namespace_path(host).exists():
            raise LabError(f"lab {self.plan.name} is not up: run `deploy/lab up`")

    def _record(self, name: str, record: ProcessRecord | None) -> None:
        if record is None:
            self._state.processes.pop(name, None)
        else:
            self._state.processes[name] = record
        self._save()

    def _save(self) -> None:
        state.save(self.plan.state_file, self._state)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lab's lock, so that two commands do not change it at once, and see the newest state."""
        self.plan.lock_file.parent.mkdir(parents=True, exist_ok=True)
        with self.plan.lock_file.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(f"another command is changing lab {self.plan.name}; wait for it to end") from None
            self._state = state.load(self.plan.state_file) or LabState()
            yield


def need_root() -> None:
    """Raise `LabError` unless this process is root's."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root: it makes network namespaces and runs libvirt")
