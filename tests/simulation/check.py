"""The invariants, checked after every step of the services tier, and what must hold at rest."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.node_agent.hypervisor.fake_host import FakeVm
from shared.messages import PortMessage
from shared.messages.porting import QuerySwitchover
from shared.messages.service_change import PortCancelled, PortCompleted, PortFailed, PortRefused
from shared.messages.vm import VmState
from shared.parties import BROKER, Party
from tests.simulation.faults import Stage
from tests.simulation.parties import ALPHA, BETA
from tests.simulation.report import Violation
from tests.simulation.virtual_time import SimDatetime, real_connect

if TYPE_CHECKING:
    from tests.simulation.services_world import World

_OVER = {
    "donor": {"rejected", "quarantined", "erased", "ended"},
    "recipient": {"provisioned", "released"},
}
_DATABASES = {"broker": "broker", "donor": "donor", "recipient": "recipient"}


class Checker:
    """Looks at everything at once, as nobody in the world can."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._running: dict[str, bool] = {"alpha": True}
        self._written = 1
        """The newest version of the disk that the guest knows to be synced."""
        self._readers: dict[str, sqlite3.Connection] = {}

    def violate(self, rule: str, detail: str) -> None:
        """A rule is broken; each is told once."""
        found = self._world.outcome.violations
        if all(each.rule != rule for each in found):
            found.append(Violation(rule, detail, self._world.now_s()))

    # ---- after every step ----

    def vcpus(self, name: str, vm: FakeVm | None) -> None:
        """A VM's vCPUs were started or stopped."""
        runs = vm is not None and vm.runs
        if runs != self._running.get(name, False):
            self._running[name] = runs
            self._world.say(name, "runs" if runs else "stands")
            if name == "alpha" and vm is not None and vm.state is VmState.PAUSED and self._world.stage is Stage.MEMORY:
                self._world.advance(Stage.PAUSED)
            if runs and vm is not None and vm.content < self._written:
                self.violate("disk went back", f"{name} runs version {vm.content}, {self._written} was synced")
            elif runs and name == "beta":
                self.writes()  # the guest has waited for that
        self.copies()

    def copies(self) -> None:
        """At most one copy runs, and none of an older epoch."""
        world = self._world
        running = [party.owner for party, host in world.hosts.items() for vm in host.vms.values() if vm.runs]
        if len(running) > 1:
            self.violate("two copies", f"{' and '.join(running)} run the VM")
        elif running and running[0] != world.owner:
            self.violate("older epoch", f"{running[0]} runs the VM, which is {world.owner}'s since epoch {world.epoch}")

    def writes(self) -> None:
        """The guest writes where it runs, and sees its own disk."""
        for party, host in self._world.hosts.items():
            for uuid, vm in list(host.vms.items()):
                if not vm.runs:
                    continue
                if vm.content < self._written:
                    self.violate("disk went back", f"{party.owner} runs version {vm.content} of {self._written}")
                self._written = max(self._written, host.guest_writes(uuid))
                if host.stored_content(vm) != vm.content:
                    self.violate("disk removed", f"the guest at {party.owner} runs on an image that is not there")

    def acknowledged(self, party: Party, message_id: str) -> None:
        """What a stateful service acknowledged, its store knows, or it never will need to."""
        envelope = self._world.sent.get(message_id)
        name = {BROKER: "broker", ALPHA: "donor", BETA: "recipient"}.get(party)
        if name is None or envelope is None or not isinstance(envelope.data, PortMessage):
            return  # what is said again and again is not stored
        if isinstance(envelope.data, QuerySwitchover):
            return  # an answer that changes nothing needs no transaction; who does not hear it asks again
        dead = any(letter.message_id == message_id for letter in self._world.net.dead[party])
        # A deadline is on its sender's clock, which the receiver knows how to read.
        ahead = timedelta(seconds=self._world.skew_s(envelope.sender))
        if dead or any(envelope.expired(SimDatetime.now(UTC) + each) for each in (timedelta(), ahead)):
            return
        if not self._rows(name, "SELECT 1 FROM inbox WHERE message_id = ?", envelope.id.hex):
            self.violate("acknowledged", f"{name} acknowledged {type(envelope.data).__name__} and has not stored it")

    def waiting(self) -> None:
        """Every port under way has a timer."""
        rows = self._rows(
            "broker",
            "SELECT phase FROM ports WHERE active AND NOT EXISTS "
            "(SELECT 1 FROM timers WHERE key = 'port:' || ? || ':deadline')",
            str(self._world.port_id),
        )
        for (phase,) in rows:
            self.violate("no timer", f"the port waits in {phase} without a deadline")

    # ---- at rest ----

    def registry_is_full(self) -> bool:
        """The broker knows the VM and both providers."""
        return (
            bool(self._rows("broker", "SELECT 1 FROM vms"))
            and len(self._rows("broker", "SELECT 1 FROM providers WHERE nodes > 0")) >= 1
        )

    def phases(self) -> dict[str, str]:
        """How far the port is at each party that has a store."""
        found = {}
        for name, table in (("broker", "ports"), ("donor", "donor_ports"), ("recipient", "recipient_reservations")):
            rows = self._rows(name, f"SELECT phase FROM {table}")  # noqa: S608  # a constant
            found[name] = str(rows[0][0]) if rows else ""
        return found

    def is_arriving(self) -> bool:
        """Whether the recipient's node has passed Finish, and has not written down what became of it."""
        records = self._world.folder / "beta" / "state" / "ports"
        return any('"phase":"finish_passed"' in text for text in _texts(records.glob("*.inbound.json")))

    def is_over(self) -> bool:
        """Everybody has ended the port, and the tenant knows."""
        world = self._world
        if world.ended is None:
            return False
        phases = self.phases()
        return (
            phases["broker"] in {"", "completed", "failed", "cancelled", "refused"}
            and phases["donor"] in _OVER["donor"] | {"", "approved"}
            and phases["recipient"] in _OVER["recipient"] | {""}
            and not world.lanes.open
            and all(process.alive for process in world.processes.values())
            and not any(_active(world.folder / host / "state" / "ports") for host in ("alpha", "beta"))
        )

    def has_sockets(self) -> bool:
        """Whether a host has a transfer's directory of sockets."""
        return any(_names(self._world.folder / host / "run") for host in ("alpha", "beta"))

    def at_rest(self) -> None:
        """What must hold at the end, two hours after the last fault at the latest."""
        world = self._world
        if world.outcome.violations:
            return
        if not self.is_over():
            self.violate("not over", f"{self.phases()}, tenant {world.outcome.ended or 'hears nothing'}{self._left()}")
            return
        self._place()
        self._word()

    def _left(self) -> str:
        states = {
            party.owner: [vm.state.value for vm in host.vms.values()] for party, host in self._world.hosts.items()
        }
        files = [
            path.name
            for host in ("alpha", "beta")
            for path in sorted((self._world.folder / host / "state" / "ports").glob("*"))
        ]
        return f", VMs {states}, journals {files}, lanes {len(self._world.lanes.open)}"

    def _place(self) -> None:
        world = self._world
        owner, other = world.owner, "beta" if world.owner == "alpha" else "alpha"
        mine, others = world.host(owner).vms, world.host(other).vms
        if len(mine) != 1 or others:
            self.violate("place", f"the VM is {owner}'s; {owner} has {len(mine)} and {other} has {len(others)}")
            return
        (vm,) = mine.values()
        if not vm.persistent:
            self.violate("place", f"{owner} has the VM only until it stops")
        if vm.state is not VmState.RUNNING and not world.may_be_off:
            self.violate("guest stands", f"the VM is {vm.state} at {owner}")
        if vm.frozen:
            self.violate("guest stands", f"the VM is frozen at {owner}")
        if world.host(owner).stored_content(vm) < self._written:
            self.violate(
                "disk went back",
                f"version {self._written} was synced, {owner} has {world.host(owner).stored_content(vm)}",
            )
        self._files(owner)

    def _files(self, owner: str) -> None:
        folder = self._world.folder
        images = {host: _names(folder / host / "images") for host in ("alpha", "beta")}
        if owner == "alpha":
            expected = images["alpha"] == ["web.raw"] and not images["beta"]
        else:
            expected = (
                len(images["alpha"]) == 1 and images["alpha"][0].endswith(".quarantine") and len(images["beta"]) == 1
            )
        if not expected:
            self.violate("left over", f"the VM is {owner}'s; images: {images}")
        runs = {host: _names(folder / host / "run") for host in ("alpha", "beta")}
        if any(runs.values()):
            self.violate("left over", f"run directories: {runs}")

    def _word(self) -> None:
        world, phase = self._world, self.phases()["broker"]
        expected: dict[str, tuple[type, ...]] = {
            "completed": (PortCompleted,),
            "failed": (PortFailed,),
            "cancelled": (PortCancelled,),
            "refused": (PortRefused,),
            "": (PortRefused,),
        }
        if not isinstance(world.ended, expected.get(phase, ())):
            self.violate("tenant's word", f"the tenant heard {world.outcome.ended}, the ledger says {phase}")
        only_clocks = not world.plan.lose and all(fault.kind == "skew" for fault in world.plan.faults)
        if isinstance(world.ended, PortRefused) and only_clocks:
            reasons = [refusal.code for refusal in world.ended.refusals]
            self.violate("refused", f"nothing is wrong but clocks, and the port is refused: {reasons}")
        if (phase == "completed") != (world.owner == "beta"):
            self.violate("tenant's word", f"the port is {phase}, and the VM is {world.owner}'s")

    # ---- databases ----

    def _rows(self, name: str, statement: str, *values: Any) -> list[Any]:
        path = self._world.folder / f"{name}.db"
        if not path.exists():
            return []
        if name not in self._readers:
            self._readers[name] = real_connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        try:
            return self._readers[name].execute(statement, values).fetchall()
        except sqlite3.OperationalError:
            return []  # the table is not there yet

    def close(self) -> None:
        """Let go of the databases."""
        for reader in self._readers.values():
            reader.close()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*")) if folder.exists() else []


def _active(folder: Path) -> bool:
    """Whether a journal has a transfer that is not over."""
    if not folder.exists():
        return False
    ended = ('"phase":"done"', '"phase":"failed"', '"phase":"quarantined"')
    return any(not any(mark in text for mark in ended) for text in _texts(folder.glob("*.json")))


def _texts(paths: Iterable[Path]) -> Iterable[str]:
    return (path.read_text() for path in paths)
