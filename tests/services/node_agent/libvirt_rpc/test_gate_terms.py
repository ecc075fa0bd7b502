"""What may pass the gate, check by check."""

from __future__ import annotations

from uuid import UUID

import pytest

from services.node_agent.libvirt_rpc.gate_terms import (
    LIVE,
    NON_SHARED_DISK,
    NON_SHARED_INC,
    PEER2PEER,
    SYSTEM_DRIVER,
    Expected,
    GateRefusal,
    check_cookie,
    checked_open,
)
from services.node_agent.libvirt_rpc.messages import OpenCall, RpcError
from services.node_agent.libvirt_rpc.testing import RpcFailed
from services.node_agent.libvirt_rpc.xdr import XdrError
from shared.errors import VmportError

VM = UUID(int=9)
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
        cookie(inside="<nbd port='1'><disk target='vda' capacity='5'/></nbd>"),
        cookie(inside="<nbd port='1'><disk target='vdb' capacity='1048576'/></nbd>"),
    ],
)
def test_a_cookie_speaks_of_the_agreed_vm_only(data: bytes) -> None:
    """Of its disks and sizes, and of nothing else."""
    check_cookie(cookie(inside="<nbd port='1'><disk target='vda' capacity='1048576'/></nbd>"), EXPECTED)
    with pytest.raises(GateRefusal) as raised:
        check_cookie(data, EXPECTED)
    assert raised.value.code == "rpc_cookie"


def test_errors_have_one_root_and_a_code() -> None:
    """Each says by its code what kind it is; a refusal by the code of the rule that it broke."""
    errors = [RpcError("x"), XdrError("x"), RpcFailed("x"), GateRefusal("rpc_flags", "flags 0x1")]
    assert all(isinstance(error, VmportError) for error in errors)
    assert [error.code for error in errors] == ["rpc_unreadable", "xdr_unreadable", "rpc_failed", "rpc_flags"]
    assert str(errors[-1]) == "the RPC gate refused the donor's hypervisor: flags 0x1"
