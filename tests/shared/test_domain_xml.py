"""Domain XML: read, judged for blockers, compared as a guest would, rewritten for another host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain_xml import (
    BlockerCode,
    DomainXmlError,
    HostPlaces,
    LayerFacts,
    describe,
    guest_abi_differences,
    identity_snapshot,
    parse,
    rewrite_for_host,
)

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
    bridges={MAC: "br-beta"},
    kernel="/srv/boot/vmlinuz",
    initrd="/srv/boot/initrd",
    console_log="/var/log/beta/web.log",
)


def with_device(device: str) -> str:
    """The domain with one more device."""
    return DOMAIN.replace("</devices>", f"{device}</devices>")


def test_a_description_holds_what_makes_the_vm() -> None:
    """Identity, shape, disks and cards are read from the XML."""
    facts = describe(DOMAIN)
    assert (
        facts.uuid,
        facts.name,
        facts.virt_type,
        facts.arch,
        facts.machine,
    ) == (UUID, "web", "qemu", "x86_64", "pc-q35-10.0")
    assert (facts.memory_bytes, facts.vcpus, facts.cpu_model) == (256 * 1024 * 1024, 2, "qemu64")
    assert facts.cpu_features == ("+hypervisor", "-svm")
    assert (facts.firmware, facts.kernel) == ("bios", "/boot/alpha/vmlinuz")
    (disk,) = facts.disks
    assert (disk.target, disk.bus, disk.format, disk.source) == ("vda", "virtio", "qcow2", "/images/web.qcow2")
    (nic,) = facts.nics
    assert (nic.mac, nic.model, nic.bridge) == (MAC, "virtio", "br-alpha")
    assert facts.blockers == ()


def test_what_lies_beneath_a_disk_is_read_from_the_top_down() -> None:
    """Up to the empty element that ends the chain; what is no file has no path."""
    assert describe(DOMAIN).disks[0].layers == ()
    chain = """<backingStore type='file' index='2'><format type='qcow2'/><source file='/images/b.qcow2'/>
      <backingStore type='network' index='3'><format type='raw'/><source protocol='nbd' name='x'/><backingStore/>
      </backingStore></backingStore>"""
    layers = describe(DOMAIN.replace("<backingStore/>", chain)).disks[0].layers
    assert (LayerFacts("/images/b.qcow2", "qcow2"), LayerFacts(None, "raw")) == layers


ON_A_FILE = (
    "<backingStore type='file'><format type='raw'/><source file='/b.raw'>%s</source><backingStore/></backingStore>"
)


@pytest.mark.parametrize(
    ("chain", "layers"),
    [
        ("", (LayerFacts(None, ""),)),
        (
            "<backingStore type='file'><format type='qcow2'/><source file='/images/b.qcow2'/></backingStore>",
            (LayerFacts("/images/b.qcow2", "qcow2"), LayerFacts(None, "")),
        ),
        (
            "<backingStore type='file'><format type='raw'/><source file='/images/b.raw'/></backingStore>",
            (LayerFacts("/images/b.raw", "raw"),),
        ),
        (
            ON_A_FILE % "<slices><slice type='storage' offset='512' size='1024'/></slices>",
            (LayerFacts(None, "raw"),),
        ),
        (
            ON_A_FILE % "<seclabel model='dac' relabel='no'/>",
            (LayerFacts("/b.raw", "raw"),),
        ),
    ],
    ids=["nothing said", "no end", "raw is the end", "slice", "label"],
)
def test_a_layer_is_a_whole_file_and_a_chain_has_an_end(chain: str, layers: tuple[LayerFacts, ...]) -> None:
    """Whatever else there may be is a layer, too, that nobody takes for a known image, or for none."""
    assert describe(DOMAIN.replace("<backingStore/>", chain)).disks[0].layers == layers


def test_an_efi_domain_is_told_from_a_bios_one() -> None:
    """A pflash loader, or firmware='efi', is UEFI."""
    xml = DOMAIN.replace("<kernel>", "<loader readonly='yes' type='pflash'>/fw.fd</loader><nvram>/v.fd</nvram><kernel>")
    assert (describe(xml).firmware, describe(xml).loader, describe(xml).nvram) == ("uefi", "/fw.fd", "/v.fd")
    assert describe(DOMAIN.replace("<os>", "<os firmware='efi'>")).firmware == "uefi"


@pytest.mark.parametrize(
    ("device", "code"),
    [
        ("<hostdev mode='subsystem' type='pci'/>", BlockerCode.DEVICE_PASSTHROUGH),
        ("<redirdev bus='usb' type='tcp'/>", BlockerCode.DEVICE_PASSTHROUGH),
        ("<filesystem type='mount'><driver type='virtiofs'/></filesystem>", BlockerCode.SHARED_FILESYSTEM),
        ("<shmem name='x'><model type='ivshmem-plain'/></shmem>", BlockerCode.SHARED_MEMORY),
        ("<tpm model='tpm-crb'><backend type='emulator'/></tpm>", BlockerCode.VIRTUAL_TPM),
        ("<interface type='direct'><mac address='52:54:00:00:00:02'/></interface>", BlockerCode.NETWORK_KIND),
        ("<serial type='dev'><source path='/dev/ttyS0'/></serial>", BlockerCode.HOST_CHARACTER_DEVICE),
        ("<memory model='nvdimm'/>", BlockerCode.PERSISTENT_MEMORY),
        (
            "<disk type='file' device='disk'><source file='/s'/><target dev='vdb'/><shareable/></disk>",
            BlockerCode.SHARED_DISK,
        ),
        ("<disk type='network' device='disk'><source name='p/x'/><target dev='vdb'/></disk>", BlockerCode.DISK_KIND),
        (
            "<disk type='file' device='cdrom'><source file='/x.iso'/><target dev='sda'/></disk>",
            BlockerCode.REMOVABLE_MEDIA,
        ),
        (
            "<disk type='file' device='disk'><source file='/s'/><target dev='vdb'/><transient/></disk>",
            BlockerCode.DISK_KIND,
        ),
    ],
)
def test_what_cannot_move_is_a_blocker(device: str, code: BlockerCode) -> None:
    """Each kind of host-bound device is named with its code."""
    assert code in {blocker.code for blocker in describe(with_device(device)).blockers}


def test_an_empty_cdrom_is_no_blocker() -> None:
    """Only an inserted medium stays behind."""
    xml = with_device("<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>")
    assert describe(xml).blockers == ()
    rewrite_for_host(xml, PLACES)


def test_other_blockers_are_not_devices() -> None:
    """Host CPU, sealed memory and raw QEMU options block, too."""
    passthrough = DOMAIN.replace("mode='custom'", "mode='host-passthrough'")
    sealed = DOMAIN.replace("<features>", "<launchSecurity type='sev'/><features>")
    raw = DOMAIN.replace("<domain ", "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0' ").replace(
        "<features>", "<q:commandline><q:arg value='-S'/></q:commandline><features>"
    )
    for xml, code in (
        (passthrough, BlockerCode.CPU_PASSTHROUGH),
        (sealed, BlockerCode.CONFIDENTIAL_GUEST),
        (raw, BlockerCode.RAW_QEMU_OPTIONS),
    ):
        assert [code] == [blocker.code for blocker in describe(xml).blockers]


def test_rewriting_changes_the_host_and_not_the_guest() -> None:
    """Paths and bridges are the new host's; the guest sees no difference."""
    rewritten = rewrite_for_host(DOMAIN, PLACES)
    assert guest_abi_differences(DOMAIN, rewritten) == []
    facts = describe(rewritten)
    assert (facts.disks[0].source, facts.nics[0].bridge) == ("/srv/images/web-vda.qcow2", "br-beta")
    for gone in ("alpha", "vnet3", "192.0.2.7", "cpuset='1'", "seclabel", "/dev/pts", "virtio-disk0"):
        assert gone not in rewritten
    assert "/var/log/beta/web.log" in rewritten


def test_rewriting_twice_changes_nothing() -> None:
    """A second rewrite with the same places gives the same text."""
    once = rewrite_for_host(DOMAIN, PLACES)
    assert once == rewrite_for_host(once, PLACES)


def test_rewriting_needs_a_place_for_everything() -> None:
    """A disk without a path, or a card without a bridge, is refused by name."""
    with pytest.raises(DomainXmlError, match="vda"):
        rewrite_for_host(DOMAIN, HostPlaces(bridges=PLACES.bridges))
    with pytest.raises(DomainXmlError, match=MAC):
        rewrite_for_host(DOMAIN, HostPlaces(disks=PLACES.disks))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("slot='0x00' function='0x0'/>\n    </disk>", "slot='0x01' function='0x0'/>\n    </disk>"),
        ("262144</memory>", "262145</memory>"),
        ("pc-q35-10.0", "pc-q35-9.2"),
        (MAC, "52:54:00:00:00:02"),
        ("qemu64", "Nehalem"),
        ("<memballoon model='virtio'/>", ""),
        ("console=ttyS0", "console=ttyS0 single"),
        ("type='qemu' id", "type='kvm' id"),
        (UUID, UUID.replace("1", "9")),
    ],
)
def test_what_a_guest_would_notice_is_a_difference(old: str, new: str) -> None:
    """Guest-visible changes are listed; a report against itself is empty."""
    assert guest_abi_differences(DOMAIN, DOMAIN) == []
    assert guest_abi_differences(DOMAIN, DOMAIN.replace(old, new))


def test_order_and_units_are_no_difference() -> None:
    """Attribute order, device order and units of size mean nothing to a guest."""
    other = DOMAIN.replace("<memory unit='KiB'>262144", "<memory unit='MiB'>256").replace(
        "domain='0x0000' bus='0x03'", "bus='0x03' domain='0x0000'"
    )
    assert guest_abi_differences(DOMAIN, other) == []


def test_the_identity_survives_a_rewrite() -> None:
    """The identity snapshot has no host-side part."""
    assert identity_snapshot(DOMAIN) == identity_snapshot(rewrite_for_host(DOMAIN, PLACES))
    assert identity_snapshot(DOMAIN) != identity_snapshot(DOMAIN.replace(MAC, "52:54:00:00:00:02"))


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<domain>",
        "<network/>",
        "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain><name>&x;</name></domain>",
        "<domain>" + " " * (1 << 20) + "</domain>",
    ],
)
def test_foreign_input_is_rejected(xml: str) -> None:
    """What is not a plain, bounded domain document is refused, entities and DTDs included."""
    with pytest.raises(DomainXmlError):
        parse(xml)


@pytest.mark.parametrize("element", ["name", "uuid", "memory", "vcpu"])
def test_a_domain_without_a_necessary_part_is_rejected(element: str) -> None:
    """The error names the element."""
    cut = DOMAIN.replace(f"<{element}", f"<x{element}").replace(f"</{element}>", f"</x{element}>")
    with pytest.raises(DomainXmlError, match=element):
        describe(cut)


@given(st.binary(max_size=200))
def test_any_bytes_end_in_an_error_or_a_document(raw: bytes) -> None:
    """No input escapes the typed error."""
    try:
        parse(raw)
    except DomainXmlError:
        return
