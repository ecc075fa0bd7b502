"""Moves the guest with stock libvirt: `virsh migrate`, peer to peer, with its disk, over the same shaped link.

The donor's libvirtd reaches the recipient's through `forwarder`, since lab hosts have no libvirt transport between
them; memory and disk go by QEMU's own TCP connections between the WAN addresses. The destination's disk is made first.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.labkit.errors import CommandFailed, LabError
from deploy.labkit.lab import Lab
from tests.bench.wan_bench.guest import NAME, Before
from tests.bench.wan_bench.measure import Kinds, Measurement, measuring
from tests.bench.wan_bench.variants import Variant

RPC_PORT, MEMORY_PORT, DISK_PORT = 16509, 49152, 49153
RUN_DIR = "/run/wan-bench"
ABORTS_WITHIN_S = 60.0
LOOKS_EVERY_S = 0.2
_ROOT = Path(__file__).resolve().parents[3]
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclass(frozen=True)
class Moved:
    """How a move ended, whichever system made it."""

    outcome: str
    measured: Measurement
    downtime_ms: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    techniques: dict[str, float] | None = None
    peak_memory_mib: dict[str, float] | None = None
    detail: str = ""


def migrate(
    lab: Lab, variant: Variant, before: Before, to: str, *, timeout_s: float, max_downtime_ms: int | None
) -> Moved:
    """Migrate the guest. One that does not end in time is aborted and stays where it is."""
    donor = before.provider
    _make_disk(lab, before, to)
    with (
        _connected(lab, donor, to) as uri,
        measuring(lab, donor, lambda: bytes_by_kind(job_info(lab, donor))) as measured,
    ):
        process = _start(lab, variant, donor, to, uri, max_downtime_ms)
        outcome, said = _await_end(lab, donor, process, variant, timeout_s)
    if outcome != "completed":
        return Moved(outcome, measured, detail=said)
    info = job_info(lab, to, "--completed", "--keep-completed")
    last = measured.samples[-1].kinds if measured.samples else {}
    return Moved(
        outcome,
        measured,
        downtime_ms=float(info["Total downtime"].split()[0]) if "Total downtime" in info else None,
        memory_bytes=_bytes(info.get("Memory processed")),
        disk_bytes=last.get("disk"),
    )


def job_info(lab: Lab, provider: str, *options: str) -> dict[str, str]:
    """What `virsh domjobinfo` shows, by name; empty while libvirt has no job or is gone from here."""
    try:
        shown = lab.virsh(provider, "domjobinfo", *options, NAME)
    except CommandFailed:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in shown.splitlines())}


def bytes_by_kind(info: dict[str, str]) -> Kinds:
    """Memory and disk that libvirt says it has moved; empty while there is no job. Pure."""
    memory, disk = _bytes(info.get("Memory processed")), _bytes(info.get("File processed"))
    return {"memory": memory or 0, "disk": disk or 0} if info else {}


def _bytes(shown: str | None) -> int | None:
    """`130.281 MiB` in bytes."""
    found = re.fullmatch(r"([0-9.]+)\s+(B|KiB|MiB|GiB)", shown or "")
    return int(float(found[1]) * _UNITS[found[2]]) if found else None


def _make_disk(lab: Lab, before: Before, to: str) -> None:
    inside = f"/var/lib/libvirt/images/{before.disk.name}"
    size = str(before.disk.stat().st_size)
    done = lab.exec(to, ["qemu-img", "create", "-q", "-f", "raw", inside, size])
    if done.returncode != 0:
        raise LabError(f"cannot make {inside} at {to}: {done.stderr.strip()}")


def _start(
    lab: Lab, variant: Variant, donor: str, to: str, uri: str, max_downtime_ms: int | None
) -> subprocess.Popen[str]:
    address = lab.plan.wan_address(to)
    command = ["virsh", "-q", "-c", "qemu:///system", "migrate", "--live", "--p2p", "--persistent"]
    command += ["--undefinesource", "--copy-storage-all", *variant.flags, NAME, uri]
    command += ["--migrateuri", f"tcp://{address}:{MEMORY_PORT}", "--disks-uri", f"tcp://{address}:{DISK_PORT}"]
    process = subprocess.Popen(
        lab.exec_argv(donor, command),
        env=lab.exec_environment(donor),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if max_downtime_ms is not None:
        _set_max_downtime(lab, donor, max_downtime_ms)
    return process


def _set_max_downtime(lab: Lab, donor: str, max_downtime_ms: int) -> None:
    deadline = time.monotonic() + 10
    while True:  # libvirt takes it only while a migration is under way
        try:
            lab.virsh(donor, "migrate-setmaxdowntime", NAME, str(max_downtime_ms))
        except CommandFailed:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOKS_EVERY_S)
        else:
            return


def _await_end(
    lab: Lab, donor: str, process: subprocess.Popen[str], variant: Variant, timeout_s: float
) -> tuple[str, str]:
    """How the command ended and what it said."""
    try:
        said, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        lab.virsh(donor, "domjobabort", NAME)
        try:
            process.communicate(timeout=ABORTS_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.communicate(timeout=10)
            raise LabError(f"{variant.label} could not be aborted within {ABORTS_WITHIN_S:.0f} s") from error
        return "timeout", f"aborted after {timeout_s:.0f} s"
    return ("completed", "") if process.returncode == 0 else ("failed", said.strip())


@contextmanager
def _connected(lab: Lab, donor: str, to: str) -> Iterator[str]:
    """A URI by which the donor's libvirtd reaches the recipient's."""
    address = f"tcp:{lab.plan.wan_address(to)}:{RPC_PORT}"
    socket = f"{RUN_DIR}/driver.sock"
    prepared = lab.exec(donor, ["sh", "-c", f"mkdir -p {RUN_DIR} && rm -f {socket}"])
    if prepared.returncode != 0:
        raise LabError(f"cannot make {RUN_DIR} at {donor}: {prepared.stderr.strip()}")
    with (
        _forwarder(lab, to, address, "unix:/run/libvirt/libvirt-sock"),
        _forwarder(lab, donor, f"unix:{socket}", address),
    ):
        yield f"qemu+unix:///system?socket={socket}"


@contextmanager
def _forwarder(lab: Lab, host: str, listen: str, to: str) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.bench.wan_bench.forwarder", listen, to]
    process = subprocess.Popen(
        lab.exec_argv(host, ["env", f"PYTHONPATH={_ROOT}", *command]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        if process.stdout is None or process.stdout.readline() != "listening\n":
            raise LabError(f"the forwarder at {host} does not listen on {listen}")
        yield
    finally:
        process.terminate()
        process.communicate(timeout=10)
