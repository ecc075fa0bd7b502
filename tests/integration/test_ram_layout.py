"""The computed RAM layout of a guest, compared with QEMU's own memory map."""

from __future__ import annotations

import re
import subprocess

import pytest

from services.node_agent.hypervisor.ram_layout import MIB, ram_ranges
from tests.services.node_agent.hypervisor.test_ram_layout import domain

pytestmark = pytest.mark.lab

RAM_LINE = re.compile(r"^\s+([0-9a-f]{16})-([0-9a-f]{16}) \(prio \d+, ram\): pc\.ram", re.MULTILINE)


def ram_of_qemu(machine: str, mib: int) -> set[int]:
    """Numbers of the MiB that are entirely RAM, of a machine that was created but not started."""
    command = ["qemu-system-x86_64", "-accel", "tcg", "-machine", machine, "-m", str(mib), "-nodefaults"]
    command += ["-display", "none", "-monitor", "stdio", "-S"]
    asking = "info mtree -f\nquit\n"
    said = subprocess.run(command, input=asking, capture_output=True, text=True, check=True, timeout=60)
    views = said.stdout.split("FlatView #")
    (memory,) = [view for view in views if ' AS "memory", root: system' in view]
    found = [(int(start, 16), int(end, 16) + 1) for start, end in RAM_LINE.findall(memory)]
    return {at for start, end in found for at in range(-(-start // MIB), end // MIB)}


@pytest.mark.parametrize("machine", ["pc-q35-10.0", "pc-i440fx-10.0"])
@pytest.mark.parametrize("mib", [512, 2815, 2816, 3583, 3584, 6144])
def test_ram_is_where_qemu_has_it(machine: str, mib: int) -> None:
    """All RAM above the first MiB, and nothing else: what is not RAM must not be read."""
    ranges = ram_ranges(domain(machine, mib))
    assert ranges[0] == (0, 0xA_0000)
    assert {at for start, end in ranges[1:] for at in range(start // MIB, end // MIB)} == ram_of_qemu(machine, mib)
