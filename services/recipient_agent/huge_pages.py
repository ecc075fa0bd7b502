"""Whether a node has huge pages left for a VM: free ones, without those that reservations were promised. Pure.

A heartbeat says what is free at that moment. A VM that was promised pages and is not there yet will take them, so they
count as taken until its node reports it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from services.recipient_agent.capacity import Held, NodeView
from shared.messages.base import Refusal
from shared.messages.vm import VmDescription

_UNITS = {"B": 1, "BYTES": 1, "KB": 1000, "KIB": 1 << 10, "K": 1 << 10, "MB": 10**6, "MIB": 1 << 20, "M": 1 << 20}
_UNITS |= {"GB": 10**9, "GIB": 1 << 30, "G": 1 << 30}
"""libvirt's units of memory, in capitals."""


def huge_page_refusals(vm: VmDescription, node: NodeView, held: Iterable[Held]) -> Iterator[Refusal]:
    """One for each size of page of which the node has too few left; its own reservation must not be in ``held``."""
    here = {each.uuid for each in node.vms}
    coming = [each for each in held if each.node == node.name and each.reserved and each.vm_uuid not in here]
    for wanted in wanted_pages(vm):
        size_bytes = page_bytes(wanted)
        left = [
            (pages.size_bytes, pages.free * pages.size_bytes - _promised(pages.size_bytes, coming))
            for pages in node.platform.huge_pages
        ]
        if not any(free >= vm.memory_bytes for size, free in left if size_bytes in {None, size}):
            found = "; ".join(f"{max(free, 0) // size} left of {size >> 10} KiB" for size, free in left) or "none"
            yield Refusal(
                code="huge_pages_short",
                rule="A VM on huge pages needs as many of that size as it has memory, free and promised to no other.",
                evidence=f"{vm.memory_bytes} bytes on pages of {wanted} needed; node {node.name} has {found}",
            )


def wanted_pages(vm: VmDescription) -> tuple[str, ...]:
    """The sizes of huge pages that the VM has, as its needs name them; empty for one without."""
    return tuple(need.value for need in vm.needs if need.kind == "hugepages")


def page_bytes(wanted: str) -> int | None:
    """The size that a need names, such as ``2048 KiB``; None for the host's own default, and for what is no size."""
    match = re.fullmatch(r"(\d{1,12}) ([A-Za-z]+)", wanted)
    unit = _UNITS.get(match[2].upper()) if match else None
    return int(match[1]) * unit if match and unit else None


def _promised(size_bytes: int, coming: Iterable[Held]) -> int:
    """Bytes on pages of this size. Pages of a size that nobody knows may be these."""
    return sum(
        each.memory_bytes
        for each in coming
        if any(page_bytes(wanted) in {None, size_bytes} for wanted in each.huge_pages)
    )
