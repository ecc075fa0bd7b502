"""What a VM needs its host's QEMU and libvirt to offer: short pairs that a host's capabilities can be held to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lxml import etree

from shared.domain.blockers import encryption_of, tsc_frequency
from shared.messages.vm import Need

_ATTRIBUTES: tuple[tuple[str, str, str], ...] = (
    ("os/type", "machine", "machine"),
    ("devices/video/model", "type", "video"),
    ("devices/graphics", "type", "graphics"),
    ("devices/tpm", "model", "tpm"),
    ("devices/tpm/backend", "type", "tpm_backend"),
    ("devices/tpm/backend", "version", "tpm_version"),
    ("devices/disk/target", "bus", "disk_bus"),
    ("devices/disk", "device", "disk_device"),
    ("devices/controller", "type", "controller"),
    ("devices/interface/model", "type", "network_card"),
    ("devices/rng", "model", "rng_device"),
    ("devices/rng/backend", "model", "rng"),
    ("devices/channel", "type", "channel"),
    ("devices/redirdev", "bus", "redirdev"),
    ("devices/smartcard", "mode", "smartcard"),
    ("devices/sound", "model", "sound"),
    ("devices/input", "bus", "input_bus"),
    ("devices/watchdog", "model", "watchdog"),
    ("devices/panic", "model", "panic"),
    ("devices/iommu", "model", "iommu"),
    ("devices/vsock", "model", "vsock"),
    ("devices/memory", "model", "memory_device"),
    ("devices/memballoon", "model", "balloon"),
    ("memoryBacking/source", "type", "memory_source"),
)
"""Path, attribute, and the kind of the need."""
_MADE_AS: dict[tuple[str, str], str | None] = {
    ("memory_source", "file"): "memfd",
    ("rng", "egd"): "random",
    ("graphics", "sdl"): None,
    ("graphics", "desktop"): None,
    ("graphics", "rdp"): None,
    ("graphics", "dbus"): None,
    ("graphics", "egl-headless"): None,
}
"""What the recipient makes in another way, and what it does not make (None)."""
_SWITCHES: tuple[tuple[str, str], ...] = (("features/hyperv", "hyperv"), ("features/kvm", "kvm"))
"""Features whose children are each on or off."""
_FEATURES = ("features/smm", "features/vmcoreinfo", "features/ps2", "features/async-teardown", "genid")
NEXT_VCPUS = "next_vcpus"
"""How many vCPUs the VM may have after its next start."""
NEXT_MEMORY = "next_memory"
"""How many bytes of memory it has then."""
_MAX_DIGITS = 18


def largest_need(needs: Iterable[Need], kind: str) -> int:
    """The largest number that needs of this kind name, 0 if there is none; what is no number says nothing."""
    texts = (need.value for need in needs if need.kind == kind)
    return max(
        (int(text) for text in texts if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS), default=0
    )


SECRET = "secret"  # noqa: S105  # a kind of need, no password
"""A secret of this usage that libvirt keeps at the host."""


def needs_of(root: etree._Element) -> tuple[Need, ...]:
    """Each need once, in a fixed order."""
    pairs = dict.fromkeys((*_by_attribute(root), *_by_switch(root), *_hugepages(root), *_secrets(root)))
    return tuple(Need(kind=kind, value=value) for kind, value in sorted(pairs))


def _by_attribute(root: etree._Element) -> Iterator[tuple[str, str]]:
    for path, attribute, kind in _ATTRIBUTES:
        for element in root.findall(path):
            value = element.get(attribute)
            made = _MADE_AS.get((kind, value), value) if value else None
            if made is not None:
                yield kind, made
    for controller in root.findall("devices/controller"):
        if controller.get("model"):
            yield "controller_model", f"{controller.get('type')} {controller.get('model')}"


def _by_switch(root: etree._Element) -> Iterator[tuple[str, str]]:
    for path, kind in _SWITCHES:
        for feature in root.findall(f"{path}/*"):
            if feature.get("state", "on") == "on":
                yield kind, str(feature.tag)
    if frequency := tsc_frequency(root):
        yield "tsc_frequency", frequency
    for path in _FEATURES:
        found = root.find(path)
        if found is not None and "off" not in {found.get("state"), found.get("enabled")}:
            yield "feature", path.rpartition("/")[2]


def _secrets(root: etree._Element) -> Iterator[tuple[str, str]]:
    if root.find("devices/tpm/backend/encryption") is not None:
        yield SECRET, "vtpm"
    if any(encryption_of(disk) is not None for disk in root.findall("devices/disk")):
        yield SECRET, "volume"


def _hugepages(root: etree._Element) -> Iterator[tuple[str, str]]:
    pages = root.find("memoryBacking/hugepages")
    if pages is None:
        return
    if not len(pages):
        yield "hugepages", "default"
    for page in pages.findall("page"):
        yield "hugepages", f"{page.get('size')} {page.get('unit', 'KiB')}"
