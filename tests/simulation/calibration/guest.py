"""The guest of a recording: a boot sector that keeps writing to its memory, and its definition. Pure.

It needs no system, and is busy from its first moment on, so that CPU time tells whether its vCPU runs. Its source:

    cli; xor ax, ax; mov ds, ax; lgdt; protected mode, flat
    fill 16 MiB from 1 MiB on with pseudo-random numbers: pages that are not zero and not alike
    last = seconds of the clock
    loop: 131,072 times: count a word up in the next of these pages
          now = seconds of the clock; if now - last >= 3 (modulo 60) and the flag is set: write 0x2000 to port 0x604
          last = now

Port 0x604 is PM1a_CNT of a q35 machine, and 0x2000 is SLP_EN: the guest switches itself off. Its clock goes on while it
stands still, as the host's does.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

VM_UUID: Final = UUID("00000000-0000-4000-8000-00000000ca1b")
NAME: Final = "calibration"
IMAGE: Final = "/var/lib/libvirt/images/calibration.raw"
"""In the hosts."""
IMAGE_BYTES: Final = 8 << 20
_FLAG_AT = 508
_CODE = bytes.fromhex(
    "fa31c08ed8660f0116c47c0f20c00c010f22c0ea187c080066b810008ed88ec08ed0bc00700000bf00001000b9000040"
    "00b891f4452569c00d661900055ff36e3cabe2f2e84c00000088c3be00001000b900000200ff0681c60010000081fe00"
    "0010017205be00001000e2e9e82400000088c728d87902043c88fb3c0372d1803dfc7d00000074c866ba040666b80020"
    "66eff4ebfd30c0e670e47188c2c0e804b60af6e680e20f00d0c366900000000000000000ffff0000009acf00ffff0000"
    "0092cf001700ac7c"
)


def boot_sector(*, powers_off: bool) -> bytes:
    """The image's first block. `powers_off`: as soon as it notices that it stood still for three seconds."""
    return _CODE.ljust(_FLAG_AT, b"\0") + bytes([powers_off, 0, 0x55, 0xAA])


def domain_xml(machine: str) -> str:
    """A lasting VM of 64 MiB for `virsh define`."""
    return f"""<domain type='qemu'><name>{NAME}</name><uuid>{VM_UUID}</uuid>
<memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='{machine}'>hvm</type></os>
<features><acpi/></features><cpu mode='custom' match='exact' check='none'><model fallback='forbid'>qemu64</model></cpu>
<clock offset='utc'/><on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{IMAGE}'/>
<target dev='vda' bus='virtio'/></disk>
<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""
