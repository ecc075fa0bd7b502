"""libvirt's domain definitions as values: what a VM is, what of it goes to another host, and what forbids that.

Pure, and safe on foreign input. `table` classifies every element and attribute; `read_definition` finds the row of
each; `portable` is the form that may leave a host, and `build_for_host` writes a VM for another one, from carried parts
and `HostPlaces` alone. It judges no provider's policy and asks no libvirt. Each step reads a document once and passes
the `Definition` or `Domain` on; every function takes that, or text.
"""

from shared.domain.blockers import BlockerCode
from shared.domain.build import build_for_host
from shared.domain.definition import Attribute, Definition, DefinitionSource, Node, read_definition
from shared.domain.describe import PASST_VHOST, describe, next_needs
from shared.domain.differences import guest_abi_differences
from shared.domain.errors import DomainXmlError
from shared.domain.facts import DiskFacts, LayerFacts, MemoryFile, NicFacts, SecretUsage, SecretUse, VmFacts
from shared.domain.findings import Finding, FindingKind
from shared.domain.identity import identity_snapshot
from shared.domain.leaving import Leaving, leaving
from shared.domain.media import without_media_in
from shared.domain.named_files import NamedFile, named_files
from shared.domain.needs import NEXT_MEMORY, NEXT_VCPUS, SECRET, largest_need
from shared.domain.parsing import MAX_XML_BYTES, Domain, DomainSource, parse
from shared.domain.places import FirmwarePlace, HostPlaces, NicPlace
from shared.domain.portable import portable
from shared.domain.taps import has_agent, live_cards, taps_of

__all__ = [
    "MAX_XML_BYTES",
    "NEXT_MEMORY",
    "NEXT_VCPUS",
    "PASST_VHOST",
    "SECRET",
    "Attribute",
    "BlockerCode",
    "Definition",
    "DefinitionSource",
    "DiskFacts",
    "Domain",
    "DomainSource",
    "DomainXmlError",
    "Finding",
    "FindingKind",
    "FirmwarePlace",
    "HostPlaces",
    "LayerFacts",
    "Leaving",
    "MemoryFile",
    "NamedFile",
    "NicFacts",
    "NicPlace",
    "Node",
    "SecretUsage",
    "SecretUse",
    "VmFacts",
    "build_for_host",
    "describe",
    "guest_abi_differences",
    "has_agent",
    "identity_snapshot",
    "largest_need",
    "leaving",
    "live_cards",
    "named_files",
    "next_needs",
    "parse",
    "portable",
    "read_definition",
    "taps_of",
    "without_media_in",
]
