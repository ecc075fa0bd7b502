"""Firmware is chosen by its kind: secure boot, size and format; never by the donor's path."""

from __future__ import annotations

from typing import Any

import pytest

from services.recipient_agent.firmware_choice import ChosenFirmware, choose_firmware
from services.recipient_agent.testing import make_vm
from shared.messages.base import Refusal
from shared.messages.host import FirmwareOffer, FirmwareTarget
from shared.messages.vm import FirmwareFacts, FirmwareInterface

TARGETS = (FirmwareTarget(architecture="x86_64", machines=("pc-i440fx-*", "pc-q35-*")),)


def offer(name: str, **changes: Any) -> FirmwareOffer:
    """OVMF of 4 MiB without secure boot, changed."""
    facts: dict[str, Any] = {
        "interfaces": ("uefi",),
        "device": "flash",
        "code": f"/usr/share/OVMF/{name}.fd",
        "code_format": "raw",
        "code_bytes": 3_653_632,
        "template": f"/usr/share/OVMF/{name}_VARS.fd",
        "template_format": "raw",
        "template_bytes": 540_672,
        "targets": TARGETS,
        "features": ("acpi-s3", "verbose-dynamic"),
    }
    return FirmwareOffer(name=name, **{**facts, **changes})


PLAIN = offer("plain")
SECURE = offer("secure", features=("secure-boot", "requires-smm", "enrolled-keys"))
SMALL = offer("small", code_bytes=1_966_080, template_bytes=131_072)
QCOW2 = offer("qcow2", code_format="qcow2", template_format="qcow2")
ROM = offer("rom", device="memory", interfaces=("bios",), code_bytes=262_144, template=None, template_bytes=None)
STATELESS = offer("stateless", template=None, template_bytes=None)
ALL = (SECURE, SMALL, QCOW2, ROM, STATELESS, PLAIN)


def facts(**changes: Any) -> FirmwareFacts:
    """Of a VM with plain OVMF of 4 MiB."""
    plain: dict[str, Any] = {
        "interface": FirmwareInterface.PFLASH,
        "size_bytes": 3_653_632,
        "nvram": True,
        "nvram_size_bytes": 540_672,
    }
    return FirmwareFacts(**{**plain, **changes})


def choose(
    offers: tuple[FirmwareOffer, ...] = ALL, override: str | None = None, machine: str = "pc-q35-10.0", **changes: Any
) -> ChosenFirmware | Refusal | None:
    """For a VM with these facts."""
    vm = make_vm(firmware_facts=facts(**changes), machine=machine)
    return choose_firmware(vm, offers, override=override, node="beta-1")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "plain"),
        ({"secure_boot": True}, "secure"),
        ({"size_bytes": 1_966_080, "nvram_size_bytes": 131_072}, "small"),
        ({"format": "qcow2", "nvram_format": "qcow2"}, "qcow2"),
        ({"nvram": False, "nvram_size_bytes": None}, "stateless"),
        ({"interface": FirmwareInterface.ROM, "size_bytes": 262_144, "nvram": False}, "rom"),
    ],
)
def test_the_kind_is_kept(changes: dict[str, Any], name: str) -> None:
    """Secure boot, 2 MiB, qcow2, ROM: each finds its own, whatever stands before it."""
    chosen = choose(**changes)
    assert isinstance(chosen, ChosenFirmware), chosen
    assert chosen.name == name
    assert chosen.loader == f"/usr/share/OVMF/{name}.fd"


@pytest.mark.parametrize(
    ("offers", "changes", "evidence"),
    [
        ((PLAIN,), {"secure_boot": True}, "no secure boot"),
        ((SECURE,), {}, "needs SMM"),
        ((PLAIN,), {"size_bytes": 1_966_080}, "3653632 bytes of code"),
        ((PLAIN,), {"nvram_size_bytes": 131_072}, "540672 bytes of variables"),
        ((PLAIN,), {"format": "qcow2"}, "is raw"),
        ((PLAIN,), {"nvram_format": "qcow2"}, "variables as raw"),
        ((PLAIN,), {"nvram_size_bytes": None}, "not known"),
        ((STATELESS,), {}, "keeps no variables"),
        ((PLAIN,), {"machine": "microvm"}, "not for microvm"),
        ((PLAIN,), {"interface": FirmwareInterface.ROM}, "loaded as flash"),
        ((), {}, "no firmware descriptors"),
        (ALL, {"size_bytes": None}, "size of the VM's firmware is not known"),
    ],
)
def test_where_none_fits_the_vm_is_refused(
    offers: tuple[FirmwareOffer, ...], changes: dict[str, Any], evidence: str
) -> None:
    """By name, before the quote, and with the reason of each firmware."""
    refusal = choose(offers, **changes)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "firmware_unsupported"
    assert evidence in refusal.evidence


def test_a_vm_that_boots_by_bios_needs_nothing() -> None:
    """QEMU brings its BIOS along."""
    assert choose_firmware(make_vm(), ALL, override=None, node="beta-1") is None


def test_the_operators_own_choice_is_for_vms_without_secure_boot() -> None:
    """It is a path without a promise, so a secure VM gets a descriptor's."""
    plain, secure = choose(override="/srv/OVMF.fd"), choose(override="/srv/OVMF.fd", secure_boot=True)
    assert isinstance(plain, ChosenFirmware)
    assert plain.loader == "/srv/OVMF.fd"
    assert isinstance(secure, ChosenFirmware)
    assert secure.name == "secure"


def test_what_a_descriptor_says_goes_along_with_its_files() -> None:
    """The builder issues loader and template of one descriptor, and asks its features."""
    chosen = choose(secure_boot=True)
    assert isinstance(chosen, ChosenFirmware)
    assert (chosen.loader, chosen.template) == (SECURE.code, SECURE.template)
    assert chosen.features == frozenset({"secure-boot", "requires-smm", "enrolled-keys"})


def test_the_operators_choice_has_the_template_of_its_descriptor() -> None:
    """Of a file that no descriptor names libvirt must know it."""
    known, unknown = choose(override=PLAIN.code), choose(override="/srv/OVMF.fd")
    assert isinstance(known, ChosenFirmware)
    assert isinstance(unknown, ChosenFirmware)
    assert (known.template, unknown.template) == (PLAIN.template, None)
