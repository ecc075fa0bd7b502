"""What the lasting definition says otherwise than the live one, and no place at the recipient can give."""

from __future__ import annotations

import pytest

from shared.domain import FindingKind, leaving
from tests.support.domain_samples import DOMAIN, MAC, with_device

SOURCE = "<source bridge='br-alpha'/>"
UEFI = "<os><loader readonly='yes' type='pflash'>/l.fd</loader><nvram>/n.fd</nvram>"
SECURE = UEFI.replace("type=", "secure='yes' type=")
CPU = "<cpu mode='custom' match='exact' check='full'>"
AUTO = "<os firmware='efi'>"
SVM = "<feature policy='disable' name='svm'/>"
NETWORK = "<source network='n' bridge='br-alpha'/><vlan><tag id='7'/></vlan>"


@pytest.mark.parametrize(
    ("old", "live", "later", "code"),
    [
        ("<os>", "<os>", UEFI, "pending_firmware"),
        ("<os>", "<os>", "<os><loader type='rom'>/bios.bin</loader>", "pending_firmware"),
        ("<os>", UEFI, SECURE, "pending_firmware"),
        ("<kernel>/boot/", "<kernel>/boot/", "<kernel>/boot/other/", "pending_boot"),
        ("<initrd>/boot/alpha/initrd</initrd>", "<initrd>/boot/alpha/initrd</initrd>", "", "pending_boot"),
        ("/images/web.qcow2", "/images/web.qcow2", "/images/other.qcow2", "pending_disk"),
        (SOURCE, SOURCE, "<source bridge='br-other'/>", "pending_network"),
        (SOURCE, SOURCE, "<source network='n'/>", "pending_network"),
        (SOURCE, SOURCE, SOURCE + "<vlan><tag id='7'/></vlan>", "pending_network"),
        (SOURCE, SOURCE + "<vlan><tag id='7'/></vlan>", SOURCE, "pending_network"),
        (SOURCE, SOURCE, SOURCE + "<filterref filter='clean-traffic'/>", "pending_network"),
        (SOURCE, NETWORK, "<source network='n'/><vlan><tag id='8'/></vlan>", "pending_network"),
        (">qemu64<", ">qemu64<", ">EPYC<", "pending_cpu"),
        (CPU, CPU, "<cpu mode='host-passthrough'>", "pending_cpu"),
        (SVM, SVM, SVM + "<feature policy='require' name='avx512f'/>", "pending_cpu"),
        (SVM, SVM, SVM + "<feature name='avx512f'/>", "pending_cpu"),
        (SVM, SVM, SVM.replace("disable", "require"), "pending_cpu"),
        (SVM, SVM, SVM + "<feature policy='forbid' name='lm'/>", "pending_cpu"),
    ],
)
def test_a_change_that_would_be_lost_is_refused_by_name(old: str, live: str, later: str, code: str) -> None:
    """The recipient makes one place for each part, by the live definition."""
    assert old in DOMAIN
    findings = leaving(DOMAIN.replace(old, live), DOMAIN.replace(old, later)).findings

    assert [finding.code for finding in findings if finding.kind is FindingKind.BLOCKS] == [code]


@pytest.mark.parametrize(
    ("old", "live", "later"),
    [
        ("<os>", UEFI, "<os>"),
        ("<os>", UEFI, AUTO),
        ("<os>", SECURE, AUTO),
        ("<os>", SECURE, "<os firmware='efi'><loader secure='yes'/>"),
        (SOURCE, NETWORK, "<source network='n'/>"),
        (CPU, CPU, "<cpu mode='host-model'>"),
        (SVM, SVM, ""),
        (SVM, SVM, SVM + "<feature policy='disable' name='lm'/>"),
        (SVM, SVM, SVM.replace("disable", "forbid")),
        (SVM, SVM, SVM + "<feature policy='optional' name='avx512f'/>"),
        (SVM, SVM + "<feature policy='require' name='avx512f'/>", SVM),
    ],
)
def test_what_libvirt_wrote_into_the_live_one_is_no_change(old: str, live: str, later: str) -> None:
    """It chooses firmware and CPU, and takes tags from the network. No firmware needs no place."""
    assert leaving(DOMAIN.replace(old, live), DOMAIN.replace(old, later)).findings == ()


DRIVE = "<disk type='file' device='cdrom'>%s<target dev='sda' bus='sata'/><readonly/></disk>"


@pytest.mark.parametrize("lasting", ["", "<source file='/other.iso'/>"])
def test_another_medium_at_the_next_start_is_told(lasting: str) -> None:
    """The drive keeps what is in it; nobody refuses a VM for that."""
    (finding,) = leaving(with_device(DRIVE % "<source file='/i.iso'/>"), with_device(DRIVE % lasting)).findings

    assert (finding.code, finding.kind, finding.part) == ("pending_medium", FindingKind.NOT_KEPT, "disk sda")


def test_what_only_the_lasting_definition_loses_is_told() -> None:
    """Once, and as of the live one."""
    tuned = DOMAIN.replace("<os>", "<memtune><hard_limit>9</hard_limit></memtune><os>")

    (finding,) = leaving(DOMAIN, tuned).findings

    assert (finding.kind, finding.part) == (FindingKind.NOT_KEPT, "memtune")
    assert leaving(tuned, tuned).findings == ()


def test_cards_with_one_mac_are_compared_in_their_order() -> None:
    """The first with the first."""
    second = f"<interface type='bridge'><mac address='{MAC}'/><source bridge='wan'/></interface>"

    assert leaving(with_device(second), with_device(second)).findings == ()
    assert [each.code for each in leaving(with_device(second), with_device(second.replace("wan", "lan"))).findings] == [
        "pending_network"
    ]


KEYS = "0a6f4b1c-0f3f-4b8e-8f56-0c2f4c5d7e01", "0a6f4b1c-0f3f-4b8e-8f56-0c2f4c5d7e02"
TPM = "<tpm model='tpm-crb'><backend type='emulator'><encryption secret='%s'/></backend></tpm>"
PLAIN_TPM = "<tpm model='tpm-crb'><backend type='emulator'/></tpm>"
SOURCE_FILE = "<source file='/images/web.qcow2'/>"
LUKS = (
    "<source file='/images/web.qcow2'><encryption format='luks'><secret type='passphrase' uuid='%s'/></encryption>"
    "</source>"
)


@pytest.mark.parametrize(
    ("live", "later", "part"),
    [
        (with_device(TPM % KEYS[0]), with_device(TPM % KEYS[1]), "tpm"),
        (with_device(TPM % KEYS[0]), with_device(PLAIN_TPM), "tpm"),
        (with_device(PLAIN_TPM), with_device(TPM % KEYS[0]), "tpm"),
        (DOMAIN.replace(SOURCE_FILE, LUKS % KEYS[0]), DOMAIN.replace(SOURCE_FILE, LUKS % KEYS[1]), "disk vda"),
        (DOMAIN.replace(SOURCE_FILE, LUKS % KEYS[0]), DOMAIN, "disk vda"),
        (DOMAIN, DOMAIN.replace(SOURCE_FILE, LUKS % KEYS[0]), "disk vda"),
    ],
)
def test_another_key_at_the_next_start_is_refused_by_name(live: str, later: str, part: str) -> None:
    """One key goes along, and it opens what is there now."""
    assert [(each.code, each.part) for each in leaving(live, later).findings] == [("pending_secret", part)]


def test_an_encrypted_tpm_may_be_gone_at_the_next_start() -> None:
    """Nothing is opened with its key then."""
    assert leaving(with_device(TPM % KEYS[0]), DOMAIN).findings == ()
