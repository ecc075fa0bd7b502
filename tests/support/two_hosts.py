"""Two hosts of a lab without vmport's own processes, and a guest on the first, for tests of what touches libvirt.

The guest's disk lies in a folder that both hosts and the test see under the same path, so the test process can stand
for both node agents.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

from deploy.labkit import guests, processes
from deploy.labkit.guest_domain import Domain, domain_xml, newest_machine
from deploy.labkit.lab import Lab, LabOptions
from deploy.labkit.plan import GUEST_BRIDGE
from deploy.labkit.processes import run
from deploy.labkit.state import GuestRecord
from services.node_agent.hypervisor.libvirt_adapter import LibvirtHypervisor

ADDRESS, MAC = "10.88.0.77", "52:54:00:77:00:01"


@dataclass(frozen=True)
class TwoHosts:
    """A lab that is up, and a folder that all see."""

    lab: Lab
    folder: Path

    def hypervisor(self, provider: str) -> LibvirtHypervisor:
        """A provider's libvirt, as its node agent would use it."""
        return LibvirtHypervisor(
            self.lab.plan.libvirt_uri(provider),
            image_dir=str(self.folder),
            accelerators=("qemu",),
            pid_dir=str(self.lab.plan.host_run_dir(provider) / "libvirt" / "qemu"),
        )

    def base(self, uuid: UUID) -> Path:
        """What the disk of an overlaid guest lies on."""
        return self.folder / f"{uuid}-base.raw"

    def guest(
        self, *, workload: str = "writer", memory_mib: int = 192, overlaid: bool = False
    ) -> tuple[GuestRecord, str]:
        """A guest's record and definition; its disk is made, whole or as an overlay. It is not defined anywhere yet."""
        image = self.lab.guest_build()
        uuid = uuid4()
        disk_format = "qcow2" if overlaid else "raw"
        disk = self.folder / f"{uuid}.{disk_format}"
        base = self.base(uuid) if overlaid else disk
        run(["cp", "--sparse=always", str(image.disk), str(base)])
        if overlaid:
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(disk)])
        record = GuestRecord(
            name=f"g{uuid.hex[:8]}",
            uuid=str(uuid),
            mac=MAC,
            address=ADDRESS,
            image="tiny",
            workload=workload,
            memory_mib=memory_mib,
            home="alpha",
        )
        accelerator = guests.accelerator(self.lab.plan)
        domain = Domain(
            name=record.name,
            uuid=record.uuid,
            mac=MAC,
            memory_mib=memory_mib,
            vcpus=1,
            accelerator=accelerator,
            machine=newest_machine(run(["qemu-system-x86_64", "-machine", "help"])),
            kernel=str(image.kernel),
            initrd=str(image.initrd),
            cmdline=f"{image.cmdline} vmport.ip={ADDRESS}/24 vmport.workload={workload}",
            disk=str(disk),
            disk_format=disk_format,
        )
        return record, domain_xml(domain)

    def start(self, provider: str, record: GuestRecord, xml: str) -> dict[str, Any]:
        """Boot it as a lasting VM and wait for its first report."""
        definition = self.folder / f"{record.uuid}.xml"
        definition.write_text(xml)
        self.lab.virsh(provider, "define", str(definition))
        self.lab.virsh(provider, "start", record.uuid)
        return guests.wait_until_ready(self.lab.plan, record, timeout_s=120)

    def report(self, record: GuestRecord) -> dict[str, Any]:
        """What the guest says of itself."""
        return guests.wait_until_ready(self.lab.plan, record, timeout_s=30)

    def restart_libvirtd(self, provider: str, *, as_at_boot: bool = False) -> None:
        """End a provider's libvirtd and start it again; guests go on. At a boot it starts VMs that have autostart."""
        processes.end([self.lab.process(f"libvirtd-{provider}")], grace_s=10)
        if as_at_boot:
            done = self.lab.plan.host_run_dir(provider) / "libvirt" / "qemu" / "autostarted"
            done.unlink(missing_ok=True)
        self.lab.up(LabOptions(services=False))

    def remove(self, uuid: UUID) -> None:
        """Take the guest away from wherever it is."""
        for provider in self.lab.plan.providers:
            known = self.lab.virsh(provider, "list", "--all", "--uuid").split()
            running = self.lab.virsh(provider, "list", "--uuid").split()
            if str(uuid) in running:
                self.lab.virsh(provider, "destroy", str(uuid))
            if str(uuid) in known and str(uuid) in self.lab.virsh(provider, "list", "--all", "--uuid").split():
                self.lab.virsh(provider, "undefine", str(uuid))


@contextmanager
def two_hosts(name: str) -> Iterator[TwoHosts]:
    """A lab of this name, up; all of it is gone afterwards."""
    lab = Lab(name)
    with TemporaryDirectory(prefix="vmport-") as folder:
        try:
            lab.up(LabOptions(services=False))
            yield TwoHosts(lab, Path(folder))
        finally:
            lab.down()


__all__ = ["GUEST_BRIDGE", "TwoHosts", "two_hosts"]
