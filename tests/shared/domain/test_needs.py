"""What a VM needs of its host."""

from __future__ import annotations

from shared.domain import NEXT_MEMORY, NEXT_VCPUS, SECRET, describe, largest_need, next_needs, portable
from shared.messages.vm import Need
from tests.support.domain_samples import DOMAIN, with_device

DEVICES = (
    "<video><model type='qxl'/></video><tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
    "<controller type='scsi' index='0' model='virtio-scsi'/><rng model='virtio'><backend model='builtin'/></rng>"
)


def test_devices_and_features_are_needs() -> None:
    """Each is a kind and a value, once, in a fixed order."""
    xml = with_device(DEVICES).replace("<acpi/>", "<acpi/><hyperv><vapic state='on'/><relaxed state='off'/></hyperv>")
    xml = xml.replace(
        "<os>", "<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages></memoryBacking><os>"
    )
    needs = [(need.kind, need.value) for need in describe(xml).needs]

    assert needs == sorted(set(needs))
    for need in (
        ("machine", "pc-q35-10.0"),
        ("video", "qxl"),
        ("tpm", "tpm-crb"),
        ("tpm_version", "2.0"),
        ("controller", "scsi"),
        ("controller_model", "scsi virtio-scsi"),
        ("rng", "builtin"),
        ("disk_bus", "virtio"),
        ("graphics", "vnc"),
        ("hyperv", "vapic"),
        ("hugepages", "2048 KiB"),
    ):
        assert need in needs
    assert ("hyperv", "relaxed") not in needs


def test_huge_pages_without_a_size_are_those_of_the_host() -> None:
    """Their size is the host's default."""
    xml = DOMAIN.replace("<os>", "<memoryBacking><hugepages/></memoryBacking><os>")

    assert ("hugepages", "default") in [(need.kind, need.value) for need in describe(xml).needs]


def test_the_next_start_needs_its_own_sizes() -> None:
    """Besides the devices that the lasting definition has."""
    needs = next_needs(DOMAIN.replace("262144</memory>", "524288</memory>"))

    assert {(need.kind, need.value) for need in needs} >= {
        (NEXT_MEMORY, str(512 << 20)),
        (NEXT_VCPUS, "2"),
        ("disk_bus", "virtio"),
    }


def test_the_largest_of_a_kind() -> None:
    """A number that no host has is none."""
    needs = [
        Need(kind=NEXT_VCPUS, value=value) for value in ("2", "16", "many", "9" * 19, "\N{ARABIC-INDIC DIGIT TWO}")
    ]

    assert largest_need(needs, NEXT_VCPUS) == 16
    assert largest_need(needs, NEXT_MEMORY) == 0


def test_the_portable_form_has_the_same_needs() -> None:
    """So that a recipient can check what was quoted."""
    assert set(describe(portable(with_device(DEVICES))).needs) <= set(describe(with_device(DEVICES)).needs)


def test_an_encrypted_part_needs_a_secret_of_its_host() -> None:
    """By libvirt's usage, in the portable form, too; its value is nobody's business."""
    xml = with_device("<tpm model='tpm-crb'><backend type='emulator'><encryption secret='x'/></backend></tpm>").replace(
        "<source file='/images/web.qcow2'/>", "<source file='/l'><encryption format='luks'/></source>"
    )

    for form in (xml, portable(xml)):
        assert [need.value for need in describe(form).needs if need.kind == SECRET] == ["volume", "vtpm"]
    assert [need for need in describe(DOMAIN).needs if need.kind == SECRET] == []
