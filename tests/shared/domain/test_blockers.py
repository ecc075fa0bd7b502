"""What cannot be moved live is named, with the reason that is true."""

from __future__ import annotations

import pytest

from shared.domain import PASST_VHOST, BlockerCode, FindingKind, build_for_host, describe, read_definition
from tests.support.domain_samples import DOMAIN, PLACES, with_device

SECOND_DISK = "<disk type='%s' device='%s'><source %s/><target dev='vdb' bus='virtio'/>%s</disk>"
CASES = [
    ("<hostdev mode='subsystem' type='pci'/>", BlockerCode.DEVICE_PASSTHROUGH, "device of the host"),
    ("<filesystem type='mount'><driver type='virtiofs'/></filesystem>", BlockerCode.SHARED_FILESYSTEM, "folder"),
    ("<shmem name='x'><model type='ivshmem-plain'/></shmem>", BlockerCode.SHARED_MEMORY, "memory is shared"),
    ("<tpm model='tpm-crb'><backend type='passthrough'/></tpm>", BlockerCode.VIRTUAL_TPM, "TPM of the host"),
    (
        "<tpm model='tpm-crb'><backend type='external'><source type='unix' mode='connect' path='/s'/></backend></tpm>",
        BlockerCode.VIRTUAL_TPM,
        "in a program of the host",
    ),
    (
        "<tpm model='tpm-crb'><backend type='emulator'><source type='file' path='/x'/></backend></tpm>",
        BlockerCode.VIRTUAL_TPM,
        "a place of its own",
    ),
    ("<interface type='direct'><mac address='52:54:00:00:00:02'/></interface>", BlockerCode.NETWORK_KIND, "macvtap"),
    (
        "<interface type='bridge'><mac address='52:54:00:00:00:02'/><teaming type='transient'/></interface>",
        BlockerCode.NETWORK_KIND,
        "team",
    ),
    (
        "<serial type='dev'><source path='/dev/ttyS0'/></serial>",
        BlockerCode.HOST_CHARACTER_DEVICE,
        "device of the host",
    ),
    (
        "<serial type='tcp'><source mode='bind' host='::' service='1'/></serial>",
        BlockerCode.HOST_CHARACTER_DEVICE,
        "socket",
    ),
    ("<memory model='virtio-pmem'><source><path>/x</path></source></memory>", BlockerCode.HOST_MEMORY, "not migrate"),
    (
        "<memory model='nvdimm'><source><path>/x</path><pmem/></source><target><size>9</size></target></memory>",
        BlockerCode.HOST_MEMORY,
        "persistent memory module",
    ),
    (
        "<memory model='nvdimm'><target><size>9</size><readonly/></target></memory>",
        BlockerCode.HOST_MEMORY,
        "file of the host",
    ),
    (
        "<interface type='vhostuser'><mac address='52:54:00:00:00:02'/><source type='unix' path='/x'/></interface>",
        BlockerCode.NETWORK_KIND,
        "program of the host",
    ),
    (SECOND_DISK % ("file", "disk", "file='/s'", "<shareable/>"), BlockerCode.DISK_KIND, "shared with other VMs"),
    (SECOND_DISK % ("file", "disk", "file='/s'", "<transient/>"), BlockerCode.DISK_KIND, "would be lost"),
    (SECOND_DISK % ("file", "lun", "file='/s'", ""), BlockerCode.DEVICE_PASSTHROUGH, "SCSI device of the host"),
    (
        SECOND_DISK % ("network", "disk", "protocol='rbd' name='p/x'", ""),
        BlockerCode.DISK_KIND,
        "server in the network",
    ),
    (SECOND_DISK % ("block", "disk", "dev='/dev/vg/x'", ""), BlockerCode.DISK_KIND, "block device"),
    (SECOND_DISK % ("volume", "disk", "pool='p' volume='v'", ""), BlockerCode.DISK_KIND, "storage pool"),
    (SECOND_DISK % ("block", "cdrom", "dev='/dev/sr0'", "<readonly/>"), BlockerCode.DISK_KIND, "block device"),
    (
        SECOND_DISK % ("network", "cdrom", "protocol='https' name='x.iso'", "<readonly/>"),
        BlockerCode.DISK_KIND,
        "server in the network",
    ),
    *(
        (
            (
                f"<disk device='{device}'><driver type='{image}'/><source file='/s'><encryption format='{kind}'>"
                f"{secrets}</encryption></source><target dev='vdb'/>{more}</disk>"
            ),
            BlockerCode.DISK_ENCRYPTION,
            reason,
        )
        for device, image, kind, secrets, more, reason in (
            ("disk", "raw", "luks", "", "", "encrypted as a whole file"),
            ("disk", "qcow2", "luks", "", "<readonly/>", "only reads it"),
            ("cdrom", "qcow2", "luks", "", "", "may eject it"),
            ("disk", "qcow2", "luks", "<secret uuid='x'/><secret uuid='y'/>", "", "several secrets"),
            ("disk", "qcow2", "qcow", "", "", "LUKS is"),
            ("disk", "qcow2", "luks-any", "", "", "LUKS is"),
        )
    ),
    ("<input type='evdev'><source dev='/dev/input/event1'/></input>", BlockerCode.DEVICE_PASSTHROUGH, "input device"),
]


@pytest.mark.parametrize(("device", "code", "reason"), CASES)
def test_a_device_that_cannot_move_has_one_true_reason(device: str, code: BlockerCode, reason: str) -> None:
    """Each kind of host-bound device is named once, with its code and in plain words."""
    (finding,) = describe(with_device(device)).blockers

    assert finding.code == code
    assert reason in finding.detail


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("name='hypervisor'", "name='invtsc'", BlockerCode.CPU_FEATURE),
        ("<acpi/>", "<acpi/><hyperv mode='passthrough'/>", BlockerCode.CPU_FEATURE),
        (
            "<features>",
            "<launchSecurity type='sev'/><features>",
            BlockerCode.CONFIDENTIAL_GUEST,
        ),
        ("<kernel>", "<loader type='pflash'>/vm/own.fd</loader><kernel>", BlockerCode.HOST_FIRMWARE),
        ("<kernel>", "<loader type='pflash' readonly='no'>/vm/own.fd</loader><kernel>", BlockerCode.HOST_FIRMWARE),
        ("<kernel>", "<acpi><table type='slic'>/x</table></acpi><kernel>", BlockerCode.NOT_PORTABLE),
        ("<kernel>", "<smbios mode='host'/><kernel>", BlockerCode.NOT_PORTABLE),
        ("<os>", "<sysinfo type='fwcfg'><entry name='opt/x' file='/x'/></sysinfo><os>", BlockerCode.NOT_PORTABLE),
    ],
)
def test_a_setting_that_cannot_move_is_named(old: str, new: str, code: BlockerCode) -> None:
    """CPU features that QEMU does not migrate, sealed memory, and firmware from the host's own files."""
    (finding,) = describe(DOMAIN.replace(old, new, 1)).blockers

    assert finding.code == code


def test_raw_qemu_options_are_refused() -> None:
    """Nobody can say what they do."""
    raw = DOMAIN.replace("<domain ", "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0' ").replace(
        "<features>", "<q:commandline><q:arg value='-S'/></q:commandline><features>"
    )

    assert [finding.code for finding in describe(raw).blockers] == [BlockerCode.RAW_QEMU_OPTIONS]


@pytest.mark.parametrize(
    "device",
    [
        "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>",
        "<disk type='file' device='cdrom'><source startupPolicy='optional'/><target dev='sda' bus='sata'/></disk>",
        "<disk type='block' device='floppy'><target dev='fda' bus='fdc'/></disk>",
    ],
)
def test_an_empty_drive_is_no_medium(device: str) -> None:
    """Only an inserted medium stays behind; a drive without one is carried as it is."""
    xml = with_device(device)

    assert describe(xml).blockers == ()
    assert [drive.empty for drive in describe(xml).drives] == [False, True]
    assert build_for_host(xml, PLACES).root.findall("devices/disk")[1].find("source") is None


def test_what_is_refused_as_a_whole_is_not_listed_in_its_parts() -> None:
    """One device, one reason, also where it has unknown parts."""
    findings = read_definition(with_device("<hostdev mode='subsystem'><strange what='1'/></hostdev>")).blockers

    assert len(findings) == 1


def test_an_invariant_counter_moves_with_its_frequency() -> None:
    """libvirt and QEMU migrate it then; the need says so, since the new host must count alike."""
    counter = DOMAIN.replace("name='hypervisor'", "name='invtsc'")
    counted = counter.replace(
        "<devices>", "<clock offset='utc'><timer name='tsc' frequency='2500000000'/></clock><devices>"
    )

    assert [finding.code for finding in describe(counter).blockers] == [BlockerCode.CPU_FEATURE]
    facts = describe(counted)
    assert facts.blockers == ()
    assert ("tsc_frequency", "2500000000") in {(need.kind, need.value) for need in facts.needs}


@pytest.mark.parametrize(
    "device",
    [
        "<graphics type='sdl' display=':0.0' xauth='/root/.Xauthority'/>",
        "<graphics type='egl-headless'><gl rendernode='/dev/dri/renderD128'/></graphics>",
        "<graphics type='dbus' p2p='yes'><gl enable='no'/></graphics>",
        "<rng model='virtio'><backend model='egd' type='tcp'><source host='h'/></backend></rng>",
    ],
)
def test_a_screen_of_the_host_and_a_source_of_random_numbers_are_told_and_replaced(device: str) -> None:
    """The guest does not see the screen, and gets its random numbers from the new host."""
    xml = with_device(device)
    facts = describe(xml)
    root = build_for_host(xml, PLACES).root

    assert facts.blockers == ()
    assert any(finding.part in {"graphics", "rng"} for finding in facts.findings)
    assert [screen.get("type") for screen in root.findall("devices/graphics")] == ["vnc"]
    assert [rng.findtext("backend") for rng in root.findall("devices/rng")] in ([], ["/dev/urandom"])
    assert not {("graphics", "sdl"), ("rng", "egd")} & {(need.kind, need.value) for need in facts.needs}


def test_a_tap_device_of_the_host_is_replaced_by_what_the_map_gives() -> None:
    """The script that connected it stays behind, which is told."""
    xml = with_device(
        "<interface type='ethernet'><mac address='52:54:00:00:00:02'/><script path='/etc/ifup'/><target dev='tap9'/>"
        "<model type='virtio'/></interface>"
    )
    facts = describe(xml)

    assert facts.blockers == ()
    assert facts.nics[1].kind == "ethernet"
    assert any("a program of the donor's host" in finding.detail for finding in facts.findings)


def test_a_card_of_passt_is_on_qemus_own_network() -> None:
    """libvirt starts that program itself, so that another host can give it."""
    card = (
        "<interface type='%s'><mac address='52:54:00:00:00:02'/><source dev='eth0'/><model type='virtio'/>"
        "<backend type='passt' logFile='/l'/></interface>"
    )
    for kind, told in (("user", "passt"), ("vhostuser", PASST_VHOST)):
        facts = describe(with_device(card % kind))
        assert facts.blockers == ()
        assert facts.nics[1].kind == told


@pytest.mark.parametrize(("rom", "blockers"), [("file=''", 0), ("enabled='no'", 0), ("bar='on' file='/x.rom'", 1)])
def test_a_boot_rom_of_a_card(rom: str, blockers: int) -> None:
    """An empty name says that there is none, and is kept; a file is its host's."""
    xml = DOMAIN.replace("<model type='virtio'/>", f"<model type='virtio'/><rom {rom}/>")
    found = read_definition(xml).blockers

    assert ["boot ROM is in a file of the host" in finding.detail for finding in found] == [True] * blockers
    if not found:
        assert f"<rom {rom}/>".replace("'", '"') in build_for_host(xml, PLACES).to_text()


@pytest.mark.parametrize("source", ["", "<source startupPolicy='optional'/>"])
@pytest.mark.parametrize("device", ["cdrom", "floppy"])
def test_of_an_empty_drive_no_file_is_told(device: str, source: str) -> None:
    """Nothing is made for it; with a medium its file is told."""
    drive = (
        f"<disk type='file' device='{device}'><driver name='qemu' type='raw'/>%s<target dev='sda' bus='sata'/></disk>"
    )

    def told(source: str) -> list[FindingKind]:
        return [each.kind for each in read_definition(with_device(drive % source)).findings if each.part == "disk sda"]

    assert told(source) == []
    assert set(told("<source file='/i.iso' startupPolicy='optional'/>")) == {FindingKind.MADE_ANEW}
