"""The guest of a run: started, settled, identified before the move and examined after it.

Owns what gates a row: the guest's own checkers of memory, disk and services, and the comparison of both images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from deploy.labkit.disk_compare import Region, compare
from deploy.labkit.errors import LabError
from deploy.labkit.file_compare import compare_images
from deploy.labkit.guest_images import DEBIAN, MIB
from deploy.labkit.guests import GuestSpec, quarantined
from deploy.labkit.lab import Lab
from deploy.labkit.processes import run

NAME = "wanguest"
BASE_IMAGE_DIR = "/var/lib/libvirt/wan-bench-base-images"
PROGRESS_WITHIN_S = 120.0
_FILE_SYSTEM_MIB = 1856
# What each workload must have done before, and again after, the move: the report's counter and how much.
_PROGRESS = {
    "web": ("service_requests", 200),
    "redis": ("service_requests", 200),
    "writer": ("passes", 2),
    "build": ("block_checks", 200),
}
# So much that QEMU's estimate of the link, at times far too high, does not let a pre-copy end by accident.
HOT_MIB = 96
REGION_MIB = 128


@dataclass(frozen=True)
class GuestChoice:
    """Which guest every run gets. Paths replace the Debian image's own."""

    memory_mib: int = 512
    disk: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str | None = None


@dataclass(frozen=True)
class Before:
    """The guest before it moves."""

    provider: str
    boot_id: str
    disk: Path
    report: dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What was found after the move."""

    mismatches: int | None
    disk_identical: bool | None
    disk_check: str
    detail: str = ""


def writer_pages_per_s(link_bytes_per_s: float | None) -> int:
    """Rewrites that dirty memory half again as fast as the link, two pages each; capped by what emulation can do."""
    if link_bytes_per_s is None:
        return 4000
    return max(500, min(4000, round(1.5 * link_bytes_per_s / (2 * 4096))))


@contextmanager
def running(lab: Lab, choice: GuestChoice, workload: str, *, pages_s: int, settle_s: float) -> Iterator[None]:
    """A new guest at alpha that has settled; removed everywhere afterwards."""
    if NAME in lab.guests:
        lab.guest_remove(NAME)
    settings = {"pages_s": pages_s, "hot_mib": HOT_MIB, "region_mib": REGION_MIB} if workload == "writer" else {}
    spec = GuestSpec(
        NAME,
        "alpha",
        memory_mib=choice.memory_mib,
        workload=workload,
        image=DEBIAN,
        disk=choice.disk,
        kernel=choice.kernel,
        initrd=choice.initrd,
        cmdline=choice.cmdline,
        settings=settings,
    )
    lab.guest_start(spec)
    try:
        time.sleep(settle_s)
        _wait_for_progress(lab, workload, since=None)
        yield
    finally:
        lab.guest_remove(NAME)


def publish_base_image(lab: Lab, choice: GuestChoice) -> None:
    """Put the image of which every run's disk is a copy where beta's node agent looks in variants that know it."""
    image = choice.disk or lab.guest_build(debian=True).disk
    published = lab.host_path("beta", f"{BASE_IMAGE_DIR}/{image.name}")
    if not published.exists():
        published.parent.mkdir(parents=True, exist_ok=True)
        run(["cp", "--sparse=always", "--reflink=auto", str(image), str(published)], timeout_s=600)


def describe(lab: Lab, workload: str) -> Before:
    """Read the guest's identity, and hold its file system still unless writing to it is its workload."""
    if workload != "build":
        lab.guest_report(NAME, "freeze")
    place = lab.guest_place(NAME)
    report = lab.guest_report(NAME)
    return Before(place.provider, report["boot_id"], _disk(lab, place.provider), report)


def thaw(lab: Lab) -> None:
    """Let the guest write to its file system again."""
    lab.guest_report(NAME, "thaw")


def examine(lab: Lab, before: Before, workload: str, *, moved: bool) -> Verdict:
    """Let the guest go over all that it keeps, ask for its mismatches, and compare disks if it moved."""
    try:
        after = lab.guest_report(NAME)
        if after["boot_id"] != before.boot_id:
            return Verdict(None, None, "not compared", "the guest booted again")
        check, identical, detail = _compare_disks(lab, before, workload) if moved else ("not moved", None, "")
        last = _wait_for_progress(lab, workload, since=lab.guest_report(NAME))
    except LabError as error:
        return Verdict(None, None, "not compared", f"{error}; its console ends: {lab.guest_console(NAME)[-600:]}")
    return Verdict(last["mismatches"], identical, check, detail)


def _compare_disks(lab: Lab, before: Before, workload: str) -> tuple[str, bool, str]:
    place = lab.guest_place(NAME)
    uuid = lab.guest(NAME).uuid
    if workload == "build":
        lab.guest_report(NAME, "pause-disk")
        lab.guest_report(NAME, "freeze")
    donor, recipient = quarantined(before.disk), _disk(lab, place.provider)
    lab.virsh(place.provider, "suspend", uuid)  # the image must stand still while it is read
    try:
        if workload == "build":
            files = compare_images(donor, recipient, file_system_bytes=_FILE_SYSTEM_MIB * MIB)
            found = "files", files.identical, "; ".join(files.differences[:5])
        else:
            layout = lab.guest_build(debian=True).layout
            written = workload == "writer"
            region = Region(layout.blocks_offset_mib * MIB, layout.blocks_mib * MIB) if written else Region()
            blocks = compare(donor, recipient, region)
            found = "blocks", blocks.identical, "; ".join(f"offset {offset}" for offset in blocks.differences[:5])
    finally:
        lab.virsh(place.provider, "resume", uuid)
    if workload == "build":
        lab.guest_report(NAME, "thaw")
        lab.guest_report(NAME, "resume-disk")
    return found


def _wait_for_progress(lab: Lab, workload: str, *, since: dict[str, Any] | None) -> dict[str, Any]:
    """A report from after the workload has done its share since another one (None: since its start)."""
    counter, share = _PROGRESS.get(workload, ("", 0))
    deadline = time.monotonic() + PROGRESS_WITHIN_S
    while True:
        report = lab.guest_report(NAME)
        if not counter or report[counter] >= (since[counter] if since else 0) + share:
            return report
        if time.monotonic() > deadline:
            raise LabError(f"the guest's {counter} stand at {report[counter]} after {PROGRESS_WITHIN_S:.0f} s")
        time.sleep(0.5)


def _disk(lab: Lab, provider: str) -> Path:
    root = ElementTree.fromstring(lab.virsh(provider, "dumpxml", lab.guest(NAME).uuid))  # noqa: S314 - our own libvirtd
    source = root.find("devices/disk/source")
    if source is None:
        raise LabError(f"guest {NAME} has no disk")
    return lab.host_path(provider, source.get("file", ""))
