"""The domain XML as it will run here: what is ours, what stays the donor's, what is refused."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest

from services.recipient_agent.domain import Prepared, prepare
from services.recipient_agent.firmware_choice import ChosenFirmware
from services.recipient_agent.network_map import NetworkMap, place_cards
from services.recipient_agent.places import HostChoice, file_stem
from services.recipient_agent.testing import MAC, XML, make_identity, make_places, make_platform, make_vm
from shared.domain import SECRET, describe, guest_abi_differences
from shared.ejecting import without_media
from shared.messages.base import Refusal
from shared.messages.vm import CpuFacts, FirmwareFacts, FirmwareInterface, IdentityBundle

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
    host = make_platform(bridges=("vmbr0", "vmbr1"))
    cards, _ = place_cards(identity.vm.nics, make_places(**places).bridges, host)
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
    assert f"/logs/web-1-{PORT}-serial-0.log" in with_log


def test_two_serial_ports_have_two_logs() -> None:
    """A console that is the first serial port once more has none of its own."""
    two = with_device(
        "<serial type='pty'><target port='1'/></serial><console type='pty'><target type='serial'/></console>"
    )
    logs = re.findall("/logs/[^'\"]*", prepared(make_identity(two), console_log_dir="/logs").domain_xml)

    assert logs == [f"/logs/web-1-{PORT}-serial-{number}.log" for number in (0, 1)]


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
    refusals = refused(make_identity(DIRECT, kernel=path))

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
        ({"nics": ()}, "network cards"),
        ({"cpu": CpuFacts()}, "cpu"),
        ({"vcpus_max": 9}, "maximum of vcpus"),
        ({"needs": ()}, "needs"),
        ({"firmware_facts": FirmwareFacts(interface=FirmwareInterface.PFLASH)}, "firmware"),
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


NIC = "<interface type='bridge'><mac address='52:54:00:00:00:02'/><model type='virtio'/></interface>"


@pytest.mark.parametrize(
    ("xml", "code"),
    [
        (with_device("<hostdev mode='subsystem' type='pci'/>"), "vm_blocked"),
        (with_device("<filesystem type='mount'><source dir='/'/><target dir='x'/></filesystem>"), "vm_blocked"),
        (with_device(NIC), "identity_differs"),
        (with_device("<video><driver name='/x'/></video>"), "vm_blocked"),
        (XML.replace("<source bridge='br-donor'/>", "<script path='/x'/>"), "not_portable_form"),
        (XML, "not_portable_form"),
        (XML.replace("<os>", "<os><dtb>/etc/passwd</dtb>"), "vm_blocked"),
        (XML.replace("<os>", "<os>../etc/passwd"), "vm_blocked"),
        (with_device("<video><model type='vga' heads='../etc/passwd'/></video>"), "vm_blocked"),
        ("<domain>", "domain_xml_invalid"),
        ("<!DOCTYPE x><domain/>", "domain_xml_invalid"),
        (XML.replace("<vcpu>1</vcpu>", ""), "domain_xml_invalid"),
    ],
)
def test_foreign_xml_cannot_reach_into_this_host(xml: str, code: str) -> None:
    """What is not portable, names something of a host or is broken is refused before any node sees it."""
    identity = make_identity(xml, portable_form=False, disks=make_vm().disks, nics=make_vm().nics)

    assert code in {refusal.code for refusal in refused(identity)}


def test_an_unlisted_part_of_a_definition_is_refused_by_name() -> None:
    """A donor that builds its own portable form cannot add to it."""
    portable = make_identity().domain_xml.replace("<devices>", "<devices><surprise file='/etc/shadow'/>")

    refusals = refused(make_identity(portable, portable_form=False))

    assert "vm_blocked" in {refusal.code for refusal in refusals}
    assert any("surprise" in refusal.evidence for refusal in refusals)


def test_the_lasting_definition_is_written_for_this_host_too() -> None:
    """It is another one than the live one, with the same disks, networks and firmware."""
    lasting = make_identity(XML.replace("<vcpu>1</vcpu>", "<vcpu>4</vcpu>")).domain_xml
    identity = make_identity().model_copy(update={"lasting_xml": lasting})

    result = prepared(identity)

    assert result.lasting_xml is not None
    stored = describe(result.lasting_xml)
    assert (stored.vcpus, stored.nics[0].bridge) == (4, "vmbr0")
    assert stored.disks[0].source == describe(result.domain_xml).disks[0].source


def test_a_transient_vm_has_no_lasting_definition() -> None:
    """And a lasting one has one."""
    transient = make_identity(persistent=False).model_copy(update={"lasting_xml": None})
    assert prepared(transient).lasting_xml is None

    refusals = refused(make_identity().model_copy(update={"lasting_xml": None}))
    assert [refusal.code for refusal in refusals] == ["identity_differs"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("web-1", "web-2"),
        ("<devices>", f"<devices>{NIC}"),
        ("<devices>", "<devices><disk device='disk'><target dev='vdb' bus='virtio'/></disk>"),
        ("<devices>", "<devices><hostdev mode='subsystem' type='pci'/>"),
        ("<devices>", "<devices><emulator>/etc/shadow</emulator>"),
    ],
)
def test_a_lasting_definition_of_another_vm_is_refused(old: str, new: str) -> None:
    """It is held to the same rules; what only it has cannot be placed."""
    identity = make_identity()
    lasting = identity.domain_xml.replace(old, new, 1)

    assert refused(identity.model_copy(update={"lasting_xml": lasting}))


def test_two_cards_with_one_mac_keep_their_networks() -> None:
    """The card on the LAN does not land on the bridge of the WAN."""
    twin = f"<interface type='bridge'><mac address='{MAC}'/><source bridge='br-wan'/><model type='virtio'/></interface>"

    result = prepared(make_identity(with_device(twin)), bridges=NetworkMap({"br-donor": "vmbr0", "br-wan": "vmbr1"}))

    assert [nic.bridge for nic in describe(result.domain_xml).nics] == ["vmbr0", "vmbr1"]


def test_a_vm_of_another_architecture_gets_the_qemu_that_libvirt_knows_for_it() -> None:
    """The setting names the one for the host's own."""
    i686 = XML.replace("arch='x86_64'", "arch='i686'")

    assert "<emulator>/usr/bin/qemu-system-x86_64</emulator>" in prepared(make_identity()).domain_xml
    assert "<emulator>" not in prepared(make_identity(i686)).domain_xml


def test_an_empty_drive_stays_empty() -> None:
    """It needs no file and no room."""
    drive = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>"

    result = prepared(make_identity(with_device(drive)))

    assert [disk.target for disk in result.disks] == ["vda"]
    assert [drive.empty for drive in describe(result.domain_xml).drives] == [False, True]


MEDIUM = (
    "<disk type='file' device='cdrom'><source file='/library/tools.iso' startupPolicy='optional'/>"
    "<target dev='sda' bus='sata'/><readonly/></disk>"
)


def test_a_medium_gets_a_file_of_its_own_here() -> None:
    """Read-only, of the size of its file; nothing of the donor's library is named."""
    result = prepared(make_identity(with_device(MEDIUM)))

    medium = result.disks[1]
    assert (medium.target, medium.read_only, medium.file_bytes) == ("sda", True, 1 << 30)
    assert medium.path == f"/images/web-1-{PORT}-sda.raw"
    assert not result.disks[0].read_only
    assert [drive.source for drive in describe(result.domain_xml).drives] == [disk.path for disk in result.disks]
    assert "library" not in result.domain_xml
    assert 'startupPolicy="optional"' in result.domain_xml


def test_a_medium_that_stays_behind_leaves_an_empty_drive() -> None:
    """The guest sees the same drive, and no file is made."""
    identity = make_identity(with_device(MEDIUM))
    vm = without_media(identity.vm, ("all",))
    result = prepared(identity.model_copy(update={"vm": vm}))

    assert [disk.target for disk in result.disks] == ["vda"]
    assert [drive.empty for drive in describe(result.domain_xml).drives] == [False, True]
    assert "startupPolicy" not in result.domain_xml
    assert guest_abi_differences(with_device(MEDIUM), result.domain_xml) == []


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
        "<disk type='file' device='disk'><driver type='qcow2'/><source file='/donor/b.qcow2'/>"
        "<target dev='vdb' bus='virtio'/></disk>"
    )

    result = prepared(make_identity(with_device(second)))

    assert [disk.path.rsplit("-", 1)[1] for disk in result.disks] == ["vda.raw", "vdb.qcow2"]


ENCRYPTED = (
    "<tpm model='tpm-crb'><backend type='emulator'>"
    "<encryption secret='0a6f4b1c-0f3f-4b8e-8f56-0c2f4c5d7e01'/></backend></tpm>"
)


def test_an_encrypted_vm_gets_secrets_of_our_own() -> None:
    """Both definitions name the same ones, whoever asks again; another port gets others."""
    identity = make_identity(with_device(ENCRYPTED))
    first, again = prepared(identity), prepared(identity)
    other = prepare(identity, port_id=UUID(int=4), places=make_places(), choice=choice(identity))

    assert isinstance(other, Prepared)
    (use,), (others,) = describe(first.domain_xml).secrets, describe(other.domain_xml).secrets
    assert use.uuid not in {"", "0a6f4b1c-0f3f-4b8e-8f56-0c2f4c5d7e01", others.uuid}
    assert first == again
    assert first.lasting_xml is not None
    assert describe(first.lasting_xml).secrets == (use,)


def test_an_encrypted_vm_that_was_quoted_as_a_plain_one_is_refused() -> None:
    """A node that keeps no secrets would have been asked for a quote."""
    identity = make_identity(with_device(ENCRYPTED))
    plain = tuple(need for need in identity.vm.needs if need.kind != SECRET)
    found = refused(make_identity(with_device(ENCRYPTED), needs=plain))

    assert [refusal.code for refusal in found] == ["identity_differs"]
