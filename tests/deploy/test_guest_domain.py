"""The definition of a lab guest."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from deploy.labkit.guest_domain import Domain, domain_xml, newest_machine

_DOMAIN = Domain(
    name="vm1",
    uuid="51822974-d710-4fa1-8163-83b4fd1ccd7b",
    mac="52:54:00:00:00:01",
    memory_mib=512,
    vcpus=1,
    accelerator="qemu",
    machine="pc-q35-10.0",
    kernel="/cache/vmlinuz",
    initrd="/cache/initrd",
    cmdline="console=ttyS0 a=<b>&c",
    disk="/var/lib/libvirt/images/vm1.raw",
    disk_format="raw",
)


def test_the_definition_holds_what_it_was_made_of() -> None:
    """Every field is where libvirt looks for it, and text is escaped."""
    root = ElementTree.fromstring(domain_xml(_DOMAIN))  # noqa: S314 - our own text
    assert root.findtext("name") == "vm1"
    assert root.findtext("uuid") == _DOMAIN.uuid
    assert root.findtext("os/cmdline") == _DOMAIN.cmdline
    assert root.findtext("os/initrd") == "/cache/initrd"
    source = root.find("devices/disk/source")
    assert source is not None
    assert source.get("file") == _DOMAIN.disk


def test_a_guest_may_boot_without_an_initrd() -> None:
    """A kernel of the user's own needs none."""
    root = ElementTree.fromstring(domain_xml(replace(_DOMAIN, initrd=None)))  # noqa: S314 - our own text
    assert root.find("os/initrd") is None


def test_an_ordinary_guest_has_no_optional_part() -> None:
    """No firmware, TPM, controller: what is not asked for is not there."""
    root = ElementTree.fromstring(domain_xml(_DOMAIN))  # noqa: S314 - our own text
    assert root.find("os[@firmware]") is None
    for path in ("os/firmware", "features/smm", "devices/tpm", "devices/controller[@type='scsi']"):
        assert root.find(path) is None, path
    assert len(root.findall("devices/disk")) == 1


def test_every_optional_part_is_where_libvirt_looks_for_it() -> None:
    """Secure boot with its keys and SMM, a TPM, a SCSI disk, an ISO, a CPU mode."""
    domain = replace(_DOMAIN, firmware="secure-boot", tpm=True, scsi_disk="/d.raw", iso="/i.iso", cpu="maximum")
    root = ElementTree.fromstring(domain_xml(domain))  # noqa: S314 - our own text
    assert root.find("os[@firmware='efi']") is not None
    features = {feature.get("name"): feature.get("enabled") for feature in root.findall("os/firmware/feature")}
    assert features == {"enrolled-keys": "yes", "secure-boot": "yes"}
    assert root.find("features/smm[@state='on']") is not None
    assert root.find("devices/tpm/backend[@type='emulator'][@version='2.0']") is not None
    sources = [source.get("file") for source in root.findall("devices/disk/source")]
    assert sources == [_DOMAIN.disk, "/d.raw", "/i.iso"]
    assert root.find("devices/disk[@device='cdrom']/readonly") is not None
    assert root.find("cpu[@mode='maximum']") is not None


def test_a_vlan_is_a_tagged_port_of_open_vswitch() -> None:
    """Instead of one on the guests' bridge; and what hardware would do, the guest does itself."""
    tagged = ElementTree.fromstring(domain_xml(replace(_DOMAIN, vlan=42)))  # noqa: S314 - our own text
    (card,) = tagged.findall("devices/interface")
    assert card.find("source[@bridge='vmovs0']") is not None
    assert card.find("virtualport[@type='openvswitch']") is not None
    assert [tag.get("id") for tag in card.findall("vlan/tag")] == ["42"]
    assert card.find("driver/host[@csum='off']") is not None

    ordinary = ElementTree.fromstring(domain_xml(_DOMAIN))  # noqa: S314 - our own text
    assert ordinary.find("devices/interface/source[@bridge='vmbr0']") is not None
    for part in ("vlan", "virtualport", "driver"):
        assert ordinary.find(f"devices/interface/{part}") is None, part


def test_an_encrypted_guest_names_its_secrets() -> None:
    """Of its disk and of its TPM."""
    domain = replace(_DOMAIN, tpm=True, disk_secret="1-2", tpm_secret="3-4")  # UUIDs, no passwords
    root = ElementTree.fromstring(domain_xml(domain))  # noqa: S314 - our own text
    assert root.find("devices/disk/source/encryption[@format='luks']/secret[@uuid='1-2']") is not None
    assert root.find("devices/tpm/backend/encryption[@secret='3-4']") is not None


def test_uefi_without_secure_boot_says_so() -> None:
    """Else libvirt might choose a firmware that has it."""
    root = ElementTree.fromstring(domain_xml(replace(_DOMAIN, firmware="uefi")))  # noqa: S314 - our own text
    assert {feature.get("enabled") for feature in root.findall("os/firmware/feature")} == {"no"}


def test_the_newest_machine_is_found_by_number() -> None:
    """10.0 is newer than 9.2, and aliases do not count."""
    shown = "pc-q35-9.2  Standard PC\npc-q35-10.0 Standard PC\nq35 alias\npc-i440fx-10.0 old\n"
    assert newest_machine(shown) == "pc-q35-10.0"


def test_a_qemu_without_q35_is_rejected() -> None:
    """The error says what is missing."""
    with pytest.raises(ValueError, match="pc-q35"):
        newest_machine("none\n")
