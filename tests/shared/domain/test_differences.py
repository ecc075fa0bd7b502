"""What a guest would notice."""

from __future__ import annotations

import pytest

from shared.domain import guest_abi_differences, parse
from tests.support.domain_samples import DOMAIN, MAC, UUID


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
        ("<kernel>", "<loader secure='yes'>/r.bin</loader><kernel>"),
        ("<acpi/>", "<acpi/><pmu state='on'/>"),
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


def test_a_comparison_changes_neither_side() -> None:
    """Both may be compared again, or rewritten."""
    one, other = parse(DOMAIN), parse(DOMAIN.replace(MAC, "52:54:00:00:00:02"))
    before = one.to_text(), other.to_text()
    assert guest_abi_differences(one, other) == guest_abi_differences(one, other) != []
    assert (one.to_text(), other.to_text()) == before


BOOTS = "<boot dev='hd'/><boot dev='cdrom'/><kernel>"
STRINGS = "<sysinfo type='smbios'><oemStrings><entry>a</entry><entry>b</entry></oemStrings></sysinfo><os>"


@pytest.mark.parametrize(
    ("old", "one", "other"),
    [
        ("<kernel>", BOOTS, "<boot dev='cdrom'/><boot dev='hd'/><kernel>"),
        ("<os>", STRINGS, STRINGS.replace("<entry>a</entry>", "").replace("b</entry>", "b</entry><entry>a</entry>")),
    ],
)
def test_where_order_says_something_it_is_compared(old: str, one: str, other: str) -> None:
    """What is tried first at a boot, and the number of a string."""
    assert guest_abi_differences(DOMAIN.replace(old, one), DOMAIN.replace(old, other))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("<os><loader>/r.bin</loader>", "<os><loader type='rom'>/ours.bin</loader>"),
        ("<os firmware='efi'>", "<os><loader type='pflash' readonly='yes'>/ours.fd</loader>"),
        ("<os firmware='efi'><loader secure='yes'/>", "<os><loader type='pflash' secure='yes'>/ours.fd</loader>"),
    ],
)
def test_the_kind_of_firmware_need_not_be_written(written: str, meant: str) -> None:
    """A loader without a type is a ROM, and what libvirt chooses a flash."""
    assert guest_abi_differences(DOMAIN.replace("<os>", written), DOMAIN.replace("<os>", meant)) == []
