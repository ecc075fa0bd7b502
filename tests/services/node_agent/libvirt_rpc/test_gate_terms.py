"""What may pass the gate, check by check."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from lxml import etree

from services.node_agent.libvirt_rpc.gate_terms import (
    LIVE,
    NON_SHARED_DISK,
    NON_SHARED_INC,
    PEER2PEER,
    SYSTEM_DRIVER,
    Expected,
    GateRefusal,
    checked_cookie,
    checked_finish,
    checked_open,
    checked_prepare,
)
from services.node_agent.libvirt_rpc.messages import (
    FinishCall,
    OpenCall,
    ParamType,
    PrepareCall,
    RpcError,
    TypedParam,
)
from services.node_agent.libvirt_rpc.testing import RpcFailed
from services.node_agent.libvirt_rpc.xdr import XdrError
from shared.errors import VmportError

VM = UUID("11111111-2222-3333-4444-5555555abcde")
EXPECTED = Expected(VM, "web", "<domain/>", {"vda": 1 << 20}, "unix:///m", "unix:///d")


def cookie(uuid: UUID = VM, inside: str = "", tag: str = "qemu-migration") -> bytes:
    return f"<{tag}><uuid>{uuid}</uuid>{inside}</{tag}>".encode() + b"\0"


@pytest.mark.parametrize("disks", [True, False])
@pytest.mark.parametrize("overlays", [True, False])
def test_the_flags_follow_the_disks(disks: bool, overlays: bool) -> None:  # noqa: FBT001  # a table
    """Whole disks and top layers need different flags, a VM without disks neither."""
    expected = Expected(VM, "web", "", {"vda": 1} if disks else {}, "", "", overlays=overlays)
    copied = (NON_SHARED_INC if overlays else NON_SHARED_DISK) if disks else 0
    assert expected.required_flags == LIVE | PEER2PEER | copied


@pytest.mark.parametrize("call", [OpenCall("test:///default", 0), OpenCall(None, 0), OpenCall(SYSTEM_DRIVER, 1)])
def test_only_the_systems_driver_is_opened(call: OpenCall) -> None:
    """Without flags."""
    assert checked_open(OpenCall(SYSTEM_DRIVER, 0)) == OpenCall(SYSTEM_DRIVER, 0)
    with pytest.raises(GateRefusal) as raised:
        checked_open(call)
    assert raised.value.code == "rpc_open"


@pytest.mark.parametrize(
    "data",
    [
        b"no xml",
        cookie(tag="other"),
        cookie(UUID(int=1)),
        cookie(inside="<domain/>"),
        b"<qemu-migration/>",
        cookie(inside="<nbd port='1'><disk capacity='1048576'/></nbd>"),
        cookie(inside="<nbd port='1'><disk target='vda'/></nbd>"),
        cookie(inside="<nbd port='1'><disk target='vdb' capacity='None'/></nbd>"),
        cookie(inside="<nbd port='1'><disk capacity='None'/></nbd>"),
        f"<!DOCTYPE q [<!ENTITY e '{VM}'>]><qemu-migration><uuid>&e;</uuid></qemu-migration>".encode(),
        b"<!DOCTYPE qemu-migration>" + cookie(),
        cookie(inside="<nbd port='1'><disk target='vda' capacity='5'/></nbd>"),
        cookie(inside="<nbd port='1'><disk target='vdb' capacity='1048576'/></nbd>"),
    ],
)
def test_a_cookie_speaks_of_the_agreed_vm_only(data: bytes) -> None:
    """Of its disks and sizes, and of nothing else."""
    checked_cookie(cookie(inside="<nbd port='1'><disk target='vda' capacity='1048576'/></nbd>"), EXPECTED)
    with pytest.raises(GateRefusal) as raised:
        checked_cookie(data, EXPECTED)
    assert raised.value.code == "rpc_cookie"


def test_a_cookie_lists_disks_that_are_not_copied() -> None:
    """libvirt tells the sizes of read-only disks and media, too; but to copy one of them is refused."""
    expected = replace(EXPECTED, not_copied=frozenset({"sda"}))
    listed = "<nbd port='1'><disk target='vda' capacity='1048576'/><disk target='sda' capacity='5'/></nbd>"
    checked_cookie(cookie(inside=listed), expected)
    with pytest.raises(GateRefusal):
        checked_cookie(cookie(inside=listed), EXPECTED)
    assert "sda" not in expected.disks


def test_a_cookie_may_write_the_uuid_in_capitals_and_end_in_nothing() -> None:
    """libvirt's own cookie ends with a zero byte."""
    checked_cookie(cookie().replace(str(VM).encode(), str(VM).upper().encode()), EXPECTED)
    checked_cookie(cookie().rstrip(b"\0"), EXPECTED)


def test_ports_of_the_donors_switch_stay_behind() -> None:
    """libvirt takes them for the VM's cards, one by one, however many there are; all else passes as it came."""
    port = "<interface index='0' vporttype='openvswitch'><portdata>theirs</portdata></interface>"
    inside = "<nbd port='1'><disk target='vda' capacity='1048576'/></nbd>"
    passed = checked_cookie(cookie(inside=f"<network>{port * 9}</network>{inside}<network/>"), EXPECTED)

    assert etree.fromstring(passed.rstrip(b"\0")).xpath("name(*[2])") == "nbd"
    assert b"network" not in passed
    assert passed.endswith(b"\0")
    untouched = cookie(inside=inside)
    assert checked_cookie(untouched, EXPECTED) == untouched


def test_a_call_passes_without_the_ports() -> None:
    """Both that carry a cookie."""
    data = cookie(inside="<network><interface index='0' vporttype='openvswitch'/></network>")
    expected = replace(EXPECTED, domain_xml="<domain type='qemu'><name>web</name></domain>")
    xml = TypedParam("destination_xml", ParamType.STRING, expected.domain_xml)
    flags = LIVE | PEER2PEER | NON_SHARED_DISK
    prepare = checked_prepare(PrepareCall((*MINIMAL, DISKS_URI, xml), data, flags), expected)
    finish = checked_finish(FinishCall((*MINIMAL, DISKS_URI), data, flags, cancelled=False), expected)
    assert b"network" not in prepare.cookie + finish.cookie


@pytest.mark.parametrize("entity", ["internal", "external"])
def test_a_cookie_reads_nothing_but_itself(entity: str, tmp_path: Path) -> None:
    """No entity is resolved, wherever it is declared."""
    (tmp_path / "uuid").write_text(str(VM))
    value = f"'{VM}'" if entity == "internal" else f"SYSTEM '{tmp_path}/uuid'"
    data = f"<!DOCTYPE q [<!ENTITY e {value}>]><qemu-migration><uuid>&e;</uuid></qemu-migration>".encode()
    with pytest.raises(GateRefusal, match="document type"):
        checked_cookie(data, EXPECTED)


MINIMAL = (TypedParam("migrate_uri", ParamType.STRING, EXPECTED.memory_uri),)
DISKS_URI = TypedParam("disks_uri", ParamType.STRING, EXPECTED.disks_uri)


def test_finish_needs_no_domain_xml() -> None:
    """It may carry it: libvirt sends it where the domain is to be persistent."""
    call = FinishCall((*MINIMAL, DISKS_URI), b"", LIVE | PEER2PEER | NON_SHARED_DISK, cancelled=False)
    assert checked_finish(call, EXPECTED) == call


def test_a_disks_uri_is_needed_where_there_are_disks_and_only_there() -> None:
    """And it is this port's own."""
    finish = FinishCall(MINIMAL, b"", LIVE | PEER2PEER | NON_SHARED_DISK, cancelled=False)
    with pytest.raises(GateRefusal, match="missing: disks_uri"):
        checked_finish(finish, EXPECTED)
    without = replace(EXPECTED, disks={})
    assert checked_finish(replace(finish, flags=LIVE | PEER2PEER), without).params == MINIMAL
    other = (*MINIMAL, replace(DISKS_URI, value="unix:///run/other.sock"))
    with pytest.raises(GateRefusal, match="disks_uri is 'unix:///run/other"):
        checked_finish(replace(finish, params=other), EXPECTED)


def test_what_is_not_the_agreed_vm_is_named() -> None:
    """At most five differences, and why XML cannot be read."""
    flags = LIVE | PEER2PEER | NON_SHARED_DISK
    many = "".join(f"<controller type='scsi' index='{number}' model='lsilogic'/>" for number in range(9))
    agreed = f"<domain type='qemu'><name>web</name><devices>{many}</devices></domain>"
    expected = replace(EXPECTED, domain_xml=agreed)

    def prepare(xml: str) -> PrepareCall:
        return PrepareCall((*MINIMAL, DISKS_URI, TypedParam("destination_xml", ParamType.STRING, xml)), cookie(), flags)

    with pytest.raises(GateRefusal) as unreadable:
        checked_prepare(prepare("<domain"), expected)
    assert unreadable.value.detail not in {"", "None", None}
    strange = agreed.replace("lsilogic", "virtio-scsi")
    with pytest.raises(GateRefusal, match="not the VM that was agreed") as differs:
        checked_prepare(prepare(strange), expected)
    assert len(differs.value.detail.split("; ")) == 5


def test_errors_have_one_root_and_a_code() -> None:
    """Each says by its code what kind it is; a refusal by the code of the rule that it broke."""
    errors = [RpcError("x"), XdrError("x"), RpcFailed("x"), GateRefusal("rpc_flags", "flags 0x1")]
    assert all(isinstance(error, VmportError) for error in errors)
    assert [error.code for error in errors] == ["rpc_unreadable", "xdr_unreadable", "rpc_failed", "rpc_flags"]
    assert str(errors[-1]) == "the RPC gate refused the donor's hypervisor: flags 0x1"
