"""The domain XML for a chosen node: host-bound parts are this provider's, what the guest sees is the donor's. Pure.

The donor's XML is foreign input, and must be in its portable form. It must be the VM that was quoted. What is issued is
built from its carried parts and from this provider's places, and its guest ABI is compared with the donor's before the
broker gets an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from uuid import UUID, uuid5

from services.recipient_agent.network_map import CardPlace
from services.recipient_agent.places import HostChoice, NodePlaces, file_stem
from shared.domain import (
    Definition,
    Domain,
    DomainXmlError,
    FirmwarePlace,
    HostPlaces,
    NicPlace,
    VmFacts,
    build_for_host,
    describe,
    guest_abi_differences,
    read_definition,
)
from shared.messages.base import Refusal
from shared.messages.porting import ReservedDisk
from shared.messages.vm import CpuFacts, CpuMode, FirmwareFacts, IdentityBundle, VmDescription

_OWN_ARCHITECTURE = "x86_64"
"""Of every host that VMs are ported to."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A VM written for one node. `lasting_xml` is what it is after its next start; None for a transient one."""

    domain_xml: str
    disks: tuple[ReservedDisk, ...]
    lasting_xml: str | None = None


def prepare(
    identity: IdentityBundle, *, port_id: UUID, places: NodePlaces, choice: HostChoice
) -> Prepared | tuple[Refusal, ...]:
    """Write the VM for a node, or say what forbids it; one refusal per finding."""
    if sha256(identity.domain_xml.encode()).hexdigest() != identity.domain_xml_sha256:
        return (_refusal("identity_differs", "the XML's SHA-256 is not the one in the identity bundle"),)
    vm = identity.vm
    try:
        donors = read_definition(identity.domain_xml)
        facts = describe(donors)
        found = (*_not_portable(donors), *_identity_differences(vm, facts), *_boot_files(vm, places))
        if found:
            return found
        disks = tuple(_disks(vm, port_id, places))
        host = _host_places(vm, facts, disks, port_id, places=places, choice=choice)
        ours = build_for_host(donors, host)
        found = tuple(_refusal("guest_abi_changed", each) for each in guest_abi_differences(donors, ours))
        lasting = _lasting(identity, facts, host)
    except DomainXmlError as error:
        return (_refusal("domain_xml_invalid", str(error)),)
    if found or isinstance(lasting, tuple):
        return (*found, *(lasting if isinstance(lasting, tuple) else ()))
    return Prepared(ours.to_text(), disks, None if lasting is None else lasting.to_text())


_RULES = {
    "identity_differs": "The XML is of the very VM that was described and quoted.",
    "domain_xml_invalid": "The XML can be read and rewritten for this host.",
    "vm_blocked": "A VM moves live only if all of it can be moved: no part may be bound to its host.",
    "boot_file_missing": "A VM that boots directly finds kernel and initrd here at the donor's paths.",
    "guest_abi_changed": "The guest sees the same machine before and after.",
    "not_portable_form": "The XML that leaves a host holds what is carried and nothing of the host.",
}


def _refusal(code: str, evidence: str) -> Refusal:
    return Refusal(code=code, rule=_RULES[code], evidence=evidence)


def _not_portable(definition: Definition) -> Iterator[Refusal]:
    for finding in definition.findings:
        code = "vm_blocked" if finding in definition.blockers else "not_portable_form"
        yield _refusal(code, str(finding))


def _lasting(identity: IdentityBundle, facts: VmFacts, host: HostPlaces) -> Domain | tuple[Refusal, ...] | None:
    """The lasting definition with the live one's places; raises `DomainXmlError`."""
    if identity.lasting_xml is None:
        if identity.vm.persistent:
            return (_refusal("identity_differs", "the VM is lasting, and there is no lasting definition"),)
        return None
    lasting = read_definition(identity.lasting_xml)
    stored = describe(lasting)
    found = tuple(_not_portable(lasting))
    if (stored.uuid, stored.name) != (facts.uuid, facts.name):
        found = (*found, _refusal("identity_differs", f"the lasting definition is of {stored.name} {stored.uuid}"))
    if found:
        return found
    return build_for_host(lasting, replace(host, nics=tuple(_same_cards(stored, facts, host))))


def _same_cards(stored: VmFacts, live: VmFacts, host: HostPlaces) -> Iterator[NicPlace]:
    """The places of the same cards in the live definition; of two with one MAC the first is the first."""
    left = list(zip((nic.mac for nic in live.nics), host.nics, strict=True))
    for nic in stored.nics:
        found = next((each for each in left if each[0] == nic.mac), None)
        if found is None:
            raise DomainXmlError(f"network card {nic.mac} is only in the lasting definition", element="interface")
        left.remove(found)
        yield found[1]


def _identity_differences(vm: VmDescription, facts: VmFacts) -> Iterator[Refusal]:
    pairs: dict[str, tuple[object, object]] = {
        "uuid": (str(vm.uuid), facts.uuid),
        "name": (vm.name, facts.name),
        "memory": (vm.memory_bytes, facts.memory_bytes),
        "vcpus": (vm.vcpus, facts.vcpus),
        "maximum of vcpus": (vm.vcpus_max or vm.vcpus, facts.vcpus_max),
        "architecture": (vm.architecture, facts.arch),
        "machine": (vm.machine, facts.machine),
        "domain type": (vm.domain_type, facts.virt_type),
        "cpu": (_cpu_in_xml(vm.cpu), _cpu_in_xml(facts.cpu)),
        "needs": (sorted(map(str, set(facts.needs) - set(vm.needs))), []),
        "disks": (
            sorted((d.target, d.bus, d.device, d.read_only, d.serial) for d in vm.disks),
            sorted((d.target, d.bus, d.device, d.read_only, d.serial) for d in facts.drives),
        ),
        "memory in files": (vm.memory_file_bytes, sum(file.size_bytes for file in facts.memory_files)),
        "network cards": ([(n.mac, n.model) for n in vm.nics], [(n.mac, n.model) for n in facts.nics]),
        "firmware": (_firmware_kind(vm.firmware_facts), _firmware_kind(facts.firmware_facts)),
    }
    for what, (described, written) in pairs.items():
        if described != written:
            yield _refusal("identity_differs", f"{what}: described as {described}, the XML says {written}")


def _cpu_in_xml(cpu: CpuFacts) -> CpuFacts:
    """As the portable form says it: of a host's model it has the mode, and not what the donor's libvirt made of it."""
    return CpuFacts(mode=cpu.mode) if cpu.mode is CpuMode.HOST_MODEL else cpu


def _firmware_kind(firmware: FirmwareFacts | None) -> str:
    return "none" if firmware is None else f"{firmware.interface}, secure boot: {firmware.secure_boot}"


def _boot_files(vm: VmDescription, places: NodePlaces) -> Iterator[Refusal]:
    for path in (vm.kernel, vm.initrd):
        if path and not places.has_boot_file(path):
            yield _refusal("boot_file_missing", f"{path} is in none of {', '.join(places.boot_dirs) or 'no folders'}")


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


def _firmware(vm: VmDescription, port_id: UUID, places: NodePlaces, choice: HostChoice) -> FirmwarePlace | None:
    chosen = choice.firmware
    if vm.firmware_facts is None or chosen is None:
        return None
    nvram = f"{places.nvram_dir}/{file_stem(vm.name, port_id)}_VARS.fd"
    return FirmwarePlace(
        loader=chosen.loader,
        nvram=nvram if vm.firmware_facts.nvram else None,
        loader_format=chosen.loader_format,
        nvram_format=chosen.template_format,
        template=chosen.template,
        template_format=chosen.template_format,
        features=chosen.features,
    )


def _logs(facts: VmFacts, port_id: UUID, places: NodePlaces) -> dict[str, str]:
    """One file for each serial port, and for each console that is none."""
    found = {port: places.console_log(facts.name, port_id, port) for port in facts.ports}
    return {port: path for port, path in found.items() if path is not None}


def _host_places(
    vm: VmDescription,
    facts: VmFacts,
    disks: tuple[ReservedDisk, ...],
    port_id: UUID,
    *,
    places: NodePlaces,
    choice: HostChoice,
) -> HostPlaces:
    return HostPlaces(
        disks={disk.target: disk.path for disk in disks},
        disk_formats={disk.target: disk.format for disk in disks},
        nics=tuple(_nic(place) for place in choice.cards),
        # The setting names the host's own QEMU; of another architecture libvirt knows which it is.
        emulator=places.emulator if vm.architecture == _OWN_ARCHITECTURE else None,
        firmware=_firmware(vm, port_id, places, choice),
        kernel=vm.kernel or None,
        initrd=vm.initrd or None,
        logs=_logs(facts, port_id, places),
        memory_files={
            file.name: f"{places.image_dir}/{file_stem(vm.name, port_id)}-{file.name.replace(' ', '-')}.img"
            for file in facts.memory_files
        },
        secrets={use.device: uuid5(port_id, f"secret {use.device}") for use in facts.secrets},
    )


def _nic(place: CardPlace) -> NicPlace:
    return NicPlace(
        bridge=place.bridge,
        network=place.network,
        port_group=place.port_group,
        vlan=place.vlan,
        virtualport="openvswitch" if place.openvswitch else "",
        isolated=place.isolated,
    )
