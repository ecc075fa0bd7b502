"""Which of a host's firmwares a VM gets: one of the same kind as it had, chosen by descriptor. Pure.

The guest's memory map has the firmware's code and variables in it, so both must have the very size that they had; the
variables come along, so the host's template gives only their size and format. Secure boot needs a firmware that guards
the variables (SMM), and a VM without it must not get one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from shared.messages.base import Refusal
from shared.messages.host import FirmwareOffer
from shared.messages.vm import FirmwareFacts, FirmwareInterface, VmDescription

RULE = "A VM keeps its kind of firmware: interface, secure boot, format, and the sizes of code and variables."


@dataclass(frozen=True, slots=True)
class ChosenFirmware:
    """What the builder puts into the definition; paths are the node's."""

    name: str
    loader: str
    loader_format: str
    template: str | None
    template_format: str
    features: frozenset[str] | None = None
    """What the descriptor says of it; None: no descriptor was asked."""
    description: str = ""
    """The same for people: what its descriptor calls it."""


def choose_firmware(
    vm: VmDescription, offers: Iterable[FirmwareOffer], *, override: str | None, node: str
) -> ChosenFirmware | Refusal | None:
    """The first of the host's firmwares that fits; None for a VM that boots without one of the host's files.

    `override` is the operator's own path of the code, taken for a VM without secure boot in place of a descriptor.
    """
    facts = vm.firmware_facts
    if facts is None:
        return None
    offered = list(offers)
    if override is not None and not facts.secure_boot and facts.interface is not FirmwareInterface.ROM:
        # Of a file that no descriptor names libvirt itself must know the template (nvram in its qemu.conf).
        known = next((offer.template for offer in offered if offer.code == override), None)
        return ChosenFirmware("the setting uefi_loader", override, facts.format, known, facts.nvram_format)
    if facts.interface is not FirmwareInterface.EFI_AUTO and facts.size_bytes is None:
        return _refusal(f"the size of the VM's firmware is not known, so node {node} cannot choose one")
    misfits = []
    for offer in offered:
        reasons = list(_differences(vm, facts, offer))
        if not reasons:
            return ChosenFirmware(
                name=offer.name,
                loader=offer.code,
                loader_format=offer.code_format,
                template=offer.template,
                template_format=offer.template_format,
                features=frozenset(offer.features),
                description=offer.description,
            )
        misfits.append(f"{offer.name}: {reasons[0]}")
    there = "; ".join(misfits[:8]) or "it has no firmware descriptors"
    return _refusal(f"the VM has {_words(facts)}; on node {node}: {there}")


def _differences(vm: VmDescription, facts: FirmwareFacts, offer: FirmwareOffer) -> Iterator[str]:
    is_rom = facts.interface is FirmwareInterface.ROM
    if (offer.device == "memory") != is_rom:
        yield f"is loaded as {offer.device}"
    if not is_rom and "uefi" not in offer.interfaces:
        yield "is no UEFI"
    if not any(
        target.architecture == vm.architecture and any(fnmatchcase(vm.machine, each) for each in target.machines)
        for target in offer.targets
    ):
        yield f"is not for {vm.machine}"
    guarded = "requires-smm" in offer.features
    if facts.secure_boot and not {"secure-boot", "requires-smm"} <= set(offer.features):
        yield "has no secure boot"
    if not facts.secure_boot and guarded:
        yield "needs SMM"
    if facts.nvram and offer.template is None:
        yield "keeps no variables"
    if not is_rom and not facts.nvram and facts.interface is FirmwareInterface.PFLASH and offer.template is not None:
        yield "keeps variables, which the VM has not"
    yield from _other_sizes(facts, offer)


def _other_sizes(facts: FirmwareFacts, offer: FirmwareOffer) -> Iterator[str]:
    if facts.interface is not FirmwareInterface.EFI_AUTO and offer.code_format != facts.format:
        yield f"is {offer.code_format}"
    if facts.size_bytes is not None and offer.code_bytes != facts.size_bytes:
        yield f"has {offer.code_bytes} bytes of code"
    if not facts.nvram:
        return
    if offer.template is not None and offer.template_format != facts.nvram_format:
        yield f"keeps variables as {offer.template_format}"
    if facts.nvram_size_bytes is None:
        if facts.interface is not FirmwareInterface.EFI_AUTO:
            yield "has variables of a known size, the VM's is not known"
    elif offer.template is not None and offer.template_bytes != facts.nvram_size_bytes:
        yield f"has {offer.template_bytes} bytes of variables"


def _words(facts: FirmwareFacts) -> str:
    parts = [f"{facts.interface} firmware", "secure boot" if facts.secure_boot else "no secure boot", facts.format]
    if facts.size_bytes is not None:
        parts.append(f"{facts.size_bytes} bytes of code")
    if facts.nvram_size_bytes is not None:
        parts.append(f"{facts.nvram_size_bytes} bytes of variables ({facts.nvram_format})")
    return ", ".join(parts)


def _refusal(evidence: str) -> Refusal:
    return Refusal(code="firmware_unsupported", rule=RULE, evidence=evidence)
