"""Whether a VM's definitions can be written for another host, tried before anybody is asked to take it. Pure.

What fails here would fail at the recipient, after its quote; so it is a finding of the donor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from shared.domain.build import CHARACTER_DEVICES, build_for_host
from shared.domain.definition import Definition, DefinitionSource, read_definition
from shared.domain.describe import describe
from shared.domain.differences import guest_abi_differences
from shared.domain.errors import DomainXmlError
from shared.domain.facts import VmFacts
from shared.domain.findings import Finding, FindingKind
from shared.domain.media import medium_blockers, without_media_in
from shared.domain.parsing import MAX_XML_BYTES
from shared.domain.pending import pending_changes
from shared.domain.places import FirmwarePlace, HostPlaces, NicPlace
from shared.domain.portable import portable


@dataclass(frozen=True, slots=True)
class Leaving:
    """A VM's definitions in their portable forms, and what was found besides what reading the live one finds."""

    domain_xml: str
    lasting_xml: str | None
    findings: tuple[Finding, ...]


def leaving(live: DefinitionSource, lasting: DefinitionSource | None) -> Leaving:
    """Try it. `lasting` is what the VM is after its next start, None for a transient one. Raises `DomainXmlError` where
    the live one is malformed or too large.
    """
    definition = read_definition(live)
    facts = describe(definition)
    # A medium that may stay behind speaks against the VM; the rest of it is tried all the same.
    tried = without_media_in(definition, _bad_media(definition)) if definition.blockers else definition
    findings = [] if tried.blockers else list(_proof(tried, describe(tried)))
    lasting_xml = None
    if lasting is not None:
        try:
            stored = read_definition(lasting)
            lasting_xml = portable(stored)
            new = tuple(finding for finding in stored.blockers if finding not in definition.blockers)
            found = list(_lasting(new, describe(stored), facts))
            found += () if found else pending_changes(stored, definition)
            bare = without_media_in(stored) if stored.blockers else stored
            blocked = bare.blockers or any(finding.kind is FindingKind.BLOCKS for finding in found)
            findings += found if blocked else [*found, *_can_be_built(bare, describe(bare))]
        except DomainXmlError as error:
            findings.append(_blocks("lasting_unreadable", f"the lasting definition cannot be read: {error}"))
    # Where it speaks against the VM, it leaves without that medium or not at all.
    return Leaving(portable(definition if tried.blockers else tried), lasting_xml, tuple(findings))


def _bad_media(definition: Definition) -> tuple[str, ...]:
    """Drives whose medium has a blocker of its own."""
    return tuple(target for target, found in medium_blockers(definition).items() if found)


def _blocks(code: str, detail: str, part: str = "definition") -> Finding:
    return Finding(code, FindingKind.BLOCKS, part, detail)


def _without_source(facts: VmFacts) -> tuple[Finding, ...]:
    """A disk that is no drive has contents; in a definition with a path for each."""
    without = (each.target for each in facts.drives if each.device == "disk" and not each.source)
    return tuple(_blocks("disk_kind", "it has no source", f"disk {target}") for target in without)


def _proof(definition: DefinitionSource, facts: VmFacts) -> Iterator[Finding]:
    if without := _without_source(facts):
        yield from without
        return
    try:
        text = portable(definition)
        if len(text.encode()) > MAX_XML_BYTES:
            yield _blocks("too_large", f"its portable form has more than {MAX_XML_BYTES} bytes")
            return
        again = read_definition(text)
        for finding in again.findings:
            yield _blocks("not_portable", f"its portable form is not one: {finding}")
        for difference in guest_abi_differences(definition, build_for_host(again, _anywhere(facts)))[:5]:
            yield _blocks("not_portable", f"written for another host it would differ: {difference}")
    except DomainXmlError as error:
        yield _blocks("not_portable", f"it cannot be written for another host: {error}")


def _can_be_built(stored: DefinitionSource, facts: VmFacts) -> Iterator[Finding]:
    if _without_source(facts):
        return  # named already
    try:
        build_for_host(portable(stored), _anywhere(facts))
    except DomainXmlError as error:
        yield _blocks("not_portable", f"the lasting definition cannot be written for another host: {error}")


def _anywhere(facts: VmFacts) -> HostPlaces:
    """Some place for everything."""
    return HostPlaces(
        disks={drive.target: f"/{drive.target}" for drive in facts.disks},
        nics=tuple(NicPlace(bridge="br") for _ in facts.nics),
        emulator="/emulator",
        firmware=FirmwarePlace("/loader", "/nvram") if facts.firmware_facts is not None else None,
        kernel="/kernel" if facts.kernel else None,
        initrd="/initrd" if facts.initrd else None,
        memory_files={file.name: "/memory" for file in facts.memory_files},
        secrets={use.device: UUID(int=0) for use in facts.secrets},
        logs={f"{kind} 0": "/log" for kind in CHARACTER_DEVICES},
    )


def _lasting(blockers: tuple[Finding, ...], stored: VmFacts, live: VmFacts) -> Iterator[Finding]:
    for finding in blockers:
        yield _blocks(finding.code, f"in the lasting definition: {finding.detail}", finding.part)
    if (stored.uuid, stored.name) != (live.uuid, live.name):
        yield _blocks("pending_identity", f"the lasting definition is of {stored.name} {stored.uuid}")
    known = {drive.target for drive in live.drives}
    told = _without_source(live)
    for finding in _without_source(stored):
        if finding not in told:
            yield _blocks(finding.code, f"in the lasting definition: {finding.detail}", finding.part)
    # Their contents and networks are those of nothing that runs, so that nobody can say what they are at the recipient.
    for target in sorted({drive.target for drive in stored.disks} - known):
        yield _blocks(
            "pending_disk", "it is only in the lasting definition; start the VM with it, or remove it", f"disk {target}"
        )
    for file in sorted(
        {(each.name, each.size_bytes) for each in stored.memory_files}
        - {(each.name, each.size_bytes) for each in live.memory_files}
    ):
        yield _blocks(
            "pending_memory", "it is only in the lasting definition; start the VM with it, or remove it", file[0]
        )
    for mac in Counter(nic.mac for nic in stored.nics) - Counter(nic.mac for nic in live.nics):
        yield _blocks(
            "pending_network_card",
            "it is only in the lasting definition; start the VM with it, or remove it",
            f"network card {mac}",
        )
