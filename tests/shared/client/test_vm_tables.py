"""VMs as people read them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from shared.client.render import show
from shared.client.vm_check import check_of
from shared.client.vm_tables import check_tables, vm_tables, vms_table
from shared.messages.queries import VmShown
from shared.messages.quote_lines import Part, QuoteLine
from shared.messages.service_change import PortPlanned
from shared.messages.vm import CpuMode, Firmware
from shared.messages.vm_details import CpuDetails, VmDetails
from tests.support.scripted_broker import DETAILS, PORT, QUOTE, WEB


def text_of(*tables: Table) -> str:
    out = io.StringIO()
    show(Console(file=out), *tables)
    return out.getvalue()


def shown(**changes: Any) -> str:
    details: VmDetails = DETAILS.model_copy(update=changes)
    return text_of(*vm_tables(VmShown(vm=WEB, details=details)))


def test_no_notes_without_a_reason() -> None:
    """A list in which all is known has no column for it; another's words are no markup."""
    assert "NOTE" not in text_of(vms_table((WEB,)))
    assert "[/red]" in text_of(vms_table((WEB.model_copy(update={"name": "[/red]"}),)))


def test_sizes_that_nobody_knows() -> None:
    """Zero is not shown for what is unknown."""
    unknown = WEB.model_copy(update={"vcpus": 0, "memory_bytes": 0, "disk_bytes": 0, "unsized_disks": ("vda",)})
    assert [line.split()[-4:-1] for line in text_of(vms_table((unknown,))).splitlines() if "web" in line] == [
        ["-", "size", "unknown:"]
    ]
    assert text_of(vms_table((unknown,))).count("?") == 3
    assert text_of(*vm_tables(VmShown(vm=unknown))).count("?") >= 3


def test_maximum_stands_beside_what_counts() -> None:
    """Only where it is another."""
    assert "1 (at most 8)" in shown()
    assert "512 MiB (256 MiB without its balloon)" in shown()
    equal = shown(vcpus_max=1, memory_current_bytes=DETAILS.memory_bytes)
    assert "at most" not in equal
    assert "balloon" not in equal


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"firmware": Firmware.BIOS, "secure_boot": False, "nvram": False}, "BIOS"),
        ({}, "UEFI, secure boot, variables of its own"),
        ({"firmware": Firmware.DIRECT_KERNEL}, "boots a kernel directly, UEFI, secure boot, variables of its own"),
        ({"cpu": CpuDetails(mode=CpuMode.HOST_PASSTHROUGH)}, "host-passthrough"),
        ({}, "Skylake-Server, 1 feature named"),
        ({"persistent": False}, "transient"),
        ({"omitted": ("12 more disks",)}, "12 more disks"),
        ({}, "2 internal snapshots"),
        ({}, "empty, read-only"),
        ({}, "cputune/vcpupin: not kept"),
        ({}, "can it leave?"),
    ],
)
def test_words_for_each_part(changes: dict[str, object], words: str) -> None:
    """As an engineer says it."""
    assert words in shown(**changes)


def test_a_kernel_that_is_booted_without_firmware_files() -> None:
    """QEMU's own BIOS boots it, of which there is nothing to say."""
    told = shown(firmware=Firmware.DIRECT_KERNEL, secure_boot=False, nvram=False)

    assert "boots a kernel directly" in told
    assert "UEFI" not in told


def test_lines_of_an_offer_are_shown_with_the_verdict() -> None:
    """Kept, changed and lost, by the names that --require takes."""
    lines = {
        "kept": (QuoteLine(part=Part.VLAN, text="VLAN 7"),),
        "made_anew": (QuoteLine(part=Part.BRIDGE, text="br0 becomes vmbr0"),),
        "not_kept": (QuoteLine(part=Part.PINNING, text="vCPU 0"),),
    }
    plan = PortPlanned(port_id=PORT, quotes=(QUOTE.model_copy(update=lines),), declined={})
    text = text_of(*check_tables(check_of(WEB, plan)))
    for words in ("br0 becomes vmbr0", "pinning", "not kept", "kept", "yes", "12.50 EUR"):
        assert words in text
