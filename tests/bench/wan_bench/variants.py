"""What is compared: variants of both systems, and techniques that can be switched off, as data. Pure.

A variant or technique that this checkout does not have is told apart by its settings, and is reported as absent with
the reason; nothing is ever measured in its place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from services.node_agent.page_codec.hello import Technique as CodecTechnique
from services.node_agent.settings import NodeSettings


class System(StrEnum):
    """Who moves the guest."""

    STOCK = "stock"
    VMPORT = "vmport"


class Knows(StrEnum):
    """What the recipient has of the guest beforehand."""

    NOTHING = "cold"
    BASE_IMAGE = "base"
    EARLIER_PORT = "back"


class UnknownName(ValueError):
    """A name on the command line that is none of those that there are."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...]) -> None:
        self.kind, self.name, self.known = kind, name, known
        super().__init__(f"no {kind} {name!r}; there are {', '.join(known)}")


@dataclass(frozen=True)
class Variant:
    """One way to move the guest. `flags` are virsh's (stock only); `route` and `knows` are vmport's."""

    system: System
    name: str
    flags: tuple[str, ...] = ()
    route: str = ""
    knows: Knows = Knows.NOTHING

    @property
    def label(self) -> str:
        """As it is called on the command line and in tables: `stock/plain`."""
        return f"{self.system}/{self.name}"


VARIANTS = (
    Variant(System.STOCK, "plain"),
    # With a cache that holds all that the writer rewrites; the default of 64 MiB would not.
    Variant(
        System.STOCK,
        "xbzrle",
        ("--compressed", "--comp-methods", "xbzrle", "--comp-xbzrle-cache", str(128 << 20)),
    ),
    Variant(
        System.STOCK,
        "parallel-zstd",
        ("--parallel", "--parallel-connections", "2", "--compressed", "--comp-methods", "zstd"),
    ),
    Variant(System.STOCK, "auto-converge", ("--auto-converge",)),
    Variant(System.STOCK, "post-copy", ("--postcopy", "--postcopy-after-precopy")),
    Variant(System.VMPORT, "relay-cold", route="relay"),
    Variant(System.VMPORT, "direct-cold", route="direct"),
    Variant(System.VMPORT, "direct-base", route="direct", knows=Knows.BASE_IMAGE),
    Variant(System.VMPORT, "direct-back", route="direct", knows=Knows.EARLIER_PORT),
)


AUTO_CONVERGE = "auto-converge"
TECHNIQUES = (*CodecTechnique, AUTO_CONVERGE)
"""What vmport can do without: the page codec's techniques, and QEMU's slowing down of a guest that writes too fast."""

DIRECT_PORT = 7071


_NEEDED = {
    Knows.BASE_IMAGE: ("catalogue", "a provider's image catalogue"),
    Knows.EARLIER_PORT: ("store", "a content store that outlives a port"),
}


def has_settings(section: str) -> bool:
    """Whether node agents of this checkout have a section of settings."""
    return section in NodeSettings.model_fields


def absent(variant: Variant) -> str | None:
    """Why the variant cannot be measured with this checkout; None if it can."""
    if variant.system is System.STOCK:
        return None
    if variant.route == "direct" and not has_settings("direct"):
        return "node agents of this checkout have no direct route (no settings section `direct`)"
    section, what = _NEEDED.get(variant.knows, ("node", ""))
    if not has_settings(section):
        return f"node agents of this checkout do not have {what} (no settings section `{section}`)"
    return None


def overrides(variant: Variant, without: tuple[str, ...], *, address: str) -> dict[str, str]:
    """The environment of a node agent at a WAN address, for a variant less some techniques."""
    chosen = {}
    if variant.route == "direct":
        chosen["VMPORT_DIRECT__LISTEN"] = f"{address}:{DIRECT_PORT}"
        chosen["VMPORT_DIRECT__ADVERTISE"] = json.dumps([f"{address}:{DIRECT_PORT}"])
    elif has_settings("direct"):
        chosen["VMPORT_DIRECT__CONNECT"] = "false"
    if codec := [name for name in without if name != AUTO_CONVERGE]:
        chosen["VMPORT_NODE__WITHOUT"] = json.dumps(codec)
    if AUTO_CONVERGE in without:
        chosen["VMPORT_NODE__AUTO_CONVERGE"] = "false"
    return chosen


def check_techniques(names: tuple[str, ...]) -> None:
    """Raises `UnknownName` for one that there is not."""
    for name in names:
        if name not in TECHNIQUES:
            raise UnknownName("technique", name, TECHNIQUES)


def find_variants(names: tuple[str, ...]) -> tuple[Variant, ...]:
    """Variants by name or label, or all of a system. Raises `UnknownName`."""
    found: list[Variant] = []
    for name in names:
        these = [variant for variant in VARIANTS if name in {variant.name, variant.label, variant.system}]
        if not these:
            raise UnknownName("variant", name, (*System, *(variant.name for variant in VARIANTS)))
        found += [variant for variant in these if variant not in found]
    return tuple(found)
