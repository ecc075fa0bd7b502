"""What must hold after a port of the chaos run: who runs the guest, its memory and disk, states, nothing left.

Looks again until it is right or the time is over: parties hear of an end one after the other.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree

from deploy.labkit import guests
from deploy.labkit.disk_compare import Region, compare
from deploy.labkit.errors import LabError
from deploy.labkit.guest_images import MIB
from deploy.labkit.plan import TENANT
from deploy.labkit.services import config_file
from deploy.labkit.state import GuestRecord
from shared.topology import Lane
from tests.chaos.observe import Tenant, domain_state
from tests.chaos.site import Site

SETTLED_WITHIN_S = 20.0
PASSES_WITHIN_S = 60.0

PARTY_STATES = {
    "completed": ({"quarantined"}, {"provisioned"}),
    "failed": ({"ended"}, {"released", ""}),
    "cancelled": ({"ended"}, {"released", ""}),
}
"""The donor's and the recipient's own phase of a port after each end; empty: it knows nothing of it."""


@dataclass(frozen=True)
class Before:
    """The guest before its port."""

    boot_id: str
    disk: Path


@dataclass(frozen=True)
class Health:
    """The guest after its port. `note` says what the figures do not."""

    mismatches: int | None
    disk_identical: bool | None
    note: str = ""


def before(site: Site, guest: GuestRecord) -> Before:
    """Look at the guest where it runs."""
    report = site.lab.guest_report(guest.name)
    return Before(report["boot_id"], _disk(site, site.donor, guest.uuid))


def guest_health(site: Site, guest: GuestRecord, was: Before, *, place: str, same_boot: bool) -> Health:
    """Let the guest go over its memory, and compare its disk.

    With the donor's copy if the guest has left it, else with the image from which it was made: that differs only where
    the guest writes.
    """
    try:
        report = guests.wait_until_ready(site.lab.plan, guest, timeout_s=30)
        last = _after_two_passes(site, guest, report)
        identical, note = _disk_is_identical(site, guest, was, place=place)
    except (LabError, OSError, ValueError) as error:
        return Health(None, None, str(error)[:300])
    if same_boot and report["boot_id"] != was.boot_id:
        return Health(last["mismatches"], identical, "; ".join(filter(None, (note, "the guest booted again"))))
    return Health(last["mismatches"], identical, note)


def _after_two_passes(site: Site, guest: GuestRecord, since: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + PASSES_WITHIN_S
    while (report := site.lab.guest_report(guest.name))["passes"] < since["passes"] + 2:
        if time.monotonic() > deadline:
            raise LabError("the guest did not go over its memory")
        time.sleep(0.3)
    return report


def _disk_is_identical(site: Site, guest: GuestRecord, was: Before, *, place: str) -> tuple[bool, str]:
    image = site.lab.guest_build()
    layout = image.layout
    older = image.disk if place == site.donor else guests.quarantined(was.disk)
    region = Region(layout.blocks_offset_mib * MIB, layout.blocks_mib * MIB)
    site.lab.virsh(place, "suspend", guest.uuid)  # the image must stand still while it is read
    try:
        found = compare(older, _disk(site, place, guest.uuid), region)
    finally:
        site.lab.virsh(place, "resume", guest.uuid)
    return found.identical, "" if found.identical else f"disks differ at {found.differences[:5]}"


def _disk(site: Site, provider: str, vm_uuid: str) -> Path:
    root = ElementTree.fromstring(site.lab.virsh(provider, "dumpxml", vm_uuid))  # noqa: S314 - our own libvirtd
    source = root.find("devices/disk/source")
    if source is None:
        raise LabError("the guest has no disk")
    return site.lab.host_path(provider, source.get("file", ""))


# ---- the parties' states ----


def states(site: Site, port_id: str, tenant: Tenant) -> dict[str, str]:
    """What each party says of the port: its own record, and what the tenant was told."""
    shown = site.lab.exec(TENANT, ["vmport", "--format", "json", "port", "show", port_id])
    record = json.loads(shown.stdout) if shown.returncode == 0 else {}
    return {
        "broker": record.get("summary", {}).get("phase", ""),
        "donor": _phase(site, f"donor-{site.donor}", "donor_ports", port_id),
        "recipient": _phase(site, f"recipient-{site.recipient}", "recipient_reservations", port_id),
        "tenant": str((tenant.outcome or {}).get("outcome", "")),
        "runs_at": str((tenant.outcome or {}).get("vm_runs_at", "")),
    }


def states_agree(found: dict[str, str], place: str) -> bool:
    """Whether all say the same, and that the guest is where it is. Pure."""
    ends = PARTY_STATES.get(found["broker"])
    if ends is None:
        return False
    donor, recipient = ends
    told = found["tenant"] == found["broker"] and found["runs_at"] == place
    return told and found["donor"] in donor and found["recipient"] in recipient


def _phase(site: Site, service: str, table: str, port_id: str) -> str:
    path = site.lab.plan.data_dir / f"{service}.db"
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as connection:
        query = f"SELECT phase FROM {table} WHERE port_id = ?"  # noqa: S608 - one of two names of ours
        row = connection.execute(query, (UUID(port_id).hex,)).fetchone()
    connection.close()
    return "" if row is None else str(row[0]).lower()


# ---- what is left ----


def remaining(site: Site, port_id: str, guest: GuestRecord, *, place: str) -> list[str]:
    """What the port left behind, beside the guest where it is and the donor's quarantine."""
    found = []
    moved = place == site.recipient
    for provider in (site.donor, site.recipient):
        if (site.lab.plan.host_run_dir(provider) / "vmport" / port_id).exists():
            found.append(f"{provider}: run dir")
        if provider != place and (state := domain_state(site, provider, guest.uuid)):
            found.append(f"{provider}: domain, {state}")
        found += _images(site, provider, port_id, guest, place=place)
        found += _node_files(site, provider, port_id, moved=moved)
    pids = site.qemus(guest.uuid)
    found += [f"{provider}: QEMU {pid}" for provider in pids if provider != place for pid in pids[provider]]
    # An extension's lane outlives its port.
    kept = (f".{Lane.EXTENSION}.",) if moved and not site.is_joined else ()
    queues = sum(port_id in name and not any(each in name for each in kept) for name in site.lab.queue_names())
    return found + ([f"{queues} queues"] if queues else [])


def network_strangers(site: Site, port_id: str, *, place: str) -> list[str]:
    """What `vmport-node net list` of both hosts complains of, and what a port that has not moved its VM still has."""
    found = []
    for provider in (site.donor, site.recipient):
        shown = _network(site, provider)
        found += [f"{provider}: of no port: {step}" for step in shown["unclaimed"]]
        for port in shown["ports"]:
            found += [f"{provider}: missing: {step}" for step in port["missing"]]
            if port["port_id"] == port_id and place == site.donor:
                found.append(f"{provider}: {port['made']} of the port")
    return found


def help_remaining(site: Site, port_id: str) -> list[str]:
    """What the donor still has of a port whose help has ended."""
    ports = _network(site, site.donor)["ports"]
    return [f"{site.donor}: still helps: {port['made']}" for port in ports if port["port_id"] == port_id]


def _network(site: Site, provider: str) -> dict[str, Any]:
    config = str(config_file(site.lab.plan, f"node-{provider}"))
    told = site.lab.exec(provider, ["vmport-node", "net", "--config", config, "list", "--json"])
    if not told.stdout:
        raise LabError(f"net list at {provider}: {told.stderr.strip()[-300:]}")
    shown: dict[str, Any] = json.loads(told.stdout)
    return shown


def _images(site: Site, provider: str, port_id: str, guest: GuestRecord, *, place: str) -> list[str]:
    names = {path.name for path in site.images(provider).iterdir() if port_id in path.name or guest.name in path.name}
    expected = {f"{guest.name}.raw"} if provider == site.donor else set()
    if place == site.recipient:
        mine = provider == site.recipient
        expected = {_disk(site, place, guest.uuid).name} if mine else {f"{guest.name}.raw.{port_id}.quarantine"}
    return [f"{provider}: image {name}" for name in sorted(names ^ expected)]


def _node_files(site: Site, provider: str, port_id: str, *, moved: bool) -> list[str]:
    folder, found = site.state(provider), []
    for path in (folder / "ports").iterdir():
        if port_id not in path.name:
            continue
        record = json.loads(path.read_bytes()) if path.suffix == ".json" else {}
        resting = moved and provider == site.donor and record.get("phase") == "quarantined"
        if not resting:
            found.append(f"{provider}: journal {path.suffix[1:]} {record.get('phase')} {record.get('made')}")
    waiting = sum(1 for path in (folder / "outbox").iterdir() if path.is_file())
    return found + ([f"{provider}: {waiting} messages in the outbox"] if waiting else [])


def settled(look: Callable[[], list[str]], within_s: float = SETTLED_WITHIN_S) -> list[str]:
    """Look until nothing is found or the time is over; the last findings."""
    deadline = time.monotonic() + within_s
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(1)
    return found
