"""What a VM is, read from its domain XML."""

from __future__ import annotations

import pytest

from shared.domain import DomainXmlError, LayerFacts, SecretUsage, SecretUse, describe, portable
from tests.support.domain_samples import DOMAIN, MAC, UUID, with_device


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


@pytest.mark.parametrize("element", ["name", "uuid", "memory", "vcpu"])
def test_a_domain_without_a_necessary_part_is_rejected(element: str) -> None:
    """The error names the element."""
    cut = DOMAIN.replace(f"<{element}", f"<x{element}").replace(f"</{element}>", f"</x{element}>")
    with pytest.raises(DomainXmlError, match=element):
        describe(cut)


def test_a_name_of_blanks_is_none() -> None:
    """What is carried of it would be empty, and the recipient would refuse it after its quote."""
    with pytest.raises(DomainXmlError, match="name"):
        describe(DOMAIN.replace("<name>web<", "<name>  <"))


def test_more_vcpus_than_there_may_be_are_refused() -> None:
    """libvirt would refuse it, at the recipient and late."""
    with pytest.raises(DomainXmlError, match="9 run now, and there may be 2"):
        describe(DOMAIN.replace("'>2</vcpu>", "' current='9'>2</vcpu>"))


def test_a_balloon_gives_no_more_than_there_is() -> None:
    """As libvirt reads a larger number."""
    facts = describe(DOMAIN.replace("<currentMemory unit='KiB'>262144", "<currentMemory unit='KiB'>999999999"))

    assert facts.memory_current_bytes == facts.memory_bytes == 256 << 20


def test_two_disks_of_one_name_are_refused() -> None:
    """Both would get one file."""
    second = "<disk type='file'><source file='/b'/><target dev='vda' bus='virtio'/></disk></devices>"

    with pytest.raises(DomainXmlError, match="two are vda"):
        describe(DOMAIN.replace("</devices>", second))


def test_secrets_are_named_and_leave_the_host_without_their_names() -> None:
    """By UUID or by usage; in the portable form it is said only what is encrypted."""
    xml = with_device(
        "<tpm model='tpm-crb'><backend type='emulator'><encryption secret='0A6F'/></backend></tpm>"
        "<disk><driver type='qcow2'/><source file='/l'><encryption format='luks'>"
        "<secret type='passphrase' usage='/the/key'/></encryption></source><target dev='vdb' bus='virtio'/></disk>"
    )
    facts, told = describe(xml), describe(portable(xml))

    assert facts.secrets == (
        SecretUse("tpm", SecretUsage.VTPM, uuid="0a6f"),
        SecretUse("disk vdb", SecretUsage.VOLUME, target="vdb", usage_id="/the/key"),
    )
    assert facts.encrypted_disks == {"vdb"}
    assert told.secrets == (
        SecretUse("tpm", SecretUsage.VTPM),
        SecretUse("disk vdb", SecretUsage.VOLUME, target="vdb"),
    )
    for secret in ("0A6F", "0a6f", "/the/key"):
        assert secret not in portable(xml)
