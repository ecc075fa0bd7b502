"""The libvirt definition of a lab guest. Pure.

An ordinary guest of an ordinary cloud: q35, qemu64, virtio, one disk, one network card, a serial console with a log.
Optional parts make other kinds of it.
"""

from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from deploy.labkit.plan import GUEST_BRIDGE, GUEST_SWITCH

CPU_MODES = ("host-model", "host-passthrough", "maximum")
"""What `Domain.cpu` may be besides the name of a model."""


@dataclass(frozen=True)
class Domain:
    """What a definition is made of. `accelerator` is `kvm` or `qemu` (software emulation).

    The rest is optional: `firmware` is None (BIOS), `uefi` or `secure-boot`, which libvirt finds by descriptor; `cpu` a
    model or one of `CPU_MODES`; `scsi_disk` (raw) and `iso` are files on a SCSI controller; `disk_secret` and
    `tpm_secret` are UUIDs of secrets that they are encrypted with.
    """

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
    firmware: str | None = None
    tpm: bool = False
    scsi_disk: str | None = None
    iso: str | None = None
    cpu: str = "qemu64"
    vlan: int | None = None
    disk_secret: str | None = None
    tpm_secret: str | None = None


def domain_xml(domain: Domain) -> str:
    """The XML for `virsh define`."""
    initrd = "" if domain.initrd is None else f"\n    <initrd>{escape(domain.initrd)}</initrd>"
    return f"""\
<domain type={quoteattr(domain.accelerator)}>
  <name>{escape(domain.name)}</name>
  <uuid>{domain.uuid}</uuid>
  <memory unit="MiB">{domain.memory_mib}</memory>
  <vcpu>{domain.vcpus}</vcpu>
  <os{"" if domain.firmware is None else ' firmware="efi"'}>
    <type arch="x86_64" machine={quoteattr(domain.machine)}>hvm</type>{_firmware_features(domain)}
    <kernel>{escape(domain.kernel)}</kernel>{initrd}
    <cmdline>{escape(domain.cmdline)}</cmdline>
  </os>
  <features><acpi/><apic/>{'<smm state="on"/>' if domain.firmware == "secure-boot" else ""}</features>
  {_cpu(domain.cpu)}
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type="file" device="disk">
      <driver name="qemu" type={quoteattr(domain.disk_format)} discard="unmap"/>
      <source file={quoteattr(domain.disk)}>{_luks(domain)}</source>
      <target dev="vda" bus="virtio"/>
    </disk>{_scsi(domain)}
    <controller type="usb" model="none"/>
    <interface type="bridge">
      <mac address={quoteattr(domain.mac)}/>{_port(domain.vlan)}
      <model type="virtio"/>
    </interface>
    <serial type="pty">
      <log file={quoteattr(f"/var/log/libvirt/qemu/{domain.name}-console.log")} append="on"/>
      <target type="isa-serial" port="0"/>
    </serial>
    <console type="pty"><target type="serial" port="0"/></console>{_tpm(domain)}
    <rng model="virtio"><backend model="random">/dev/urandom</backend></rng>
    <memballoon model="none"/>
  </devices>
</domain>
"""


def _firmware_features(domain: Domain) -> str:
    if domain.firmware is None:
        return ""
    state = "yes" if domain.firmware == "secure-boot" else "no"
    features = "".join(f'<feature enabled="{state}" name="{name}"/>' for name in ("enrolled-keys", "secure-boot"))
    return f"\n    <firmware>{features}</firmware>"


def _cpu(cpu: str) -> str:
    if cpu in CPU_MODES:
        return f"<cpu mode={quoteattr(cpu)}/>"
    return f'<cpu mode="custom" match="exact" check="none"><model fallback="forbid">{escape(cpu)}</model></cpu>'


def _scsi(domain: Domain) -> str:
    disks = []
    if domain.scsi_disk is not None:
        disks.append(("disk", domain.scsi_disk, "sda", ""))
    if domain.iso is not None:
        # Debian's cloud kernel has no driver for the SATA controller, where a drive of q35 would be.
        disks.append(("cdrom", domain.iso, "sdb", "<readonly/>"))
    shown = "".join(
        f"""
    <disk type="file" device="{device}">
      <driver name="qemu" type="raw"/>
      <source file={quoteattr(path)}/>
      <target dev="{target}" bus="scsi"/>{rest}
    </disk>"""
        for device, path, target, rest in disks
    )
    return f'{shown}\n    <controller type="scsi" model="virtio-scsi"/>' if disks else ""


def _port(vlan: int | None) -> str:
    if vlan is None:
        return f"\n      <source bridge={quoteattr(GUEST_BRIDGE)}/>"
    # Open vSwitch reads the frames from a socket, where what the guest leaves for hardware to do is not done.
    offloads = " ".join(f'{name}="off"' for name in ("csum", "gso", "tso4", "tso6", "ecn", "ufo"))
    return f"""
      <source bridge={quoteattr(GUEST_SWITCH)}/>
      <vlan><tag id="{vlan}"/></vlan>
      <virtualport type="openvswitch"/>
      <driver name="qemu"><host {offloads}/></driver>"""


def _tpm(domain: Domain) -> str:
    if not domain.tpm:
        return ""
    key = "" if domain.tpm_secret is None else f"<encryption secret={quoteattr(domain.tpm_secret)}/>"
    return f'\n    <tpm model="tpm-crb"><backend type="emulator" version="2.0">{key}</backend></tpm>'


def _luks(domain: Domain) -> str:
    if domain.disk_secret is None:
        return ""
    return f'<encryption format="luks"><secret type="passphrase" uuid={quoteattr(domain.disk_secret)}/></encryption>'


def newest_machine(machine_help: str) -> str:
    """The newest versioned q35 machine in the output of `qemu-system-x86_64 -machine help`. Raises `ValueError`."""
    names = [line.split()[0] for line in machine_help.splitlines() if line.startswith("pc-q35-")]
    if not names:
        raise ValueError("this QEMU has no pc-q35 machine")
    return max(names, key=lambda name: tuple(int(part) for part in name.removeprefix("pc-q35-").split(".")))
