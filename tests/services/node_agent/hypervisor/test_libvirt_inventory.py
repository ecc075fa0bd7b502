"""The list of a host's VMs, with one among them that breaks in every way that a VM can."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

libvirt = pytest.importorskip("libvirt")

from services.node_agent.hypervisor.libvirt_inventory import ASK_AGAIN_S, LibvirtInventory  # noqa: E402  # as above
from shared.messages.vm import VmState  # noqa: E402

# ruff: noqa: N802, ARG002 - the names and arguments are libvirt's

MAC = "52:54:00:00:00:01"
GOOD, BAD = UUID(int=5), UUID(int=6)
XML = """<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='KiB'>65536</memory>
<vcpu>2</vcpu><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os><devices>{devices}</devices></domain>"""
RBD = """<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='pool/image'>
<host name='mon.example'/></source><target dev='vda' bus='virtio'/></disk>"""


class LibvirtError(libvirt.libvirtError):  # type: ignore[misc, name-defined]  # the binding has no types
    """An error as libvirtd gives it."""

    def __init__(self, code: int) -> None:
        self.err = (code, 10, f"error {code}", 2, "", "", "", -1, -1)


class Domain:
    """A VM; `answers` says what it does otherwise: a value, or an error that is raised."""

    def __init__(self, uuid: UUID, devices: str = "", **answers: Any) -> None:
        self.uuid = uuid
        self.answers = {"xml": XML.format(name=f"vm {uuid.int} ", uuid=uuid, devices=devices), **answers}

    def _answer(self, what: str, otherwise: Any = None) -> Any:
        answer = self.answers.get(what, otherwise)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def UUIDString(self) -> str:
        """Always."""
        return str(self.uuid)

    def name(self) -> str:
        """With a blank at its end, as libvirt keeps it."""
        return f"vm {self.uuid.int} "

    def state(self) -> list[int]:
        """Running, mostly."""
        state: list[int] = self._answer("state", [libvirt.VIR_DOMAIN_RUNNING, 1])
        return state

    def info(self) -> list[int]:
        """State, most memory, memory, vCPUs, time."""
        info: list[int] = self._answer("info", [libvirt.VIR_DOMAIN_RUNNING, 1024, 512, 3, 0])
        return info

    def controlInfo(self, flags: int = 0) -> list[int]:
        """Free, mostly."""
        control: list[int] = self._answer("control", [libvirt.VIR_DOMAIN_CONTROL_OK, 0, 0])
        return control

    def XMLDesc(self, flags: int) -> str:
        """Its definition."""
        xml: str = self._answer("xml")
        return xml


class Connection:
    """A host with these VMs, and no storage pool."""

    def __init__(self, *domains: Domain, alive: bool = True) -> None:
        self.domains, self.alive = domains, alive

    def listAllDomains(self) -> tuple[Domain, ...]:
        """All of them."""
        return self.domains

    def isAlive(self) -> int:
        """Whether libvirtd is there."""
        return int(self.alive)

    def storagePoolLookupByName(self, name: str) -> None:
        """There is none."""
        raise LibvirtError(libvirt.VIR_ERR_NO_STORAGE_POOL)


def listed(inventory: LibvirtInventory, *domains: Domain) -> dict[UUID, Any]:
    """The list of these, by UUID."""
    return {vm.uuid: vm for vm in inventory.read(Connection(*domains))}  # type: ignore[arg-type]  # as much as is used


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"xml": "<domain><broken"}, "domain_xml: "),
        ({"xml": "<domain>" + "x" * 2_000_000 + "</domain>"}, "bytes"),
        ({"xml": XML.format(name="x", uuid=BAD, devices="<interface><mac address='x'/></interface>")}, "MAC"),
        ({"xml": RuntimeError("nobody thought of this")}, "nobody thought of this"),
        ({"xml": LibvirtError(libvirt.VIR_ERR_INTERNAL_ERROR)}, "libvirt: error"),
    ],
)  # fmt: skip
def test_one_vm_that_cannot_be_read_is_one_entry(answers: dict[str, Any], reason: str) -> None:
    """With its name as it is, libvirt's own figures and the reason; what it takes on disk is unknown, not nothing."""
    found = listed(LibvirtInventory(), Domain(BAD, **answers), Domain(GOOD))
    assert (found[GOOD].problem, found[GOOD].vcpus, found[GOOD].unsized_disks) == ("", 2, ())
    bad = found[BAD]
    assert reason in bad.problem
    assert (bad.name, bad.state, bad.memory_bytes, bad.vcpus) == ("vm 6 ", VmState.RUNNING, 1 << 20, 3)
    assert bad.unsized_disks == ("all",)


def test_a_vm_of_which_nothing_is_known_is_still_there() -> None:
    """Unless it is gone."""
    error = LibvirtError(libvirt.VIR_ERR_INTERNAL_ERROR)
    found = listed(LibvirtInventory(), Domain(BAD, state=error, info=error))
    assert (found[BAD].state, found[BAD].vcpus) == (VmState.OTHER, 0)
    gone = LibvirtError(libvirt.VIR_ERR_NO_DOMAIN)
    assert listed(LibvirtInventory(), Domain(BAD, xml=gone), Domain(GOOD, xml="<", info=gone)) == {}


@pytest.mark.parametrize(
    "change",
    [
        ("<memory unit='KiB'>65536", "<memory unit='TiB'>999999999999"),
        ("<uuid>", "<uuid>x"),
        ("<vcpu>", "<vcpu current='0'>"),
        ("</devices>", "<disk><target dev='nvme0n1'/><serial>" + "s" * 5000 + "</serial></disk></devices>"),
        ("</devices>", f"<interface><mac address='{MAC}'/><vlan><tag id='5000'/></vlan></interface></devices>"),
        ("</devices>", "".join(f"<sound model='m{i}'/>" for i in range(600)) + "</devices>"),
    ],
)
def test_a_value_that_no_message_holds_ends_no_list(change: tuple[str, str]) -> None:
    """Whether the VM is listed or named as unreadable, and libvirt's own figure may be too large as well."""
    xml = XML.format(name="vm", uuid=BAD, devices="").replace(*change)
    huge = [libvirt.VIR_DOMAIN_RUNNING, 2**63, 512, 3, 0]

    found = listed(LibvirtInventory(), Domain(BAD, xml=xml, info=huge), Domain(GOOD))

    assert set(found) == {BAD, GOOD}
    assert found[GOOD].problem == ""


def test_a_libvirtd_that_is_gone_is_no_problem_of_a_vm() -> None:
    """The list as a whole fails, so the last one holds."""
    broken = Connection(Domain(BAD, xml=LibvirtError(libvirt.VIR_ERR_RPC)), alive=False)
    with pytest.raises(libvirt.libvirtError):
        LibvirtInventory().read(broken)  # type: ignore[arg-type]  # as much as is used


def test_a_vm_whose_qemu_hangs_is_listed_as_it_was() -> None:
    """With the problem when that lasts; its definition is not asked for, which would take half a minute."""
    inventory = LibvirtInventory()
    occupied = libvirt.VIR_DOMAIN_CONTROL_OCCUPIED
    listed(inventory, Domain(GOOD))
    never = RuntimeError("its XML was asked for")
    busy = listed(inventory, Domain(GOOD, control=[occupied, 0, 1000], xml=never))[GOOD]
    assert (busy.vcpus, busy.problem) == (2, "")
    hung = listed(inventory, Domain(GOOD, control=[occupied, 0, 60_000], xml=never))[GOOD]
    assert (hung.vcpus, "does not answer" in hung.problem) == (2, True)
    assert listed(inventory, Domain(GOOD))[GOOD].problem == ""
    new = listed(LibvirtInventory(), Domain(GOOD, control=[occupied, 0, 1000], xml=never))[GOOD]
    assert (new.vcpus, "does not answer" in new.problem) == (3, True)


def test_an_arriving_vm_is_listed_when_it_runs_and_a_leaving_one_stays() -> None:
    """While it is paused by its migration, its definition waits for the migration's lock."""
    inventory = LibvirtInventory()
    moving = Domain(GOOD, state=[libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION])
    assert listed(inventory, moving) == {}
    listed(inventory, Domain(GOOD))
    assert listed(inventory, moving)[GOOD].state is VmState.PAUSED


def test_the_size_of_a_network_disk_is_asked_for_once() -> None:
    """Until it is told it is named as unknown; one that is not told is left alone for a while."""
    inventory = LibvirtInventory()
    vm = Domain(GOOD, RBD)
    assert listed(inventory, vm)[GOOD].unsized_disks == ("vda",)
    (question,) = inventory.unsized(1000.0)
    assert (question.vm_uuid, question.target, question.name) == (GOOD, "vda", "pool/image")
    assert inventory.unsized(1000.0 + ASK_AGAIN_S - 1) == ()
    assert inventory.unsized(1000.0 + ASK_AGAIN_S) == (question,)
    inventory.sized(question, 1 << 30)
    found = listed(inventory, vm)[GOOD]
    assert (found.disk_bytes, found.unsized_disks) == (1 << 30, ())
    assert inventory.unsized(9000.0) == ()
    listed(inventory)
    assert listed(inventory, vm)[GOOD].unsized_disks == ("vda",)


def test_a_missing_image_and_a_missing_volume_are_unknown(tmp_path: Path) -> None:
    """They hide no VM, and are not taken for nothing."""
    image = tmp_path / "disk.raw"
    disks = f"""<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/>
<target dev='vda' bus='virtio'/></disk><disk type='volume' device='disk'><source pool='p' volume='v'/>
<target dev='vdb' bus='virtio'/></disk>"""
    assert listed(LibvirtInventory(), Domain(GOOD, disks))[GOOD].unsized_disks == ("vda", "vdb")
    image.write_bytes(bytes(12_288))
    found = listed(LibvirtInventory(), Domain(GOOD, disks))[GOOD]
    assert (found.disk_bytes, found.unsized_disks) == (12_288, ("vdb",))
