"""The libvirt definition of a lab guest. Pure.

An ordinary guest of an ordinary cloud: q35, qemu64, virtio, one disk, one network card, a serial console with a log.
"""

from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from deploy.labkit.plan import GUEST_BRIDGE


@dataclass(frozen=True)
class Domain:
    """What a definition is made of. `accelerator` is `kvm` or `qemu` (software emulation)."""

    name: str
    uuid: str
    mac: str
    memory_mib: int
    vcpus: int
    accelerator: str
    machine: str
    kernel: str
    initrd: str | None
    cmdline: str
    disk: str
    disk_format: str


def domain_xml(domain: Domain) -> str:
    """The XML for `virsh define`."""
    initrd = "" if domain.initrd is None else f"\n    <initrd>{escape(domain.initrd)}</initrd>"
    return f"""\
<domain type={quoteattr(domain.accelerator)}>
  <name>{escape(domain.name)}</name>
  <uuid>{domain.uuid}</uuid>
  <memory unit="MiB">{domain.memory_mib}</memory>
  <vcpu>{domain.vcpus}</vcpu>
  <os>
    <type arch="x86_64" machine={quoteattr(domain.machine)}>hvm</type>
    <kernel>{escape(domain.kernel)}</kernel>{initrd}
    <cmdline>{escape(domain.cmdline)}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode="custom" match="exact" check="none"><model fallback="forbid">qemu64</model></cpu>
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type="file" device="disk">
      <driver name="qemu" type={quoteattr(domain.disk_format)} discard="unmap"/>
      <source file={quoteattr(domain.disk)}/>
      <target dev="vda" bus="virtio"/>
    </disk>
    <controller type="usb" model="none"/>
    <interface type="bridge">
      <mac address={quoteattr(domain.mac)}/>
      <source bridge={quoteattr(GUEST_BRIDGE)}/>
      <model type="virtio"/>
    </interface>
    <serial type="pty">
      <log file={quoteattr(f"/var/log/libvirt/qemu/{domain.name}-console.log")} append="on"/>
      <target type="isa-serial" port="0"/>
    </serial>
    <console type="pty"><target type="serial" port="0"/></console>
    <rng model="virtio"><backend model="random">/dev/urandom</backend></rng>
    <memballoon model="none"/>
  </devices>
</domain>
"""


def newest_machine(machine_help: str) -> str:
    """The newest versioned q35 machine in the output of `qemu-system-x86_64 -machine help`. Raises `ValueError`."""
    names = [line.split()[0] for line in machine_help.splitlines() if line.startswith("pc-q35-")]
    if not names:
        raise ValueError("this QEMU has no pc-q35 machine")
    return max(names, key=lambda name: tuple(int(part) for part in name.removeprefix("pc-q35-").split(".")))
