"""Guests of many kinds move live and are the same guests: firmware, TPM, disks on any bus, media, CPUs, VLANs."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from lxml import etree

from deploy.labkit import guest_keys, guests, switches
from deploy.labkit.guests import ISO_MIB, SCSI_DISK_MIB
from deploy.labkit.lab import Lab
from deploy.labkit.plan import GUEST_SWITCH
from deploy.labkit.port_run import run_port
from deploy.labkit.processes import run
from deploy.labkit.state import GuestRecord
from deploy.labkit.vlan_probe import Answer, ask
from shared.exit_codes import ExitCode
from tests.support import tpm_commands

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1800)]

SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
OWN_VARIABLE = "Vmport-6f3c1e6a-2d0b-4c8e-9a53-0d6f2f1b7c11"
SEALED_VALUE = b"known to this TPM only"
STATIC_MIB = 8
"""As much of the first disk's contents, which nobody writes, is compared."""
ANSWER_WITHIN_S = 180.0
"""Under software emulation a guest hashes about a MiB a second."""

REPLY_WITHIN_S = 10.0
SILENT_FOR_S = 1.0
"""A guest that is reached answers an ARP request in some milliseconds."""
UNMAPPED_VLAN = 7


@dataclass
class Guest:
    """A guest of the lab, asked about its devices."""

    lab: Lab
    name: str

    def ask(self, command: str) -> dict[str, Any]:
        """guestd's answer."""
        return self.lab.guest_report(self.name, command, timeout_s=ANSWER_WITHIN_S)

    def hex(self, command: str) -> bytes:
        """guestd's answer, where it is bytes."""
        return bytes.fromhex(self.ask(command)["hex"])

    def tpm(self, command: bytes) -> bytes:
        """The TPM's answer."""
        return self.hex(f"tpm {command.hex()}")

    def sha256(self, device: str, mib: int) -> str:
        """Of the first MiBs of a device, as the guest reads them."""
        return str(self.ask(f"sha256 {device} {mib}")["sha256"])

    def boot_id(self) -> str:
        """Another one after each boot."""
        return str(self.ask("report")["boot_id"])

    def move(self, to: str, *options: str) -> None:
        """Port it; it must arrive, and not have booted."""
        before = self.boot_id()
        done = run_port(self.lab, self.name, to=to, options=options)
        assert done.outcome == "completed", done.result
        assert self.boot_id() == before
        assert self.lab.guest_place(self.name).provider == to

    def restart(self) -> None:
        """Switch it off and on, where it is, and wait until it answers."""
        place, record = self.lab.guest_place(self.name).provider, self.lab.guest(self.name)
        self.lab.virsh(place, "destroy", record.uuid)
        self.lab.virsh(place, "start", record.uuid)
        guests.wait_until_ready(self.lab.plan, record, timeout_s=600)


@pytest.fixture
def start(lab: Lab, start_guest: Callable[..., GuestRecord]) -> Callable[..., Guest]:
    """Start a guest at alpha."""
    return lambda name, **facts: Guest(lab, start_guest(name, **facts).name)


def state_files(lab: Lab, provider: str) -> set[str]:
    """All UEFI variables' files and TPMs' state at a provider, but what libvirt keeps of none."""
    libvirt = lab.plan.host_dir(provider) / "var-lib-libvirt"
    folders = (libvirt / "qemu" / "nvram", libvirt / "swtpm")
    return {str(path.relative_to(libvirt)) for folder in folders for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("slow_link")
def test_secure_boot_its_variables_and_the_tpm_move(
    lab: Lab, tenant: Any, start: Callable[..., Guest], provider: Callable[[str], Any]
) -> None:
    """A cancelled port leaves none of their files at the recipient; a completed one moves them, for the next boot, too;
    the donor's are in quarantine."""
    guest = start("sealed", firmware="secure-boot", tpm=True, memory_mib=384)
    value = os.urandom(16)
    guest.ask(f"efi-write {OWN_VARIABLE} {value.hex()}")
    loaded = tpm_commands.handle_of(guest.tpm(tpm_commands.seal(SEALED_VALUE)))
    tpm_commands.answer(guest.tpm(tpm_commands.keep(loaded)))
    tpm_commands.answer(guest.tpm(tpm_commands.extend_pcr(os.urandom(32))))
    pcr = tpm_commands.pcr_of(guest.tpm(tpm_commands.read_pcr()))

    def is_itself() -> bool:
        assert guest.hex(f"efi-read {SECURE_BOOT}") == b"\x01"
        assert guest.hex(f"efi-read {OWN_VARIABLE}") == value
        assert tpm_commands.value_of(guest.tpm(tpm_commands.unseal())) == SEALED_VALUE
        return True

    assert is_itself()
    port_id = tenant.create(lab.guest(guest.name), "beta", "--post-copy", "never")
    tenant.wait_for_transfer(port_id, "disk")
    tenant.run("port", "cancel", port_id)
    assert tenant.wait_for_end(port_id)["summary"]["phase"] == "cancelled"
    assert state_files(lab, "beta") == set()
    assert provider("beta").images() == set()

    ours = state_files(lab, "alpha")
    guest.move("beta")
    assert is_itself()
    assert tpm_commands.pcr_of(guest.tpm(tpm_commands.read_pcr())) == pcr
    left = state_files(lab, "alpha")
    assert len(left) == len(ours)
    assert all(".quarantine" in name for name in left), left
    guest.restart()
    assert is_itself()


def assert_nowhere(lab: Lab, keys: set[str]) -> None:
    """No file of the lab has a key: no log, journal, ledger or queue of anybody. But where libvirt keeps secrets."""
    spellings = [spelt for key in keys for spelt in (key.encode(), base64.b64encode(key.encode())[:-4])]
    searched = 0
    for path in lab.plan.state_dir.rglob("*"):
        where = path.relative_to(lab.plan.state_dir).parts
        if not path.is_file() or path.is_symlink() or {"secrets", "images"} & {*where}:
            continue
        with suppress(FileNotFoundError):  # it is gone by now
            contents = path.read_bytes()
            assert not any(spelt in contents for spelt in spellings), path
            searched += 1
    assert searched > len(lab.plan.providers)


@pytest.mark.usefixtures("slow_link")
def test_an_encrypted_tpm_and_disk_move_with_their_keys(
    lab: Lab, tenant: Any, start: Callable[..., Guest], provider: Callable[[str], Any]
) -> None:
    """A cancelled port leaves no key at the recipient. After a completed one the disk there is encrypted, the guest
    reads what it sealed and wrote, also after a restart, and it can go back."""
    guest = start("locked", tpm=True, encrypted=True, disk_format="qcow2", workload="writer")
    loaded = tpm_commands.handle_of(guest.tpm(tpm_commands.seal(SEALED_VALUE)))
    tpm_commands.answer(guest.tpm(tpm_commands.keep(loaded)))
    before = guest.sha256("/dev/vda", STATIC_MIB)

    def is_itself() -> bool:
        assert tpm_commands.value_of(guest.tpm(tpm_commands.unseal())) == SEALED_VALUE
        assert guest.sha256("/dev/vda", STATIC_MIB) == before
        assert guest.ask("report")["mismatches"] == 0
        return True

    theirs = guest_keys.listed(lab.plan, "alpha")
    assert len(theirs) == 2
    port_id = tenant.create(lab.guest(guest.name), "beta", "--post-copy", "never")
    tenant.wait_for_transfer(port_id, "disk")
    assert len(guest_keys.listed(lab.plan, "beta")) == 2
    tenant.run("port", "cancel", port_id)
    assert tenant.wait_for_end(port_id)["summary"]["phase"] == "cancelled"
    assert guest_keys.listed(lab.plan, "beta") == {}
    assert provider("beta").images() == set()

    guest.move("beta")
    assert is_itself()
    ours = guest_keys.listed(lab.plan, "beta")
    assert len(ours) == 2
    assert not ours.keys() & theirs.keys()
    images = lab.plan.host_dir("beta") / "var-lib-libvirt" / "images"
    (image,) = images.glob(f"{guest.name}-*")
    said = json.loads(run(["qemu-img", "info", "-U", "--output=json", str(image)]))
    assert said["encrypted"]
    assert said["format-specific"]["data"]["encrypt"]["format"] == "luks"
    assert guest_keys.values(lab.plan, "beta") == guest_keys.values(lab.plan, "alpha")
    assert_nowhere(lab, guest_keys.values(lab.plan, "alpha"))
    guest.restart()
    assert is_itself()
    guest.move("alpha")
    assert is_itself()


def test_uefi_without_secure_boot_moves(start: Callable[..., Guest]) -> None:
    """It does not get secure boot on the way."""
    guest = start("plain-uefi", firmware="uefi", memory_mib=384)
    value = os.urandom(16)
    guest.ask(f"efi-write {OWN_VARIABLE} {value.hex()}")
    guest.move("beta")
    assert guest.hex(f"efi-read {OWN_VARIABLE}") == value
    assert guest.hex(f"efi-read {SECURE_BOOT}") == b"\x00"


def test_a_second_disk_on_another_bus_moves(start: Callable[..., Guest]) -> None:
    """Both disks have what the guest wrote, and it goes on writing to them."""
    guest = start("two-disks", scsi_disk=True, workload="writer")
    guest.ask(f"fill /dev/sda {SCSI_DISK_MIB // 2}")
    before = guest.sha256("/dev/sda", SCSI_DISK_MIB), guest.sha256("/dev/vda", STATIC_MIB)
    guest.move("beta")
    assert (guest.sha256("/dev/sda", SCSI_DISK_MIB), guest.sha256("/dev/vda", STATIC_MIB)) == before
    assert guest.ask("report")["mismatches"] == 0
    guest.ask(f"fill /dev/sda {SCSI_DISK_MIB}")
    assert guest.sha256("/dev/sda", SCSI_DISK_MIB) != before[0]


def test_an_inserted_iso_moves(start: Callable[..., Guest]) -> None:
    """The guest reads the same from its drive, also after a restart."""
    guest = start("with-iso", iso=True)
    before = guest.sha256("/dev/sr0", ISO_MIB)
    guest.move("beta")
    assert guest.sha256("/dev/sr0", ISO_MIB) == before
    guest.restart()
    assert guest.sha256("/dev/sr0", ISO_MIB) == before


def test_a_disk_on_a_base_image_moves(lab: Lab, start: Callable[..., Guest]) -> None:
    """What lies beneath moves with it: the recipient's disk needs nothing of the donor's."""
    guest = start("layered", disk_format="qcow2", overlay=True, workload="writer")
    before = guest.sha256("/dev/vda", STATIC_MIB)
    guest.move("beta")
    assert guest.sha256("/dev/vda", STATIC_MIB) == before
    assert guest.ask("report")["mismatches"] == 0
    images = lab.plan.host_dir("beta") / "var-lib-libvirt" / "images"
    (image,) = images.glob(f"{guest.name}-*")
    assert f"{guest.name}.base.raw" not in run(["qemu-img", "info", "-U", str(image)])


def test_an_internal_snapshot_is_refused_by_name(lab: Lab, tenant: Any, start: Callable[..., Guest]) -> None:
    """QEMU would leave it behind without a word, although libvirt does not know it."""
    guest = start("with-snapshot", disk_format="qcow2")
    lab.virsh("alpha", "snapshot-create-as", guest.name, "before-upgrade")
    lab.virsh("alpha", "snapshot-delete", guest.name, "before-upgrade", "--metadata")
    done = tenant.run("port", "create", lab.guest(guest.name).uuid, "--to", "beta", "--watch")
    assert done.returncode == ExitCode.REFUSED
    assert "internal_snapshots: disk vda" in done.stdout
    assert lab.guest_place(guest.name).provider == "alpha"


def test_the_hosts_own_cpu_moves_between_equal_hosts(lab: Lab, start: Callable[..., Guest]) -> None:
    """host-passthrough, or what software emulation has in its place."""
    cpu = "host-passthrough" if guests.accelerator(lab.plan) == "kvm" else "maximum"
    guest = start("own-cpu", cpu=cpu)
    guest.move("beta")
    assert f"<cpu mode='{cpu}'" in lab.virsh("beta", "dumpxml", lab.guest(guest.name).uuid)


def test_a_cpu_like_the_hosts_moves(start: Callable[..., Guest]) -> None:
    """host-model: what libvirt made of it at the start is what it has at the recipient."""
    start("like-the-host", cpu="host-model").move("beta")


def only_answers_on(lab: Lab, provider: str, guest: GuestRecord, vlan: int, *others: int | None) -> bool:
    """Whether the guest's frames have this tag on the trunk of a provider's switch, and the other VLANs do not reach
    it."""

    def asked(tag: int | None, within_s: float) -> Answer | None:
        return ask(lab.plan.namespace_path(provider), switches.TRUNK, guest.address, tag, within_s=within_s)

    assert asked(vlan, REPLY_WITHIN_S) == Answer(guest.mac, vlan)
    assert [tag for tag in others if asked(tag, SILENT_FOR_S) is not None] == []
    return True


def guests_ports(lab: Lab, provider: str) -> list[str]:
    """What the provider's switch has besides the lab's own ports."""
    shown = lab.exec(provider, ["ovs-vsctl", "list-ports", GUEST_SWITCH])
    assert shown.returncode == 0, shown.stderr
    return sorted(set(shown.stdout.split()) - {switches.GATE, switches.TRUNK})


@pytest.mark.usefixtures("slow_link")
def test_a_card_in_a_vlan_moves(lab: Lab, tenant: Any, start: Callable[..., Guest]) -> None:
    """It is the same card in the recipient's VLAN, now and after a restart, and no other VLAN reaches it; a cancelled
    port leaves nothing on the recipient's switch, a completed one nothing on the donor's."""
    theirs, ours = lab.plan.vlan("alpha"), lab.plan.vlan("beta")
    guest = start("tagged", vlan=theirs)
    record = lab.guest(guest.name)
    assert only_answers_on(lab, "alpha", record, theirs, theirs + 1, ours, None)
    shown = tenant.run("vm", "check", record.uuid, "--to", "beta")
    assert f"VLAN {theirs} becomes {ours}" in shown.stdout, shown

    port_id = tenant.create(record, "beta", "--post-copy", "never")
    tenant.wait_for_transfer(port_id, "disk")
    assert len(guests_ports(lab, "beta")) == 1
    tenant.run("port", "cancel", port_id)
    assert tenant.wait_for_end(port_id)["summary"]["phase"] == "cancelled"
    assert guests_ports(lab, "beta") == []
    assert only_answers_on(lab, "alpha", record, theirs, theirs + 1, ours, None)

    guest.move("beta")

    assert only_answers_on(lab, "beta", record, ours, ours + 1, theirs, None)
    assert guests_ports(lab, "alpha") == []
    for which in ((), ("--inactive",)):
        definition = etree.fromstring(lab.virsh("beta", "dumpxml", record.uuid, *which))
        (card,) = definition.findall("devices/interface")
        assert card.xpath("string(mac/@address)") == record.mac
        assert card.xpath("string(source/@bridge)") == GUEST_SWITCH
        assert card.xpath("string(virtualport/@type)") == "openvswitch"
        assert [tag.get("id") for tag in card.findall("vlan/tag")] == [str(ours)], which
    guest.restart()
    assert only_answers_on(lab, "beta", record, ours, ours + 1, theirs, None)


def test_a_vlan_without_a_rule_is_refused_by_name(
    lab: Lab, tenant: Any, start: Callable[..., Guest], provider: Callable[[str], Any]
) -> None:
    """The recipient has the same switch, but nothing says whose that VLAN is there."""
    # Its VLAN reaches nothing, so it never answers.
    guest = start("unmapped", vlan=UNMAPPED_VLAN, ready_s=None)
    assert tenant.refused(lab.guest(guest.name)) == {"vlan_unmapped"}
    assert lab.guest_place(guest.name).provider == "alpha"
    assert (provider("beta").domains(), provider("beta").images()) == ([], set())
