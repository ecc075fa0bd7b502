"""Where a guest's RAM is, and never anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.node_agent.hypervisor.ram_layout import GIB, MIB, RamRange, pieces_of, ram_ranges

LOW = RamRange(0, 0xA_0000)


def domain(machine: str, mib: int, *, arch: str = "x86_64", more: str = "", devices: str = "") -> str:
    return f"""<domain type='qemu'><name>web</name><uuid>11111111-2222-3333-4444-555555555501</uuid>
<memory unit='MiB'>{mib}</memory>{more}<vcpu>1</vcpu><os><type arch='{arch}' machine='{machine}'>hvm</type></os>
<devices>{devices}</devices></domain>"""


@pytest.mark.parametrize(
    ("machine", "mib", "low", "high"),
    [
        ("pc-q35-10.0", 512, 512, 0),
        ("pc-q35-10.0", 2815, 2815, 0),
        ("pc-q35-10.0", 2816, 2048, 768),
        ("q35", 8192, 2048, 6144),
        ("pc-i440fx-10.0", 3583, 3583, 0),
        ("pc-i440fx-10.0", 3584, 3072, 512),
        ("pc", 8192, 3072, 5120),
    ],
)
def test_ram_is_split_as_qemu_splits_it(machine: str, mib: int, low: int, high: int) -> None:
    """Up to the border of the machine type, without the window of the VGA and the ROMs; the rest from 4 GiB."""
    above = (RamRange(4 * GIB, 4 * GIB + high * MIB),) if high else ()
    assert ram_ranges(domain(machine, mib)) == (LOW, RamRange(MIB, low * MIB), *above)


@pytest.mark.parametrize(
    "xml",
    [
        domain("virt-10.0", 512, arch="aarch64"),
        domain("microvm", 512),
        domain("pc-q35-10.0", 512, more="<maxMemory slots='2' unit='MiB'>1024</maxMemory>"),
        domain("pc-q35-10.0", 512, devices="<memory model='virtio-mem'/>"),
    ],
)
def test_what_is_not_known_for_certain_is_absent(xml: str) -> None:
    """Another machine, or one into which memory is plugged, has no ranges."""
    assert ram_ranges(xml) == ()


def test_the_hole_below_one_terabyte_is_not_entered() -> None:
    """A guest that is so big has its low RAM read only."""
    assert ram_ranges(domain("pc-q35-10.0", MIB)) == (LOW, RamRange(MIB, 2 * GIB))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=4), st.integers(1, 60))
def test_pieces_are_the_whole(parts: list[tuple[int, int]], piece: int) -> None:
    """Every address once, in order, in pieces that are not too long."""
    ranges = [RamRange(start, start + size) for start, size in parts]
    cut = list(pieces_of(ranges, piece))
    assert [at for each in cut for at in range(*each)] == [at for each in ranges for at in range(*each)]
    assert all(0 < each.end - each.start <= piece for each in cut)
