"""What may pass the RPC gate: flags, parameters, the VM and the cookie, held against what was agreed. Pure.

Rules 2 to 4 of `gate`: each check returns the call as it may pass, with the recipient's own domain XML in it, or raises
`GateRefusal`. In which order calls may come is the gate's own matter.

Sources: libvirt's include/libvirt/libvirt-domain.h (virDomainMigrateFlags, VIR_MIGRATE_PARAM_*),
src/libvirt_internal.h (VIR_DRV_FEATURE_*), src/qemu/qemu_migration_cookie.c (the cookie's elements).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from lxml import etree

from services.node_agent.libvirt_rpc.messages import FinishCall, OpenCall, PrepareCall, TypedParam
from shared.domain import DomainXmlError, guest_abi_differences
from shared.errors import VmportError

LIVE, PEER2PEER, NON_SHARED_DISK, NON_SHARED_INC = 1 << 0, 1 << 1, 1 << 6, 1 << 7
ABORT_ON_ERROR, AUTO_CONVERGE, POSTCOPY = 1 << 12, 1 << 13, 1 << 15
OPTIONAL_FLAGS = ABORT_ON_ERROR | AUTO_CONVERGE | POSTCOPY

SYSTEM_DRIVER = "qemu:///system"

PASSED_FEATURES = frozenset({4, 6, 8, 10, 11, 13, 14, 15})
"""VIR_DRV_FEATURE_*: MIGRATION_P2P, MIGRATION_V3, XML_MIGRATABLE, PROGRAM_KEEPALIVE, MIGRATION_OFFLINE,
MIGRATION_PARAMS, REMOTE_EVENT_CALLBACK, REMOTE_CLOSE_CALLBACK. Any other (file descriptors, typed strings) is answered
with no."""

PASSED_PARAMS = frozenset(
    {
        "destination_name",
        "destination_xml",
        "migrate_uri",
        "disks_uri",
        "migrate_disks",
        "bandwidth",
        "bandwidth.postcopy",
        "bandwidth.avail.switchover",
        "auto_converge.initial",
        "auto_converge.increment",
    }
)

PASSED_COOKIE_ELEMENTS = frozenset(
    {
        "name",
        "uuid",
        "hostname",
        "hostuuid",
        "feature",
        "lockstate",
        "graphics",
        "network",
        "nbd",
        "statistics",
        "cpu",
        "allowReboot",
        "capabilities",
    }
)
"""Children of <qemu-migration>. <domain>, the persistent definition, is not among them."""


class GateRefusal(VmportError):
    """The donor's libvirtd asked for something that does not pass."""

    code = "rpc_refused"

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"the RPC gate refused the donor's hypervisor: {detail}")


@dataclass(frozen=True, slots=True)
class Expected:
    """What was agreed about this port: the gate lets nothing else pass. `disks` maps target to virtual size in
    bytes, of those that libvirt copies; `not_copied` are the VM's other drives."""

    vm_uuid: UUID
    vm_name: str
    domain_xml: str
    disks: Mapping[str, int]
    memory_uri: str
    disks_uri: str
    not_copied: frozenset[str] = frozenset()
    overlays: bool = False
    """The disks here are overlays and take top layers only."""

    @property
    def required_flags(self) -> int:
        """Migration flags that must be there."""
        copied = NON_SHARED_INC if self.overlays else NON_SHARED_DISK
        return LIVE | PEER2PEER | (copied if self.disks else 0)


def checked_open(call: OpenCall) -> OpenCall:
    """The call, if it opens this host's own driver and nothing else. Raises `GateRefusal`."""
    if call.flags != 0:
        raise GateRefusal("rpc_open", f"the connection is opened with flags {call.flags:#x}")
    # The client strips transport and socket from the URI, so an honest donor always sends exactly this.
    if call.name != SYSTEM_DRIVER:
        raise GateRefusal("rpc_open", f"the driver {call.name!r} is asked for; only {SYSTEM_DRIVER} is")
    return call


def checked_prepare(call: PrepareCall, expected: Expected) -> PrepareCall:
    """The call, with the recipient's own domain XML. Raises `GateRefusal` for another VM than agreed."""
    _check_flags(call.flags, expected)
    params = _checked_params(call.params, expected, xml_required=True)
    return replace(call, params=params, cookie=checked_cookie(call.cookie, expected))


def checked_finish(call: FinishCall, expected: Expected) -> FinishCall:
    """The call, with the recipient's own domain XML if it carries one. Raises `GateRefusal`."""
    _check_flags(call.flags, expected)
    params = _checked_params(call.params, expected, xml_required=False)
    cookie = checked_cookie(call.cookie, expected) if call.cookie else call.cookie
    return replace(call, params=params, cookie=cookie)


def _check_flags(flags: int, expected: Expected) -> None:
    required = expected.required_flags
    if flags & ~OPTIONAL_FLAGS != required:
        raise GateRefusal(
            "rpc_flags",
            f"migration flags {flags:#x}; {required:#x} are needed and {OPTIONAL_FLAGS:#x} allowed, too",
        )


def _checked_params(
    params: tuple[TypedParam, ...], expected: Expected, *, xml_required: bool
) -> tuple[TypedParam, ...]:
    exact = {
        "destination_name": expected.vm_name,
        "migrate_uri": expected.memory_uri,
        "disks_uri": expected.disks_uri,
    }
    checked: list[TypedParam] = []
    for param in params:
        if param.field not in PASSED_PARAMS:
            raise GateRefusal("rpc_parameter", f"migration parameter {param.field!r}")
        if param.field in exact and param.value != exact[param.field]:
            raise GateRefusal("rpc_parameter", f"{param.field} is {param.value!r}, agreed is {exact[param.field]!r}")
        # This field occurs once for each disk.
        if param.field == "migrate_disks" and param.value not in expected.disks:
            raise GateRefusal("rpc_parameter", f"disk {param.value!r} is not part of the agreement")
        checked.append(_substituted(param, expected) if param.field == "destination_xml" else param)
    fields = {param.field for param in params}
    needed = {"migrate_uri"} | ({"destination_xml"} if xml_required else set())
    needed |= {"disks_uri"} if expected.disks else set()
    if missing := needed - fields:
        raise GateRefusal("rpc_parameter", f"migration parameters are missing: {', '.join(sorted(missing))}")
    return tuple(checked)


def _substituted(param: TypedParam, expected: Expected) -> TypedParam:
    try:
        differences = guest_abi_differences(expected.domain_xml, str(param.value))
    except DomainXmlError as error:
        raise GateRefusal("rpc_domain_xml", str(error)) from error
    if differences:
        raise GateRefusal("rpc_domain_xml", "this is not the VM that was agreed: " + "; ".join(differences[:5]))
    return replace(param, value=expected.domain_xml)


def checked_cookie(cookie: bytes, expected: Expected) -> bytes:
    """libvirt's migration cookie as it may pass. Raises `GateRefusal` unless it speaks of the agreed VM, disks and
    sizes, and of nothing else.

    What the donor's virtual switch knows of the cards' ports is left out: the recipient's switch makes its own ports.
    libvirt would hand it to that switch, and takes it on trust that there are no more ports than cards.
    """
    # lxml's other defaults are the safe ones: no network, no external DTD, no huge trees.
    parser = etree.XMLParser(resolve_entities=False)
    try:
        # libvirt sends the cookie as a C string, with the NUL at its end.
        root = etree.fromstring(cookie.rstrip(b"\0"), parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise GateRefusal("rpc_cookie", f"the migration cookie is not readable: {error}") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise GateRefusal("rpc_cookie", "the migration cookie has a document type")
    if root.tag != "qemu-migration":
        raise GateRefusal("rpc_cookie", f"the migration cookie is a <{root.tag!s}>")
    strange = sorted({str(child.tag) for child in root} - PASSED_COOKIE_ELEMENTS)
    if strange:
        raise GateRefusal("rpc_cookie", f"the migration cookie has {', '.join(strange)}")
    if (root.findtext("uuid") or "").lower() != str(expected.vm_uuid):
        raise GateRefusal("rpc_cookie", f"the migration cookie is of VM {root.findtext('uuid')}")
    for disk in root.findall("nbd/disk"):
        target, capacity = disk.get("target"), disk.get("capacity")
        if target in expected.not_copied:
            # libvirt lists read-only disks and media, too, and copies none of them.
            continue
        size_bytes = expected.disks.get(str(target))
        if size_bytes is None or capacity != str(size_bytes):
            raise GateRefusal("rpc_cookie", f"disk {target!r} of {capacity} bytes is not part of the agreement")
    ports = root.findall("network")
    if not ports:
        return cookie
    for each in ports:
        root.remove(each)
    return etree.tostring(root) + b"\0"
