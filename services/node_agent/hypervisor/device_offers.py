"""What libvirt's domain capabilities say of devices, as kinds and values; machines that offer the same, together. Pure.

A kind is named as `Need` names it (`video`, `disk_bus`, `tpm`). What libvirt says is not supported has no values; what
it does not mention is not told, so nobody takes silence for an answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lxml import etree

from shared.messages.host import DeviceOffers

_ENUMS = {
    "disk_device": ("devices/disk", "diskDevice"),
    "disk_bus": ("devices/disk", "bus"),
    "disk_model": ("devices/disk", "model"),
    "graphics": ("devices/graphics", "type"),
    "video": ("devices/video", "modelType"),
    "hostdev": ("devices/hostdev", "subsysType"),
    "rng": ("devices/rng", "backendModel"),
    "rng_device": ("devices/rng", "model"),
    "filesystem": ("devices/filesystem", "driverType"),
    "tpm_backend": ("devices/tpm", "backendModel"),
    "tpm": ("devices/tpm", "model"),
    "tpm_version": ("devices/tpm", "backendVersion"),
    "redirdev": ("devices/redirdev", "bus"),
    "channel": ("devices/channel", "type"),
    "crypto": ("devices/crypto", "model"),
    "interface_backend": ("devices/interface", "backendType"),
    "panic": ("devices/panic", "model"),
    "console": ("devices/console", "type"),
    "loader": ("os/loader", "type"),
    "memory_source": ("memoryBacking", "sourceType"),
    "hyperv": ("features/hyperv", "features"),
}
"""By kind: the element, and its enumeration."""
_FLAGS = ("vmcoreinfo", "genid", "ps2", "async-teardown", "sev", "sgx")
"""Elements of <features> that say only yes or no. Other features are not mentioned, so only what is missing is told."""


def offers_of(domain_capabilities: etree._Element) -> dict[str, tuple[str, ...]]:
    """By kind, the values that one machine under one accelerator offers."""
    found: dict[str, tuple[str, ...]] = {}
    for kind, (path, name) in _ENUMS.items():
        values = _enumeration(domain_capabilities.find(path), name)
        if values is not None:
            found[kind] = values
    if "emulator" not in found.get("tpm_backend", ("emulator",)):
        # Only an emulated TPM moves; the host's own one is the host's.
        found |= {"tpm": (), "tpm_version": ()}
    found["feature_missing"] = tuple(
        name for name in _FLAGS if _is_supported(domain_capabilities.find(f"features/{name}")) is False
    )
    vcpus = domain_capabilities.find("vcpu")
    if vcpus is not None and vcpus.get("max"):
        found["vcpus_max"] = (vcpus.get("max", ""),)
    return found


def _enumeration(element: etree._Element | None, name: str) -> tuple[str, ...] | None:
    if _is_supported(element) is False:
        return ()
    values = element.find(f"enum[@name='{name}']") if element is not None else None
    return None if values is None else tuple(value.text or "" for value in values.findall("value"))


def _is_supported(element: etree._Element | None) -> bool | None:
    return None if element is None else element.get("supported") != "no"


def together(accelerator: str, by_machine: Mapping[str, Mapping[str, tuple[str, ...]]]) -> Iterator[DeviceOffers]:
    """Machines that offer the same as one value, in the order in which they were given."""
    groups: dict[tuple[tuple[str, tuple[str, ...]], ...], list[str]] = {}
    for machine, offers in by_machine.items():
        groups.setdefault(tuple(sorted(offers.items())), []).append(machine)
    for offers_key, machines in groups.items():
        yield DeviceOffers(accelerator=accelerator, machines=tuple(machines), offers=dict(offers_key))
