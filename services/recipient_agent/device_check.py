"""Whether a host's QEMU and libvirt offer what a VM needs: devices, vCPUs, huge pages. Pure.

A node tells what libvirt's domain capabilities say. A kind that they do not mention is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from shared.domain import NEXT_VCPUS, SECRET
from shared.messages.base import Refusal
from shared.messages.host import HugePages
from shared.messages.vm import HostPlatform, VmDescription

_PARTLY_TOLD: Mapping[str, frozenset[str]] = {"channel": frozenset({"spicevmc", "qemu-vdagent"})}
"""Kinds of which libvirt mentions only some values: of the others it says nothing."""
_UNITS = {"B": 1, "BYTES": 1, "KB": 1000, "KIB": 1 << 10, "K": 1 << 10, "MB": 10**6, "MIB": 1 << 20, "M": 1 << 20}
_UNITS |= {"GB": 10**9, "GIB": 1 << 30, "G": 1 << 30}
"""libvirt's units of memory, in capitals."""


def device_refusals(vm: VmDescription, host: HostPlatform, *, node: str) -> Iterator[Refusal]:
    """One refusal for each thing that the VM has, and that this host has not."""
    offers = offers_for(vm, host)
    missing = offers.get("feature_missing", ())
    for need in vm.needs:
        if need.kind == "hugepages":
            yield from _huge_pages(vm, need.value, host.huge_pages, node=node)
        elif need.kind == SECRET:
            if need.value not in host.secret_usages:
                yield _no_secrets(need.value, node=node)
        elif need.kind == "feature":
            if need.value in missing:
                yield _unsupported(f"feature {need.value} is not there on node {node}")
        elif need.kind in offers and need.value not in offers[need.kind] and _is_told(need.kind, need.value):
            there = ", ".join(offers[need.kind]) or "none"
            yield _unsupported(f"{need.kind.replace('_', ' ')} {need.value}: node {node} offers {there}")
    most = next((int(value) for value in offers.get("vcpus_max", ()) if value.isdigit()), None)
    later = (int(need.value) for need in vm.needs if need.kind == NEXT_VCPUS and _is_number(need.value))
    wanted = max(vm.vcpus, vm.vcpus_max or 0, *later)
    if most is not None and wanted > most:
        yield Refusal(
            code="vcpus_unsupported",
            rule="The host's QEMU must run as many vCPUs as the VM may have.",
            evidence=f"up to {wanted} vCPUs; node {node} runs {most} with machine {vm.machine}",
        )


def offers_for(vm: VmDescription, host: HostPlatform) -> Mapping[str, tuple[str, ...]]:
    """By kind, what the host offers to this VM's machine under its accelerator; empty where nothing is known."""
    return next(
        (
            each.offers
            for each in host.device_offers
            if each.accelerator == vm.domain_type and vm.machine in each.machines
        ),
        {},
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18


def _is_told(kind: str, value: str) -> bool:
    return kind not in _PARTLY_TOLD or value in _PARTLY_TOLD[kind]


def _unsupported(evidence: str) -> Refusal:
    return Refusal(
        code="device_unsupported",
        rule="The host's QEMU and libvirt must have every kind of device that the VM has.",
        evidence=evidence,
    )


_ENCRYPTED = {"vtpm": "its TPM is encrypted", "volume": "a disk of it is encrypted"}


def _no_secrets(usage: str, *, node: str) -> Refusal:
    return Refusal(
        code="secret_unsupported",
        rule="The key of an encrypted disk or TPM is kept by the host's libvirt, as a secret.",
        evidence=f"{_ENCRYPTED.get(usage, usage)}; node {node} keeps no secret of usage {usage}",
    )


def _huge_pages(vm: VmDescription, wanted: str, there: tuple[HugePages, ...], *, node: str) -> Iterator[Refusal]:
    size_bytes = page_bytes(wanted)
    fitting = [pages for pages in there if size_bytes in {None, pages.size_bytes}]
    if not any(pages.free * pages.size_bytes >= vm.memory_bytes for pages in fitting):
        found = "; ".join(f"{pages.free} free of {pages.size_bytes >> 10} KiB" for pages in there) or "none"
        yield Refusal(
            code="huge_pages_short",
            rule="A VM on huge pages needs as many free ones of that size as it has memory.",
            evidence=f"{vm.memory_bytes} bytes on pages of {wanted} needed; node {node} has {found}",
        )


def page_bytes(wanted: str) -> int | None:
    """The size that a need names, such as ``2048 KiB``; None for the host's own default, and for what is no size."""
    match = re.fullmatch(r"(\d{1,12}) ([A-Za-z]+)", wanted)
    unit = _UNITS.get(match[2].upper()) if match else None
    return int(match[1]) * unit if match and unit else None
