"""libvirt domain XML as values: what a VM is, what forbids porting it, and the same VM written for another host.

Pure, and safe on foreign input. Node agents read live XML with it and hold the RPC gate to it; recipient agents rewrite
with it. It judges no provider's policy and asks no libvirt. Each step reads a document once (`parse`) and passes the
`Domain` on; every function takes that, or text.
"""

from shared.domain.blockers import Blocker, BlockerCode
from shared.domain.describe import DiskFacts, LayerFacts, NicFacts, VmFacts, describe
from shared.domain.differences import guest_abi_differences
from shared.domain.ejecting import ejected_targets, not_ejectable, without_media
from shared.domain.errors import DomainXmlError
from shared.domain.identity import identity_snapshot
from shared.domain.named_files import NamedFile, named_files
from shared.domain.parsing import MAX_XML_BYTES, Domain, DomainSource, parse
from shared.domain.rewrite import HostPlaces, rewrite_for_host

__all__ = [
    "MAX_XML_BYTES",
    "Blocker",
    "BlockerCode",
    "DiskFacts",
    "Domain",
    "DomainSource",
    "DomainXmlError",
    "HostPlaces",
    "LayerFacts",
    "NamedFile",
    "NicFacts",
    "VmFacts",
    "describe",
    "ejected_targets",
    "guest_abi_differences",
    "identity_snapshot",
    "named_files",
    "not_ejectable",
    "parse",
    "rewrite_for_host",
    "without_media",
]
