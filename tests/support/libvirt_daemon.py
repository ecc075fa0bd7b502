"""A private libvirtd for tests: own folders by a mount namespace of its own, own socket; guests without a system.

Needs root. Started in the foreground, ended by pid, with every guest that it has.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

import libvirt

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
_FOLDERS = ("etc/libvirt", "run", "var/lib/libvirt", "var/log/libvirt", "var/cache/libvirt")
_DAEMON = """host_uuid = "{host_uuid}"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
"""
_QEMU = """user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""


@dataclass(frozen=True)
class LibvirtDaemon:
    """One libvirtd that runs. `folder` is for images, and seen under the same path by it and by the test."""

    folder: Path
    uri: str

    def connect(self) -> libvirt.virConnect:
        """A connection of the test's own."""
        return libvirt.open(self.uri)

    def run(self, connection: libvirt.virConnect, xml: str) -> libvirt.virDomain:
        """Define a VM and boot it."""
        domain = connection.defineXML(xml)
        domain.create()
        return domain

    def qemu_pid(self, name: str) -> int:
        """The process of a VM."""
        return int((self.folder / "run" / "libvirt" / "qemu" / f"{name}.pid").read_text())

    @property
    def hook_calls(self) -> Path:
        """What its hook for VMs was called with, a line each."""
        return self.folder / "hook-calls"

    def image(self, image_format: str = "qcow2", *options: str) -> Path:
        """A new image of 64 MiB."""
        path = self.folder / f"{uuid4()}.{image_format}"
        subprocess.run(["qemu-img", "create", "-q", "-f", image_format, *options, str(path), "64M"], check=True)
        return path


def guest_xml(name: str, *disks: str, uuid: UUID | None = None, metadata: str = "") -> str:
    """A guest of 64 MiB whose firmware finds nothing to boot."""
    return f"""<domain type='qemu'><name>{name}</name><uuid>{uuid or uuid4()}</uuid>{metadata}
<memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
<cpu mode='custom'><model>qemu64</model></cpu><devices>{"".join(disks)}</devices></domain>"""


def file_disk(image: Path, target: str = "vda", *, image_format: str = "qcow2") -> str:
    """A disk that is a file."""
    return f"""<disk type='file' device='disk'><driver name='qemu' type='{image_format}'/>
<source file='{image}'/><target dev='{target}' bus='virtio'/></disk>"""


@contextmanager
def libvirt_daemon() -> Iterator[LibvirtDaemon]:
    """A libvirtd that runs; it and its guests are gone afterwards."""
    with TemporaryDirectory(prefix="vmport-libvirt-") as name:
        folder = Path(name)
        for each in _FOLDERS:
            (folder / each).mkdir(parents=True)
        (folder / "etc/libvirt/libvirtd.conf").write_text(_DAEMON.format(host_uuid=uuid4()))
        (folder / "etc/libvirt/qemu.conf").write_text(_QEMU)
        daemon = LibvirtDaemon(folder, f"qemu+unix:///system?socket={folder}/run/libvirt/libvirt-sock")
        hook = folder / "etc/libvirt/hooks/qemu"
        hook.parent.mkdir()
        hook.write_text(f'#!/bin/sh\necho "$@" >>{daemon.hook_calls}\ntest "$2" != migrate\n')
        hook.chmod(0o755)
        binds = "".join(f"mkdir -p /{each}\nmount --bind {folder / each} /{each}\n" for each in _FOLDERS)
        script = f"set -e\n{binds}exec libvirtd -f /etc/libvirt/libvirtd.conf\n"
        environment = {**os.environ, "LC_ALL": "C"}
        log = (folder / "libvirtd.log").open("wb")
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
        try:
            _wait_until_up(process, daemon, folder)
            yield daemon
            _destroy_all(daemon)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()


def _wait_until_up(process: subprocess.Popen[bytes], daemon: LibvirtDaemon, folder: Path) -> None:
    until_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            daemon.connect().close()
        except libvirt.libvirtError:
            if process.poll() is not None or time.monotonic() > until_s:
                raise AssertionError((folder / "libvirtd.log").read_text()) from None
            time.sleep(0.1)
        else:
            return


def _destroy_all(daemon: LibvirtDaemon) -> None:
    connection = daemon.connect()
    for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        domain.destroy()
    connection.close()
