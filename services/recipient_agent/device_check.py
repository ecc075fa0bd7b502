"""Whether a host's QEMU and libvirt offer what a VM needs: devices, features, vCPUs. Pure.

A node tells what libvirt's domain capabilities say. A kind that they do not mention is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shared.domain import NEXT_VCPUS, SECRET, largest_need
from shared.messages.base import Refusal
from shared.messages.vm import HostPlatform, VmDescription

_PARTLY_TOLD: Mapping[str, frozenset[str]] = {"channel": frozenset({"spicevmc", "qemu-vdagent"})}
"""Kinds of which libvirt mentions only some values: of the others it says nothing."""


def device_refusals(vm: VmDescription, host: HostPlatform, *, node: str) -> Iterator[Refusal]:
    """One refusal for each thing that the VM has, and that this host has not."""
    offers = offers_for(vm, host)
    missing = offers.get("feature_missing", ())
    for need in vm.needs:
        if need.kind == SECRET:
            if need.value not in host.secret_usages:
                yield _no_secrets(need.value, node=node)
        elif need.kind == "feature":
            if need.value in missing:
                yield _unsupported(f"feature {need.value} is not there on node {node}")
        elif need.kind in offers and need.value not in offers[need.kind] and _is_told(need.kind, need.value):
            there = ", ".join(offers[need.kind]) or "none"
            yield _unsupported(f"{need.kind.replace('_', ' ')} {need.value}: node {node} offers {there}")
    most = next((int(value) for value in offers.get("vcpus_max", ()) if value.isdigit()), None)
    wanted = max(vm.vcpus, vm.vcpus_max or 0, largest_need(vm.needs, NEXT_VCPUS))
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
