"""A domain XML for tests, and places on another host for it."""

from __future__ import annotations

from shared.domain import HostPlaces, NicPlace

UUID = "11111111-2222-3333-4444-555555555501"
MAC = "52:54:00:00:00:01"

DOMAIN = f"""<domain type='qemu' id='7'>
  <name>web</name>
  <uuid>{UUID}</uuid>
  <memory unit='KiB'>262144</memory>
  <currentMemory unit='KiB'>262144</currentMemory>
  <vcpu placement='static' cpuset='0-1'>2</vcpu>
  <cputune><vcpupin vcpu='0' cpuset='1'/></cputune>
  <resource><partition>/machine</partition></resource>
  <os>
    <type arch='x86_64' machine='pc-q35-10.0'>hvm</type>
    <kernel>/boot/alpha/vmlinuz</kernel>
    <initrd>/boot/alpha/initrd</initrd>
    <cmdline>console=ttyS0</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='full'>
    <model fallback='forbid'>qemu64</model>
    <feature policy='require' name='hypervisor'/>
    <feature policy='disable' name='svm'/>
  </cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none'/>
      <source file='/images/web.qcow2'/>
      <backingStore/>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
      <address type='pci' domain='0x0000' bus='0x03' slot='0x00' function='0x0'/>
    </disk>
    <interface type='bridge'>
      <mac address='{MAC}'/>
      <source bridge='br-alpha'/>
      <target dev='vnet3'/>
      <model type='virtio'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </interface>
    <serial type='pty' tty='/dev/pts/3'>
      <source path='/dev/pts/3'/>
      <log file='/var/log/alpha/web.log'/>
      <target type='isa-serial' port='0'><model name='isa-serial'/></target>
    </serial>
    <graphics type='vnc' port='5901' autoport='yes' listen='192.0.2.7'>
      <listen type='address' address='192.0.2.7'/>
    </graphics>
    <memballoon model='virtio'/>
  </devices>
  <seclabel type='none' model='none'/>
</domain>"""

PLACES = HostPlaces(
    disks={"vda": "/srv/images/web-vda.qcow2"},
    nics=(NicPlace(bridge="br-beta"),),
    kernel="/srv/boot/vmlinuz",
    initrd="/srv/boot/initrd",
    logs={"serial 0": "/var/log/beta/web.log"},
)


def with_device(device: str) -> str:
    """The domain with one more device."""
    return DOMAIN.replace("</devices>", f"{device}</devices>")
