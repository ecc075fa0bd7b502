"""The kinds of VMs that people run, each with what becomes of it: carried whole or refused by name. Samples of our own.

`CARRIED` has, for each kind, the part that makes it one and what the recipient writes in its place; `REFUSED` the
finding that names it before anybody is asked for a quote. What only a running VM shows (jobs, snapshots, bitmaps,
checkpoints, the headers of images) is tested with `obstacles` and `image_obstacles`; what only a host can refuse
(firmware, CPU, devices that its QEMU has not) with the recipient's `platform`.
"""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from shared.domain import (
    BlockerCode,
    FirmwarePlace,
    HostPlaces,
    NicPlace,
    build_for_host,
    describe,
    guest_abi_differences,
    leaving,
    read_definition,
)
from tests.support.domain_samples import DOMAIN, MAC

END = "</devices>"
KEY = "0a6f4b1c-0f3f-4b8e-8f56-0c2f4c5d7e01"
OUR_KEYS = {"tpm": UUID(int=21), "disk vda": UUID(int=22)}
CARD = "<model type='virtio'/>"
DISK = "<source file='/images/web.qcow2'/>"
ISO = "<disk type='file' device='cdrom'><driver type='raw'/>%s<target dev='sda' bus='sata'/><readonly/></disk>"
SECURE = (
    "<loader readonly='yes' secure='yes' type='pflash' format='raw'>/d.secboot.fd</loader><nvram>/d.fd</nvram><kernel>"
)
QCOW2 = (
    "<loader readonly='yes' type='pflash' format='qcow2'>/d.qcow2</loader>"
    "<nvram template='/t.qcow2' templateFormat='qcow2' format='qcow2'>/d_VARS.qcow2</nvram><kernel>"
)
VIRTIO_MEM = (
    "<memory model='virtio-mem'><target><size unit='KiB'>131072</size><node>0</node><block unit='KiB'>2048</block>"
    "<requested unit='KiB'>65536</requested><current unit='KiB'>65536</current></target></memory></devices>"
)
SERIALS = (
    "<serial type='file'><source path='/var/log/a'/><log file='/var/log/a'/><target port='1'/></serial>"
    "<serial type='file'><source path='/var/log/b'/><log file='/var/log/b'/><target port='2'/></serial></devices>"
)
DELL = (
    "<sysinfo type='smbios'><system><entry name='serial'>/7QXZ123/CN0123456789/</entry></system></sysinfo><os>"
    "<smbios mode='sysinfo'/>"
)

CARRIED = {
    "an ISO that is inserted": (END, ISO % "<source file='/iso/tools.iso'/>" + END, "/ours/sda"),
    "a drive without a medium": (END, ISO % "<source startupPolicy='optional'/>" + END, "startupPolicy"),
    "a medium that may be missing at a start": (
        END,
        ISO % "<source file='/iso/tools.iso' startupPolicy='requisite'/>" + END,
        'startupPolicy="requisite"',
    ),
    "a read-only disk": (
        END,
        "<disk type='file'><source file='/d.raw'/><target dev='vdb' bus='virtio'/><readonly/></disk></devices>",
        "/ours/vdb",
    ),
    "a disk that may be missing at a start": (
        DISK,
        "<source file='/images/web.qcow2' startupPolicy='optional'/>",
        'startupPolicy="optional"',
    ),
    "a SPICE port for WebDAV": (
        END,
        ("<channel type='spiceport'><source channel='org.spice-space.webdav.0'/>"
        "<target type='virtio' name='org.spice-space.webdav.0'/></channel></devices>"),
        "org.spice-space.webdav.0",
    ),
    "a serial port on a socket of its own": (
        END,
        "<serial type='unix'><source mode='bind' path='/run/k.sock'/><target port='1'/></serial></devices>",
        'type="pty"',
    ),
    "vCPUs that are pinned": ("cpuset='0-1'", "cpuset='40-43'", "<vcpu>2</vcpu>"),
    "vCPUs that numad places": ("placement='static' cpuset='0-1'", "placement='auto'", "<vcpu>2</vcpu>"),
    "a CPU with required features": ("name='hypervisor'", "name='avx512f'", 'name="avx512f"'),
    "a CPU without TSX": ("name='svm'", "name='rtm'", 'policy="disable" name="rtm"'),
    "virtio-mem": (END, VIRTIO_MEM, 'model="virtio-mem"'),
    "a memory module": (
        END,
        "<memory model='dimm'><target><size unit='KiB'>131072</size><node>0</node></target></memory></devices>",
        'model="dimm"',
    ),
    "UEFI with secure boot": ("<kernel>", SECURE, 'secure="yes"'),
    "UEFI in qcow2 images": ("<kernel>", QCOW2, "/ours/template"),
    "a ROM": ("<kernel>", "<loader type='rom'>/usr/share/seabios/bios.bin</loader><kernel>", 'type="rom"'),
    "a ROM without a type": ("<kernel>", "<loader>/usr/share/seabios/bios.bin</loader><kernel>", 'type="rom"'),
    "UEFI that libvirt chooses": (
        "<os>",
        "<os firmware='efi'><firmware><feature enabled='yes' name='secure-boot'/></firmware><loader secure='yes'/>",
        'type="pflash"',
    ),
    "a port of Open vSwitch in a VLAN": (
        CARD,
        CARD + "<vlan><tag id='42'/></vlan><virtualport type='openvswitch'><parameters interfaceid='x'/></virtualport>",
        'type="virtio"',
    ),
    "a card that is guarded": (
        CARD,
        CARD + "<filterref filter='clean-traffic'/><port isolated='yes'/><bandwidth><inbound average='9'/></bandwidth>",
        'type="virtio"',
    ),
    "USB redirection": (END, "<redirdev bus='usb' type='spicevmc'/></devices>", 'type="spicevmc"'),
    "huge pages": ("<os>", "<memoryBacking><hugepages/></memoryBacking><os>", "<hugepages/>"),
    "two serial ports with logs": (END, SERIALS, 'port="2"'),
    "the host's CPU": ("mode='custom' match='exact' check='full'", "mode='host-passthrough'", "host-passthrough"),
    "a virtual TPM": (
        END,
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>",
        'persistent_state="yes"',
    ),
    "a TPM that is encrypted": (
        END,
        f"<tpm model='tpm-crb'><backend type='emulator'><encryption secret='{KEY}'/></backend></tpm></devices>",
        f'<encryption secret="{OUR_KEYS["tpm"]}"/>',
    ),
    "LUKS inside QCOW2": (
        DISK,
        ("<source file='/l.qcow2'><encryption format='luks' engine='qemu'>"
        f"<secret type='passphrase' uuid='{KEY}'/></encryption></source>"),
        f'<secret type="passphrase" uuid="{OUR_KEYS["disk vda"]}"/>',
    ),
    "LUKS beside the source, by the secret's usage": (
        DISK,
        f"{DISK}<encryption format='luks'><secret type='passphrase' usage='/the.key'/></encryption>",
        f'<secret type="passphrase" uuid="{OUR_KEYS["disk vda"]}"/>',
    ),
    "a VNC password": ("autoport='yes'", "autoport='yes' passwd='s3cret'", 'type="vnc"'),
    "a virtual network": (
        "<interface type='bridge'>",
        "<interface type='network'><source network='default'/></interface><interface type='bridge'>".replace(
            "</interface>", f"<mac address='{MAC[:-1]}9'/></interface>"
        ),
        'bridge="br"',
    ),
    "a name with blanks at its ends": ("<name>web<", "<name> web ünï <", "<name> web ünï </name>"),
    "a vsock": (END, "<vsock model='virtio'><cid auto='no' address='5'/></vsock></devices>", '<cid auto="yes"/>'),
    "limits and counters of the host": (
        "<os>",
        "<memtune><hard_limit unit='KiB'>9</hard_limit></memtune><perf><event name='cmt' enabled='yes'/></perf><os>",
        "<os>",
    ),
    "random numbers of a device": (
        END,
        "<rng model='virtio'><backend model='random'>/dev/hwrng</backend></rng></devices>",
        "/dev/urandom",
    ),
    "QEMU's clipboard": (
        END,
        ("<channel type='qemu-vdagent'><source><clipboard copypaste='yes'/></source>"
        "<target type='virtio' name='com.redhat.spice.0'/></channel></devices>"),
        'copypaste="yes"',
    ),
    "QXL with SPICE": (
        END,
        "<graphics type='spice'/><video><model type='qxl' ram='65536' vram='65536'/></video></devices>",
        "qxl",
    ),
    "fewer vCPUs than there may be": ("'>2</vcpu>", "' current='2'>32</vcpu>", '<vcpu current="2">32</vcpu>'),
    "a serial number like a path": ("<os>", DELL, "/7QXZ123/CN0123456789/"),
    "metadata with HTML": (
        "<os>",
        "<metadata><n:n xmlns:n='http://n.example'><![CDATA[<!DOCTYPE html><p>]]></n:n></metadata><os>",
        "DOCTYPE html",
    ),
    "QEMU's own network": (
        END,
        "<interface type='user'><mac address='52:54:00:00:00:49'/><model type='virtio'/></interface></devices>",
        "52:54:00:00:00:49",
    ),
    "an empty floppy drive": (
        END,
        "<disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk></devices>",
        "fda",
    ),
    "a VM that its host does not confine": (
        "<seclabel type='none' model='none'/>",
        "<seclabel type='none' model='apparmor'/>",
        "<devices>",
    ),
    "memory in files of the host": (
        "<os>",
        "<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking><os>",
        "memfd",
    ),
}  # fmt: skip

NEVER = {"a drive without a medium": "startupPolicy", "a VNC password": "s3cret"}
"""What is not in the new definition, of these."""


def places_for(xml: str) -> HostPlaces:
    """Some place for everything that this VM has."""
    facts = describe(xml)
    return HostPlaces(
        disks={disk.target: f"/ours/{disk.target}" for disk in facts.disks},
        nics=tuple(NicPlace(bridge="br") for _ in facts.nics),
        firmware=FirmwarePlace("/ours/code", "/ours/vars" if facts.nvram else None, template="/ours/template"),
        kernel="/ours/kernel",
        initrd="/ours/initrd",
        secrets=OUR_KEYS,
    )


@pytest.mark.parametrize("kind", CARRIED)
def test_a_kind_that_is_carried_whole(kind: str) -> None:
    """Nothing speaks against it, its proof holds, and the guest sees the same machine at another host."""
    old, new, written = CARRIED[kind]
    assert old in DOMAIN
    xml = DOMAIN.replace(old, new, 1)

    assert read_definition(xml).blockers == ()
    assert leaving(xml, xml).findings == ()
    places = places_for(xml)
    if describe(xml).firmware_facts is None:
        places = replace(places, firmware=None)
    ours = build_for_host(leaving(xml, None).domain_xml, places)
    assert guest_abi_differences(xml, ours) == []
    if kind in NEVER:
        assert NEVER[kind] not in ours.to_text()
    if kind not in NEVER or written != NEVER[kind]:
        assert written in ours.to_text()
    for theirs in (
        KEY,
        "/the.key",
        "/images/",
        "/iso/",
        "/run/k.sock",
        "/var/log/",
        "/d.",
        "/t.",
        "/d_",
        "40-43",
        "/usr/share/",
    ):
        assert theirs not in ours.to_text()


TEAM = (
    "<interface type='hostdev' managed='yes'><mac address='52:54:00:00:47:01'/><teaming type='transient'/></interface>"
)
REFUSED: dict[str, tuple[str, str, BlockerCode]] = {
    "an invariant counter": ("name='hypervisor'", "name='invtsc'", BlockerCode.CPU_FEATURE),
    "a block job": (
        "<backingStore/>",
        "<backingStore/><mirror type='file' file='/m' job='copy'/>",
        BlockerCode.DISK_KIND,
    ),
    "all that the host has of Hyper-V": ("<acpi/>", "<acpi/><hyperv mode='passthrough'/>", BlockerCode.CPU_FEATURE),
    "a configuration in a file of the host": (
        "<os>",
        "<sysinfo type='fwcfg'><entry name='opt/com.coreos/config' file='/i.ign'/></sysinfo><os>",
        BlockerCode.NOT_PORTABLE,
    ),
    "a logical volume": (DISK, "<source dev='/dev/vg/web'/>", BlockerCode.DISK_KIND),
    "a serial port in the network": (
        END,
        "<serial type='tcp'><source mode='bind' host='0.0.0.0' service='10000'/></serial></devices>",
        BlockerCode.HOST_CHARACTER_DEVICE,
    ),
    "a volume of a pool": (DISK, "<source pool='default' volume='web'/>", BlockerCode.DISK_KIND),
    "Ceph": (DISK, "<source protocol='rbd' name='p/web'><host name='mon'/></source>", BlockerCode.DISK_KIND),
    "an input device of the host": (
        END,
        "<input type='evdev'><source dev='/dev/input/event3'/></input></devices>",
        BlockerCode.DEVICE_PASSTHROUGH,
    ),
    "a licence in an ACPI table": (
        "<kernel>",
        "<acpi><table type='slic'>/slic.bin</table></acpi><kernel>",
        BlockerCode.NOT_PORTABLE,
    ),
    "LUKS of version 2": (
        DISK,
        "<source file='/l.qcow2'><encryption format='luks2'><secret type='passphrase'/></encryption></source>",
        BlockerCode.DISK_ENCRYPTION,
    ),
    "a raw file that is LUKS": (
        END,
        (
            "<disk><driver name='qemu' type='raw'/><source file='/l'><encryption format='luks'/></source>"
            "<target dev='vdb' bus='virtio'/></disk></devices>"
        ),
        BlockerCode.DISK_ENCRYPTION,
    ),
    "SR-IOV in a team": (END, TEAM + END, BlockerCode.NETWORK_KIND),
    "macvtap": (
        END,
        "<interface type='direct'><mac address='52:54:00:00:48:01'/><source dev='eth0'/></interface></devices>",
        BlockerCode.NETWORK_KIND,
    ),
    "a disk that VMs share": (
        END,
        "<disk type='file'><source file='/s'/><target dev='vdb'/><shareable/></disk></devices>",
        BlockerCode.DISK_KIND,
    ),
    "virtio-fs": (
        END,
        "<filesystem type='mount'><driver type='virtiofs'/><source dir='/srv'/></filesystem></devices>",
        BlockerCode.SHARED_FILESYSTEM,
    ),
    "firmware that the guest writes": (
        "<kernel>",
        "<loader type='pflash'>/own.fd</loader><kernel>",
        BlockerCode.HOST_FIRMWARE,
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_kind_that_is_refused_by_name(kind: str) -> None:
    """At the description, with one reason, before anybody is asked for a quote."""
    old, new, code = REFUSED[kind]
    assert old in DOMAIN

    (finding,) = describe(DOMAIN.replace(old, new, 1)).blockers

    assert finding.code == code


@pytest.mark.parametrize("type_", ["file", "stdio", "unix"])
def test_where_a_serial_port_leads_is_told(type_: str) -> None:
    """It becomes a terminal, which is another place than it was."""
    definition = read_definition(DOMAIN.replace(END, f"<serial type='{type_}'><target port='1'/></serial>{END}"))

    told = [finding.detail for finding in definition.findings if finding.part == "serial 1"]

    assert told == ["type: a file, terminal or socket that the recipient's libvirt makes"]
