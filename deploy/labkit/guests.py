"""Guests of the lab: define and start them at a provider, find where they run, ask them for reports, remove them."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.labkit import addressing, guest_images, guest_keys, network, processes, routed_network
from deploy.labkit.addressing import Station
from deploy.labkit.errors import CommandFailed, LabError
from deploy.labkit.guest_domain import Domain, domain_xml, newest_machine
from deploy.labkit.guest_images import DEBIAN, TINY
from deploy.labkit.guest_keys import GuestKey
from deploy.labkit.hosts import virsh
from deploy.labkit.plan import CLIENT, GUEST_FIRST, LabPlan
from deploy.labkit.processes import run
from deploy.labkit.state import GuestRecord, LabState

WORKLOADS = ("idle", "web", "redis", "writer", "build")
NEED_DEBIAN = frozenset({"web", "redis", "build"})
"""Workloads that the tiny guest has no programs for."""
REPORT_PORT = 7070
ECHO_PORT = 7
SCSI_DISK_MIB = 16
ISO_MIB = 2
LAST_VLAN = 4094
_PORT_ID = "-".join("?" * length for length in (8, 4, 4, 4, 12))
"""In names of files that a port made, as a glob."""
_ACCELERATOR_CHECK = Path(__file__).resolve().parent.parent / "kvm-usable"


@dataclass(frozen=True)
class GuestSpec:
    """What guest to start. `image` is `tiny`, `debian` or None (tiny, or debian where the workload needs it).

    `disk`, `kernel`, `initrd` and `cmdline` replace the image's own; a given kernel without an initrd boots without.
    `overlay` makes the disk a qcow2 layer on a copy of the image. `firmware` is None (BIOS), `uefi` or `secure-boot`;
    `cpu` a model, `host-model`, `host-passthrough` or `maximum`. The SCSI disk is empty, the ISO has noise. `vlan`
    puts the card on the provider's Open vSwitch bridge with this tag; `LabPlan.vlan` says which one reaches the others.
    `encrypted` is its first disk, by LUKS inside qcow2, and its TPM if it has one. `settings` go to guestd, e.g.
    {"pages_s": 2000, "hot_mib": 16, "region_mib": 128, "blocks_s": 10}.
    """

    name: str
    provider: str
    memory_mib: int = 512
    vcpus: int = 1
    workload: str = "idle"
    image: str | None = None
    disk: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str | None = None
    disk_format: str = "raw"
    overlay: bool = False
    firmware: str | None = None
    tpm: bool = False
    scsi_disk: bool = False
    iso: bool = False
    cpu: str = "qemu64"
    vlan: int | None = None
    encrypted: bool = False
    settings: Mapping[str, int] = field(default_factory=dict)

    def image_kind(self) -> str:
        """Which image serves; raises `LabError` for what no guest can be, such as a workload that it does not have."""
        if self.workload not in WORKLOADS:
            raise LabError(f"workload {self.workload!r}: use one of {', '.join(WORKLOADS)}")
        if self.overlay and (self.disk_format != "qcow2" or self.disk is not None):
            raise LabError("an overlay is a qcow2 disk on a copy of the image: use --disk-format qcow2, and no --disk")
        if self.vlan is not None and not 1 <= self.vlan <= LAST_VLAN:
            raise LabError(f"VLAN {self.vlan}: use 1 to {LAST_VLAN}")
        if self.encrypted and (self.disk_format != "qcow2" or self.overlay):
            raise LabError("an encrypted disk is qcow2 and no overlay: use --disk-format qcow2, and no --overlay")
        kind = self.image or (DEBIAN if self.workload in NEED_DEBIAN else TINY)
        if kind == TINY and self.workload in NEED_DEBIAN:
            raise LabError(f"workload {self.workload} needs the Debian guest: use --image debian")
        return kind


@dataclass(frozen=True)
class GuestPlace:
    """A guest at one provider, as libvirt says: `running`, `paused`, `shut off` …"""

    name: str
    provider: str
    state: str


def start(plan: LabPlan, state: LabState, spec: GuestSpec) -> GuestRecord:
    """Define the guest as a persistent domain at its provider and start it; it boots meanwhile.

    Raises `LabError`, and then leaves nothing of the guest behind.
    """
    if spec.provider not in plan.providers:
        raise LabError(f"no provider {spec.provider!r}; there are {', '.join(plan.providers)}")
    if spec.name in state.guests:
        raise LabError(f"guest {spec.name} exists: `deploy/lab guest remove {spec.name}` removes it")
    kind = spec.image_kind()
    identity = uuid.uuid4()
    station = _free_station(plan, state, spec.provider)
    record = GuestRecord(
        name=spec.name,
        uuid=str(identity),
        mac="52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3)),
        address=station.address,
        image=kind,
        workload=spec.workload,
        memory_mib=spec.memory_mib,
        home=spec.provider,
        vlan=spec.vlan,
        address6=station.address6,
    )
    keys = _keys(spec)
    domain = _domain(plan, spec, record, station, keys)
    try:
        for key in keys.values():
            guest_keys.keep(plan, spec.provider, key)
        _place_disk(plan, spec, kind, _outside(plan, spec.provider, domain.disk), keys.get("volume"))
        _place_scsi_disks(plan, spec, domain)
        virsh(plan, spec.provider, "define", "/dev/stdin", stdin=domain_xml(domain))
        virsh(plan, spec.provider, "start", spec.name)
        if plan.routed:
            routed_network.welcome(plan, spec.provider, station)
        # An earlier guest may have had these addresses with another MAC.
        neighbours = plan.providers if plan.routed else (CLIENT,)
        for host in neighbours:
            network.forget_neighbours(plan, host, (record.address, record.address6))
    except BaseException:
        remove(plan, record)
        raise
    return record


def wait_until_ready(plan: LabPlan, record: GuestRecord, *, timeout_s: float) -> dict[str, Any]:
    """Wait until guestd answers and return its first report. Raises `LabError` with the console's last lines."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ask(plan, record, "report", timeout_s=2)
        except OSError:
            shown = console(plan, record)
        if "Kernel panic" in shown or time.monotonic() > deadline:
            raise LabError(
                f"guest {record.name} does not answer (waited at most {timeout_s:.0f} s); its console ends: {shown}"
            )
        time.sleep(0.2)


def ask(plan: LabPlan, record: GuestRecord, command: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
    """One command to the guest's guestd, from the client's place in the guests' network.

    Raises `OSError` if the guest does not answer and `LabError` if it refuses.
    """
    with processes.socket_in(plan.namespace_path(CLIENT), socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        connection.connect((record.address, REPORT_PORT))
        connection.sendall(command.encode() + b"\n")
        text = b""
        while piece := connection.recv(65536):
            text += piece
    if not text:
        raise ConnectionResetError(f"guest {record.name} closed the connection")
    answer: dict[str, Any] = json.loads(text)
    if "error" in answer:
        raise LabError(f"guest {record.name}: {command}: {answer['error']}")
    return answer


def console(plan: LabPlan, record: GuestRecord, *, last: int = 2000) -> str:
    """The end of the guest's console, of every provider at which it ran."""
    logs = [log for provider in plan.providers for log in _console_logs(plan, provider, record)]
    logs.sort(key=lambda log: log.stat().st_mtime)
    return "\n".join(log.read_bytes()[-last:].decode("utf-8", errors="replace") for log in logs)


def ask_console(plan: LabPlan, record: GuestRecord, command: str, *, timeout_s: float = 10.0) -> dict[str, Any]:
    """One command to guestd on the guest's console (tiny guest only). Raises `LabError` if nothing comes back."""
    (place,) = [place for place in places(plan, record) if place.state == "running"]
    log = max(_console_logs(plan, place.provider, record), key=lambda found: found.stat().st_mtime)
    before = log.stat().st_size
    answer: list[str] = []

    def answered() -> bool:
        with log.open("rb") as handle:
            handle.seek(before)
            answer[:] = [line for line in handle.read().decode(errors="replace").splitlines() if line.endswith("}")]
        return bool(answer)

    # Held open until the answer is there: QEMU drops what it has not yet read when the terminal is closed.
    terminal = os.open(virsh(plan, place.provider, "ttyconsole", record.uuid).strip(), os.O_WRONLY | os.O_NOCTTY)
    try:
        os.write(terminal, command.encode() + b"\n")
        processes.wait_until(answered, what=f"answer on the console of guest {record.name}", timeout_s=timeout_s)
    finally:
        os.close(terminal)
    parsed: dict[str, Any] = json.loads(answer[0])
    return parsed


def _console_logs(plan: LabPlan, provider: str, record: GuestRecord) -> list[Path]:
    """The guest's console logs at a provider: one of our own definition, one per port that brought it there."""
    names = (f"{record.name}-console.log", f"{record.name}-{_PORT_ID}-console.log")
    return [log for name in names for log in (plan.host_dir(provider) / "var-log-libvirt/qemu").glob(name)]


def _tpm_logs(plan: LabPlan, provider: str, record: GuestRecord) -> list[Path]:
    return list((plan.host_dir(provider) / "var-log-swtpm/libvirt/qemu").glob(f"{record.name}-swtpm.log"))


def places(plan: LabPlan, record: GuestRecord) -> list[GuestPlace]:
    """Every provider whose libvirt knows the guest, with the state there."""
    found = []
    for provider in plan.providers:
        try:
            shown = virsh(plan, provider, "domstate", record.uuid).strip()
        except CommandFailed as error:
            if "failed to get domain" not in error.output:
                raise
            continue
        found.append(GuestPlace(record.name, provider, shown))
    return found


def stop(plan: LabPlan, record: GuestRecord) -> None:
    """Pull the guest's plug wherever it runs; its definition stays."""
    for place in places(plan, record):
        if place.state != "shut off":
            virsh(plan, place.provider, "destroy", record.uuid)


def remove(plan: LabPlan, record: GuestRecord) -> None:
    """Stop the guest, undefine it everywhere and delete its disks in the providers' image folders."""
    stop(plan, record)
    if plan.routed:
        routed_network.farewell(plan, record)
    for place in places(plan, record):
        virsh(plan, place.provider, "undefine", "--nvram", "--tpm", "--snapshots-metadata", record.uuid)
    guest_keys.remove(plan, record.name)
    for provider in plan.providers:
        images = _outside(plan, provider, "/var/lib/libvirt/images")
        variables = _outside(plan, provider, "/var/lib/libvirt/qemu/nvram")
        files = [*images.glob(f"{record.name}.*"), *images.glob(f"{record.name}-{_PORT_ID}-*")]
        files += [*variables.glob(f"{record.name}_VARS.fd*"), *variables.glob(f"{record.name}-{_PORT_ID}_VARS.fd*")]
        files += [*_console_logs(plan, provider, record), *_tpm_logs(plan, provider, record)]
        for file in files:
            file.unlink()
        for tpm in _outside(plan, provider, "/var/lib/libvirt/swtpm").glob(f"{record.uuid}*"):
            shutil.rmtree(tpm)


def accelerator(plan: LabPlan) -> str:
    """`kvm` where it runs a stock guest, else `qemu`; the verdict is kept until the machine boots again."""
    check = [str(_ACCELERATOR_CHECK), str(plan.cache_dir)]
    done = subprocess.run(check, capture_output=True, text=True, timeout=300, check=False)
    return "kvm" if done.returncode == 0 else "qemu"


def _keys(spec: GuestSpec) -> dict[str, GuestKey]:
    """By usage."""
    usages = [] if not spec.encrypted else ["volume", "vtpm"] if spec.tpm else ["volume"]
    return {usage: guest_keys.new_key(usage, f"{spec.name}.{usage}") for usage in usages}


def _domain(
    plan: LabPlan, spec: GuestSpec, record: GuestRecord, station: Station, keys: Mapping[str, GuestKey]
) -> Domain:
    kernel, initrd, cmdline = spec.kernel, spec.initrd, "console=ttyS0"
    if kernel is None:
        image = guest_images.find(plan, record.image)
        kernel, initrd, cmdline = image.kernel, spec.initrd or image.initrd, image.cmdline
    settings = {**station.settings(), "workload": spec.workload, **spec.settings}
    stem = f"/var/lib/libvirt/images/{spec.name}"
    words = " ".join(f"vmport.{key}={value}" for key, value in settings.items())
    return Domain(
        name=spec.name,
        uuid=record.uuid,
        mac=record.mac,
        memory_mib=spec.memory_mib,
        vcpus=spec.vcpus,
        accelerator=accelerator(plan),
        machine=newest_machine(run(["qemu-system-x86_64", "-machine", "help"])),
        kernel=str(_shared(plan, kernel)),
        initrd=None if initrd is None else str(_shared(plan, initrd)),
        cmdline=f"{spec.cmdline or cmdline} {words}",
        disk=f"{stem}.{spec.disk_format}",
        disk_format=spec.disk_format,
        firmware=spec.firmware,
        tpm=spec.tpm,
        scsi_disk=f"{stem}.data.raw" if spec.scsi_disk else None,
        iso=f"{stem}.iso" if spec.iso else None,
        cpu=spec.cpu,
        vlan=spec.vlan,
        disk_secret=keys["volume"].uuid if "volume" in keys else None,
        tpm_secret=keys["vtpm"].uuid if "vtpm" in keys else None,
    )


def _shared(plan: LabPlan, path: Path) -> Path:
    """A path that every host sees alike: QEMU at the recipient opens the kernel, too. Foreign files are copied."""
    if path.is_relative_to(plan.cache_dir):
        return path
    folder = plan.state_dir / "boot"
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(path, folder / f"{path.stat().st_mtime_ns:x}-{path.name}"))


def _place_disk(plan: LabPlan, spec: GuestSpec, kind: str, target: Path, key: GuestKey | None) -> None:
    source = spec.disk or guest_images.find(plan, kind).disk
    if spec.overlay:
        base = target.with_name(f"{spec.name}.base.raw")
        run(["cp", "--sparse=always", "--reflink=auto", str(source), str(base)], timeout_s=600)
        # A relative name: the same in the host and outside of it.
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base.name, str(target)])
        return
    shown = json.loads(run(["qemu-img", "info", "--output=json", str(source)]))
    if key is not None:
        guest_keys.encrypt(source, shown["format"], target, key)
    elif shown["format"] == spec.disk_format == "raw":
        run(["cp", "--sparse=always", "--reflink=auto", str(source), str(target)], timeout_s=600)
    else:
        convert = ["qemu-img", "convert", "-f", shown["format"], "-O", spec.disk_format]
        run([*convert, str(source), str(target)], timeout_s=600)


def _place_scsi_disks(plan: LabPlan, spec: GuestSpec, domain: Domain) -> None:
    if domain.scsi_disk is not None:
        with _outside(plan, spec.provider, domain.scsi_disk).open("wb") as handle:
            handle.truncate(SCSI_DISK_MIB * guest_images.MIB)
    if domain.iso is not None:
        _outside(plan, spec.provider, domain.iso).write_bytes(os.urandom(ISO_MIB * guest_images.MIB))


def quarantined(disk: Path) -> Path:
    """Where the donor keeps a disk after the guest left: in its place, or under its name with something added.

    Raises `LabError` if it is gone.
    """
    found = [disk] if disk.exists() else sorted(path for path in disk.parent.rglob(f"*{disk.name}*") if path.is_file())
    if len(found) != 1:
        raise LabError(f"the donor keeps {len(found)} copies of {disk.name} in quarantine, not one")
    return found[0]


def _outside(plan: LabPlan, provider: str, path: str) -> Path:
    """Where a path below a provider's /var/lib/libvirt is for this process."""
    return plan.host_dir(provider) / "var-lib-libvirt" / Path(path).relative_to("/var/lib/libvirt")


def _free_station(plan: LabPlan, state: LabState, provider: str) -> Station:
    taken = {guest.address for guest in state.guests.values()}
    for number in range(GUEST_FIRST, 255):
        if (station := addressing.guest(plan, provider, number)).address not in taken:
            return station
    raise LabError("the guests' network has no address left: remove a guest")
