"""What is compared: variants of both systems, and techniques that can be switched off, as data. Pure.

A variant or technique that this checkout does not have is told apart by its settings, and is reported as absent with
the reason; nothing is ever measured in its place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

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

# What a variant needs, as settings of node agents: section and key, and what is missing without them.
_ROUTES = {"direct": ("direct", "connect", "a direct route")}
_KNOWLEDGE = {
    Knows.BASE_IMAGE: ("node", "base_image_dir", "a catalogue of base images"),
    Knows.EARLIER_PORT: ("node", "keep_contents_s", "contents that outlive a port"),
}


def has_setting(section: str, key: str) -> bool:
    """Whether node agents of this checkout have a setting."""
    field = NodeSettings.model_fields.get(section)
    inner: Any = None if field is None else field.annotation
    return isinstance(inner, type) and issubclass(inner, BaseModel) and key in inner.model_fields


def absent(variant: Variant) -> str | None:
    """Why the variant cannot be measured with this checkout; None if it can."""
    for need in (_ROUTES.get(variant.route), _KNOWLEDGE.get(variant.knows)):
        if need is not None and not has_setting(*need[:2]):
            return f"node agents of this checkout do not have {need[2]} (no setting {need[0]}.{need[1]})"
    return None


def overrides(variant: Variant, without: tuple[str, ...], *, base_image_dir: str) -> dict[str, str]:
    """The environment of a node agent for a variant less some techniques. A lab's nodes take direct lanes already."""
    chosen = {}
    if variant.route == "relay" and has_setting("direct", "connect"):
        chosen["VMPORT_DIRECT__CONNECT"] = "false"
    if variant.knows is Knows.BASE_IMAGE:
        chosen["VMPORT_NODE__BASE_IMAGE_DIR"] = base_image_dir
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
