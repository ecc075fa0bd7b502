"""The domain XML as it will run here: what is ours, what stays the donor's, what is refused."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from services.recipient_agent.domain import Prepared, prepare
from services.recipient_agent.firmware_choice import ChosenFirmware
from services.recipient_agent.network_map import place_cards
from services.recipient_agent.places import HostChoice, file_stem
from services.recipient_agent.testing import XML, make_identity, make_places, make_platform, make_vm
from shared.domain import describe, guest_abi_differences
from shared.messages.base import Refusal
from shared.messages.vm import IdentityBundle

PORT = UUID("11111111-2222-3333-4444-555555555555")
UEFI = XML.replace(
    "<os>",
    "<os><loader readonly='yes' type='pflash'>/donor/OVMF.fd</loader>"
    "<nvram template='/donor/VARS.fd' format='raw'>/donor/web-1.fd</nvram>",
)
DIRECT = XML.replace("<os>", "<os><kernel>/boot-files/vmlinuz</kernel><initrd>/boot-files/sub/initrd</initrd>")


OVMF = ChosenFirmware("60-edk2.json", "/usr/share/OVMF/OVMF_CODE_4M.fd", "raw", None, "raw")


def choice(identity: IdentityBundle, **places: Any) -> HostChoice:
    """What the VM gets of the node."""
    cards, _ = place_cards(identity.vm.nics, make_places(**places).bridges, make_platform())
    return HostChoice(OVMF, cards)


def prepared(identity: IdentityBundle, **places: Any) -> Prepared:
    """The rewritten VM; fails the test if it was refused."""
    result = prepare(identity, port_id=PORT, places=make_places(**places), choice=choice(identity, **places))
    assert isinstance(result, Prepared), result
    return result


def refused(identity: IdentityBundle) -> tuple[Refusal, ...]:
    """The refusals; fails the test if there are none."""
    result = prepare(identity, port_id=PORT, places=make_places(), choice=choice(identity))
    assert not isinstance(result, Prepared)
    return result


def test_host_parts_are_ours_and_the_guest_abi_is_the_donors() -> None:
    """Disk under our folder, named by VM and port; our bridge; our emulator; no path of the donor is left."""
    result = prepared(make_identity())

    facts = describe(result.domain_xml)
    assert facts.disks[0].source == f"/images/web-1-{PORT}-vda.raw"
    assert facts.nics[0].bridge == "vmbr0"
    assert "/usr/bin/qemu-system-x86_64" in result.domain_xml
    assert "donor" not in result.domain_xml
    assert guest_abi_differences(XML, result.domain_xml) == []


def test_disks_are_announced_as_they_must_be_made() -> None:
    """Path, format and virtual size of every disk."""
    (disk,) = prepared(make_identity()).disks

    assert (disk.target, disk.format, disk.virtual_size_bytes) == ("vda", "raw", 1 << 30)
    assert disk.path == f"/images/web-1-{PORT}-vda.raw"


def test_console_log_goes_to_our_folder_if_there_is_one() -> None:
    """Without a folder no log is written."""
    assert "<log" not in prepared(make_identity()).domain_xml
    with_log = prepared(make_identity(), console_log_dir="/logs").domain_xml
    assert f"/logs/web-1-{PORT}-console.log" in with_log


def test_uefi_uses_our_firmware_and_our_variables() -> None:
    """The donor's firmware path and template are not taken."""
    xml = prepared(make_identity(UEFI)).domain_xml

    assert "/usr/share/OVMF/OVMF_CODE_4M.fd" in xml
    assert f"/nvram/web-1-{PORT}_VARS.fd" in xml
    assert "donor" not in xml


def test_direct_boot_from_a_folder_that_we_have() -> None:
    """Kernel and initrd keep their paths, since the guest was started from them."""
    xml = prepared(make_identity(DIRECT)).domain_xml

    assert "/boot-files/vmlinuz" in xml


@pytest.mark.parametrize("path", ["/etc/shadow", "/boot-files/../etc/shadow", "boot-files/x", "/boot-filesx/y"])
def test_direct_boot_from_elsewhere_is_refused(path: str) -> None:
    """A VM cannot make this host open a file of its choice."""
    refusals = refused(make_identity(DIRECT.replace("/boot-files/vmlinuz", path)))

    assert [refusal.code for refusal in refusals] == ["boot_file_missing"]
    assert path in refusals[0].evidence


def test_a_wrong_digest_is_refused() -> None:
    """The XML is the one whose SHA-256 the donor told."""
    bundle = make_identity().model_copy(update={"domain_xml_sha256": "0" * 64})

    assert [refusal.code for refusal in refused(bundle)] == ["identity_differs"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"uuid": UUID(int=3)}, "uuid"),
        ({"name": "other"}, "name"),
        ({"memory_bytes": 1 << 20}, "memory"),
        ({"vcpus": 2}, "vcpus"),
        ({"architecture": "aarch64"}, "architecture"),
        ({"machine": "pc-q35-9.2"}, "machine"),
        ({"domain_type": "kvm"}, "domain type"),
        ({"disks": ()}, "disks"),
        ({"nics": ()}, "MACs"),
    ],
)
def test_another_vm_than_the_one_quoted_is_refused(change: dict[str, Any], what: str) -> None:
    """A donor cannot quote a small VM and send a large one."""
    refusals = refused(make_identity(**change))

    assert [refusal.code for refusal in refusals] == ["identity_differs"]
    assert refusals[0].evidence.startswith(what)


def with_device(device: str) -> str:
    """The VM with one more thing among its devices."""
    return XML.replace("</devices>", f"{device}</devices>")


@pytest.mark.parametrize(
    ("xml", "code"),
    [
        (with_device("<hostdev mode='subsystem' type='pci'/>"), "vm_blocked"),
        (with_device("<filesystem type='mount'><source dir='/'/><target dir='x'/></filesystem>"), "vm_blocked"),
        (with_device("<interface type='bridge'><mac address='52:54:00:00:00:02'/></interface>"), "identity_differs"),
        (with_device("<video><driver name='/x'/></video>"), "foreign_host_path"),
        (
            XML.replace("<source bridge='br-donor'/>", "<source bridge='br-donor'/><script path='/x'/>"),
            "foreign_host_path",
        ),
        (
            XML.replace("<rng model='virtio'><backend model='random'>", "<rng model='virtio'><backend model='egd'>"),
            "foreign_host_path",
        ),
        (XML.replace("/dev/urandom", "/dev/sda"), "foreign_host_path"),
        (XML.replace("<os>", "<os><dtb>/etc/passwd</dtb>"), "foreign_host_path"),
        ("<domain>", "domain_xml_invalid"),
        ("<!DOCTYPE x><domain/>", "domain_xml_invalid"),
        (XML.replace("<vcpu>1</vcpu>", ""), "domain_xml_invalid"),
    ],
)
def test_foreign_xml_cannot_reach_into_this_host(xml: str, code: str) -> None:
    """Devices of the host, files of the host and broken XML are refused before any node sees them."""
    assert code in {refusal.code for refusal in refused(make_identity(xml))}


def test_words_for_people_may_look_like_paths() -> None:
    """A title is no path."""
    assert prepared(make_identity(XML.replace("<os>", "<title>/not a path</title><os>")))


def test_file_names_are_safe_and_unique() -> None:
    """The VM's name cannot leave the folder; two ports of one VM do not meet."""
    assert file_stem("../../etc/x y", PORT) == f"______etc_x_y-{PORT}"
    assert file_stem("a", PORT) != file_stem("a", UUID(int=1))
    assert len(file_stem("n" * 500, PORT)) == 64 + 1 + 36


def test_several_disks_have_several_files() -> None:
    """Each target has a path of its own."""
    second = (
        "<disk type='block' device='disk'><driver type='qcow2'/><source dev='/dev/vg/b'/>"
        "<target dev='vdb' bus='virtio'/></disk>"
    )
    disks = make_vm().disks
    twin = disks[0].model_copy(update={"target": "vdb", "format": "qcow2"})

    result = prepared(make_identity(with_device(second), disks=(*disks, twin)))

    assert [disk.path.rsplit("-", 1)[1] for disk in result.disks] == ["vda.raw", "vdb.qcow2"]
