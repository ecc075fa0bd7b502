"""The recipient needs the sizes of a VM's firmware: they are read from the files themselves."""

from __future__ import annotations

import struct
from pathlib import Path

from services.node_agent.hypervisor.firmware_sizes import with_firmware_sizes
from shared.domain import describe
from tests.support.domain_samples import DOMAIN

CODE_BYTES, VARIABLES_BYTES = 3_653_632, 540_672


def qcow2(size_bytes: int) -> bytes:
    """The header of an image of this size."""
    return struct.pack(">4sIQIIQ", b"QFI\xfb", 2, 0, 0, 16, size_bytes).ljust(104, b"\0")


def booted(loader: str, nvram: str = "") -> str:
    """A VM with these parts of its firmware."""
    return DOMAIN.replace("<kernel>", f"{loader}{nvram}<kernel>")


def test_sizes_are_those_that_the_guest_sees(tmp_path: Path) -> None:
    """Of a raw file its length, of a qcow2 image what it holds."""
    code, variables = tmp_path / "code.qcow2", tmp_path / "vars.fd"
    code.write_bytes(qcow2(CODE_BYTES))
    variables.write_bytes(bytes(VARIABLES_BYTES))
    xml = booted(
        f"<loader readonly='yes' type='pflash' format='qcow2'>{code}</loader>",
        f"<nvram format='raw'>{variables}</nvram>",
    )

    facts, problems = with_firmware_sizes(describe(xml))

    assert problems == ()
    assert facts.firmware_facts is not None
    assert (facts.firmware_facts.size_bytes, facts.firmware_facts.nvram_size_bytes) == (CODE_BYTES, VARIABLES_BYTES)


def test_a_rom_has_no_variables(tmp_path: Path) -> None:
    """Its size is all that is asked for."""
    rom = tmp_path / "bios.bin"
    rom.write_bytes(bytes(262_144))

    facts, problems = with_firmware_sizes(describe(booted(f"<loader type='rom'>{rom}</loader>")))

    assert problems == ()
    assert facts.firmware_facts is not None
    assert (facts.firmware_facts.size_bytes, facts.firmware_facts.nvram_size_bytes) == (262_144, None)


def test_a_file_that_cannot_be_read_is_a_blocker_that_names_it() -> None:
    """It is said by the donor, before any quote."""
    facts, problems = with_firmware_sizes(describe(booted("<loader readonly='yes' type='pflash'>/none.fd</loader>")))

    assert facts.firmware_facts is not None
    assert facts.firmware_facts.size_bytes is None
    assert len(problems) == 1
    assert "/none.fd" in problems[0]


def test_a_vm_without_firmware_of_its_own_is_left_alone() -> None:
    """QEMU brings its BIOS along."""
    plain = describe(DOMAIN)
    assert with_firmware_sizes(plain) == (plain, ())
