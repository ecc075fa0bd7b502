"""Runs one cell: a fresh guest, its port brought to the instant, the fault, and the verification."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace

from deploy.labkit.errors import LabError
from deploy.labkit.guests import GuestSpec
from deploy.labkit.plan import TENANT
from deploy.labkit.port_run import connection_client
from deploy.labkit.state import GuestRecord
from tests.chaos import verify
from tests.chaos.cells import SWITCHED, Cell, Phase
from tests.chaos.faults import FAULTS, Fault, process_name
from tests.chaos.observe import ENDED, BrokerLog, CopiesWatch, NotReached, Tenant, running_now, wait_for
from tests.chaos.phases import MissedInstant, reach, window
from tests.chaos.site import Site

TRIES = 3
"""Ports that may go past the instant before the cell is given up."""
MEMORY_MIB = 112
WRITER = {"region_mib": 8, "hot_mib": 1, "pages_s": 50, "blocks_s": 2}


@dataclass(frozen=True)
class Cells:
    """Runs cells on one site. `settle_s`: how long a port may take to end after the fault is over."""

    site: Site
    settle_s: float = 120.0

    def run(self, name: str, phase: Phase) -> Cell:
        """One cell. Raises `LabError` or `NotReached` where the lab itself does not serve."""
        for attempt in range(TRIES):
            try:
                return self._run(name, phase, guest_name=f"chaos{attempt}")
            except MissedInstant:
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("a loop of at least one try")

    def _run(self, name: str, phase: Phase, *, guest_name: str) -> Cell:
        began = time.monotonic()
        fault, lab = FAULTS[name], self.site.lab
        spec = GuestSpec(guest_name, self.site.donor, memory_mib=MEMORY_MIB, workload="writer", settings=WRITER)
        guest = lab.guest_start(spec)
        if fault.autostart:
            lab.virsh(self.site.donor, "autostart", guest.uuid)
        was = verify.before(self.site, guest)
        self._wait_until_known(guest)
        log = BrokerLog(lab.log_file("broker"))
        clients = ExitStack()
        connections = None if self.site.is_joined else clients.enter_context(connection_client(lab, guest))
        tenant = Tenant(lab, guest.uuid, self.site.recipient, *window(phase), *self.site.port_options)
        copies = CopiesWatch(self.site, guest.uuid)
        try:
            marks = [time.monotonic()]
            reach(self.site, log, tenant, guest.uuid, phase)
            marks.append(time.monotonic())
            self._inflict(fault, guest)
            marks.append(time.monotonic())
            outcome = self._end(log, tenant)
            marks.append(time.monotonic())
            kept = None
            if connections is not None and phase not in fault.ends_guest:
                kept = connections().kept
            cell = replace(
                self._verdict(name, phase, guest, was, tenant, copies, outcome, began), connections_kept=kept
            )
            times = ", ".join(f"{mark - began:.0f}" for mark in marks)
            return replace(cell, detail=f"{cell.detail}; asked, reached, healed, ended at {times} s")
        except MissedInstant:
            tenant.wait(60)
            raise
        finally:
            copies.close()
            tenant.close()
            clients.close()

    def _wait_until_known(self, guest: GuestRecord) -> None:
        def known() -> bool:
            return guest.uuid in self.site.lab.exec(TENANT, ["vmport", "--format", "json", "vm", "list"]).stdout

        wait_for("the broker's knowledge of the guest", known, 30, poll_s=0.3)

    def _inflict(self, fault: Fault, guest: GuestRecord) -> None:
        site = self.site
        fault.strike(site, guest.uuid)
        stopped = {process_name(site, role) for role in fault.stops}
        site.release([held for held in site.held if held not in stopped])
        site.pause(fault.lasts_s)
        fault.heal(site, guest.uuid)

    def _end(self, log: BrokerLog, tenant: Tenant) -> str:
        """The port's last phase by the broker's log; then the tenant is given time to hear of it."""
        try:
            wait_for("the end", lambda: log.phase(tenant.port_id) in ENDED, self.settle_s, poll_s=0.1)
            tenant.wait(verify.SETTLED_WITHIN_S)
        except NotReached:
            return log.phase(tenant.port_id)
        return log.phase(tenant.port_id)

    def _verdict(
        self,
        name: str,
        phase: Phase,
        guest: GuestRecord,
        was: verify.Before,
        tenant: Tenant,
        copies: CopiesWatch,
        outcome: str,
        began: float,
    ) -> Cell:
        fault, notes = FAULTS[name], list[str]()
        owner = self.site.recipient if outcome == "completed" else self.site.donor
        if outcome not in ENDED and phase in SWITCHED:
            owner = self.site.recipient
        running = running_now(self.site, guest.uuid)
        if not running and phase in fault.ends_guest:
            running = self._start_again(guest, owner, notes)
        place = running[0] if running else owner
        health = verify.guest_health(self.site, guest, was, place=place, same_boot=phase not in fault.ends_guest)
        if running and outcome in ENDED and place != owner:
            notes.append(f"runs at {place}, owned by {owner}")
        agree = self._states(tenant, place, notes)
        left = self._remaining(tenant.port_id, guest, place, notes)
        copies.close()
        if copies.doubles_s:
            notes.append(f"two copies ran at {copies.doubles_s[:5]} s")
        if tenant.errors:
            notes.append(f"the tenant's command was restarted: {tenant.errors[0]}")
        return Cell(
            fault=name,
            phase=phase,
            outcome=outcome,
            running_copies=2 if copies.doubles_s else len(running),
            mismatches=health.mismatches,
            disk_identical=health.disk_identical,
            leftovers=tuple(left),
            states_agree=agree,
            seconds=round(time.monotonic() - began, 1),
            detail="; ".join(filter(None, (f"port {tenant.port_id}", health.note, *notes))),
            allowed=fault.allowed(phase),
        )

    def _start_again(self, guest: GuestRecord, owner: str, notes: list[str]) -> list[str]:
        """The fault ended the guest itself: its owner starts it, as an operator or a cluster manager would."""
        try:
            self.site.lab.virsh(owner, "start", guest.uuid)
        except LabError as error:
            notes.append(f"cannot be started at {owner}: {str(error)[:200]}")
            return []
        notes.append(f"ended by the fault, started again at {owner}")
        return running_now(self.site, guest.uuid)

    def _states(self, tenant: Tenant, place: str, notes: list[str]) -> bool:
        def differ() -> list[str]:
            found = verify.states(self.site, tenant.port_id, tenant)
            return [] if verify.states_agree(found, place) else [str(found)]

        notes += (left := verify.settled(differ))
        return not left

    def _remaining(self, port_id: str, guest: GuestRecord, place: str, notes: list[str]) -> list[str]:
        try:
            left = verify.settled(lambda: verify.remaining(self.site, port_id, guest, place=place))
            return [*left, *self._network_remaining(port_id, place)]
        except (LabError, OSError) as error:
            notes.append(str(error)[:200])
            return ["unknown: it could not be looked for"]

    def _network_remaining(self, port_id: str, place: str) -> list[str]:
        """What is of no port, or missing; and when the donor's help is ended at last, what is left of it there."""
        if self.site.is_joined:
            return []
        left = verify.settled(lambda: verify.network_strangers(self.site, port_id, place=place))
        if place == self.site.recipient:
            self.site.lab.exec(TENANT, ["vmport", "network", "end", port_id])
            left += verify.settled(lambda: verify.help_remaining(self.site, port_id))
        return left
