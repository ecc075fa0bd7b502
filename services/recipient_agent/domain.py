"""The domain XML for a chosen node: host-side parts are this provider's, what the guest sees is the donor's. Pure.

The donor's XML is foreign input. It must be the VM that was quoted, it may name nothing of this host but what this
agent put there, and the guest ABI of the result is compared with the original before the broker gets an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from uuid import UUID

from services.recipient_agent.platform import Bridges
from shared.domain import (
    Domain,
    DomainXmlError,
    HostPlaces,
    VmFacts,
    describe,
    guest_abi_differences,
    parse,
    rewrite_for_host,
)
from shared.messages.base import Refusal
from shared.messages.porting import ReservedDisk
from shared.messages.vm import IdentityBundle, VmDescription

HARMLESS_PATHS = frozenset({"/dev/urandom", "/dev/random"})
WORDS_FOR_PEOPLE = frozenset({"metadata", "title", "description"})
SAFE_RNG_BACKENDS = frozenset({"random", "builtin"})


@dataclass(frozen=True, slots=True)
class NodePlaces:
    """Where the host-side parts of VMs lie on one node."""

    image_dir: str
    emulator: str
    uefi_loader: str
    nvram_dir: str
    boot_dirs: tuple[str, ...]
    console_log_dir: str | None
    bridges: Bridges


@dataclass(frozen=True, slots=True)
class Prepared:
    """A VM written for one node."""

    domain_xml: str
    disks: tuple[ReservedDisk, ...]


def prepare(identity: IdentityBundle, *, port_id: UUID, places: NodePlaces) -> Prepared | tuple[Refusal, ...]:
    """Write the VM for a node, or say what forbids it; one refusal per finding."""
    if sha256(identity.domain_xml.encode()).hexdigest() != identity.domain_xml_sha256:
        return (_refusal("identity_differs", "the XML's SHA-256 is not the one in the identity bundle"),)
    try:
        donors = parse(identity.domain_xml)
        facts = describe(donors)
        found = (*_identity_differences(identity.vm, facts), *_forbidden_parts(donors, facts, places))
        if found:
            return found
        disks = tuple(_disks(identity.vm, port_id, places))
        ours = rewrite_for_host(donors, _host_places(identity.vm, facts, disks, port_id, places))
        differences = guest_abi_differences(donors, ours)
        leaks = tuple(_foreign_paths(ours, disks, facts, places, port_id))
    except DomainXmlError as error:
        return (_refusal("domain_xml_invalid", str(error)),)
    changed = tuple(_refusal("guest_abi_changed", each) for each in differences)
    return changed + leaks or Prepared(ours.to_text(), disks)


_RULES = {
    "identity_differs": "The XML is of the very VM that was described and quoted.",
    "domain_xml_invalid": "The XML can be read and rewritten for this host.",
    "vm_blocked": "A VM moves live only if all of it can be moved: no part may be bound to its host.",
    "boot_file_missing": "A VM that boots directly finds kernel and initrd here at the donor's paths.",
    "guest_abi_changed": "The guest sees the same machine before and after.",
    "foreign_host_path": "The VM names no file or service of this host but those that this provider gave it.",
}


def _refusal(code: str, evidence: str) -> Refusal:
    return Refusal(code=code, rule=_RULES[code], evidence=evidence)


def _identity_differences(vm: VmDescription, facts: VmFacts) -> Iterator[Refusal]:
    pairs: dict[str, tuple[object, object]] = {
        "uuid": (str(vm.uuid), facts.uuid),
        "name": (vm.name, facts.name),
        "memory": (vm.memory_bytes, facts.memory_bytes),
        "vcpus": (vm.vcpus, facts.vcpus),
        "architecture": (vm.architecture, facts.arch),
        "machine": (vm.machine, facts.machine),
        "domain type": (vm.domain_type, facts.virt_type),
        "disks": (sorted((d.target, d.format) for d in vm.disks), sorted((d.target, d.format) for d in facts.disks)),
        "MACs": (sorted(nic.mac for nic in vm.nics), sorted(nic.mac for nic in facts.nics)),
    }
    for what, (described, written) in pairs.items():
        if described != written:
            yield _refusal("identity_differs", f"{what}: described as {described}, the XML says {written}")


def _forbidden_parts(domain: Domain, facts: VmFacts, places: NodePlaces) -> Iterator[Refusal]:
    for blocker in facts.blockers:
        yield _refusal("vm_blocked", f"{blocker.code}: {blocker.detail}")
    for path in (facts.kernel, facts.initrd):
        if path is not None and not _is_boot_file(path, places):
            yield _refusal("boot_file_missing", f"{path} is in none of {', '.join(places.boot_dirs) or 'no folders'}")
    for backend in domain.root.findall("devices/rng/backend"):
        if backend.get("model") not in SAFE_RNG_BACKENDS:
            yield _refusal("foreign_host_path", f"a random number generator is fed by {backend.get('model')}")


def _is_boot_file(path: str, places: NodePlaces) -> bool:
    pure = PurePosixPath(path)
    return ".." not in pure.parts and any(str(parent) in places.boot_dirs for parent in pure.parents)


def file_stem(vm_name: str, port_id: UUID) -> str:
    """The part that all files of one VM and port share; the port makes it unique, the name is for people."""
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', vm_name)[:64]}-{port_id}"


def _disks(vm: VmDescription, port_id: UUID, places: NodePlaces) -> Iterator[ReservedDisk]:
    for disk in vm.disks:
        if disk.empty:
            continue
        yield ReservedDisk(
            target=disk.target,
            path=f"{places.image_dir}/{file_stem(vm.name, port_id)}-{disk.target}.{disk.format}",
            format=disk.format,
            virtual_size_bytes=disk.virtual_size_bytes,
            read_only=disk.read_only,
            file_bytes=disk.file_bytes,
        )


def _nvram(facts: VmFacts, port_id: UUID, places: NodePlaces) -> str | None:
    return f"{places.nvram_dir}/{file_stem(facts.name, port_id)}_VARS.fd" if facts.nvram else None


def _console_log(facts: VmFacts, port_id: UUID, places: NodePlaces) -> str | None:
    folder = places.console_log_dir
    return f"{folder}/{file_stem(facts.name, port_id)}-console.log" if folder else None


def _host_places(
    vm: VmDescription, facts: VmFacts, disks: tuple[ReservedDisk, ...], port_id: UUID, places: NodePlaces
) -> HostPlaces:
    return HostPlaces(
        disks={disk.target: disk.path for disk in disks},
        bridges={nic.mac: places.bridges.here(nic.bridge) for nic in vm.nics},
        emulator=places.emulator,
        nvram=_nvram(facts, port_id, places),
        loader=places.uefi_loader if facts.loader else None,
        console_log=_console_log(facts, port_id, places),
    )


def _foreign_paths(
    domain: Domain, disks: tuple[ReservedDisk, ...], facts: VmFacts, places: NodePlaces, port_id: UUID
) -> Iterator[Refusal]:
    """Absolute paths in the result that are not ours, wherever the donor's XML may have put them."""
    ours = {disk.path for disk in disks} | HARMLESS_PATHS | {places.emulator, places.uefi_loader}
    ours |= {path for path in (facts.kernel, facts.initrd) if path}
    ours |= {path for path in (_nvram(facts, port_id, places), _console_log(facts, port_id, places)) if path}
    for child in domain.root:
        if child.tag in WORDS_FOR_PEOPLE:
            continue
        for element in child.iter():
            for value in (element.text, *(str(each) for each in element.attrib.values())):
                path = (value or "").strip()
                if path.startswith("/") and path not in ours:
                    yield _refusal("foreign_host_path", f"<{element.tag}> names {path[:200]}")
