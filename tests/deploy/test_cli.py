"""The command line of `deploy/lab`."""

from pathlib import Path

import pytest

from deploy.labkit.cli import guest_spec, parser
from deploy.labkit.errors import LabError
from deploy.labkit.guests import GuestSpec


def test_guest_start_takes_all_that_it_documents() -> None:
    """Every option arrives in the guest's specification."""
    words = "guest start vm1 --provider alpha --memory 1024 --vcpus 2 --workload writer --image tiny --disk d.raw"
    words += " --disk-format qcow2 --kernel k --initrd i --set pages_s=100 --set hot_mib=4"
    arguments = parser().parse_args([*words.split(), "--cmdline", "a b"])
    expected = GuestSpec(
        name="vm1",
        provider="alpha",
        memory_mib=1024,
        vcpus=2,
        workload="writer",
        image="tiny",
        disk=Path("d.raw"),
        kernel=Path("k"),
        initrd=Path("i"),
        cmdline="a b",
        disk_format="qcow2",
        settings={"pages_s": 100, "hot_mib": 4},
    )
    assert expected == guest_spec(arguments)


def test_guest_start_takes_every_kind_of_guest() -> None:
    """Firmware, TPM, further disks and CPU arrive, and an ordinary guest has none of them."""
    words = "guest start vm1 --provider alpha --secure-boot --tpm --scsi-disk --iso --cpu maximum --vlan 42"
    asked = guest_spec(parser().parse_args([*words.split(), "--disk-format", "qcow2", "--overlay"]))
    assert asked == GuestSpec(
        name="vm1",
        provider="alpha",
        disk_format="qcow2",
        overlay=True,
        firmware="secure-boot",
        tpm=True,
        scsi_disk=True,
        iso=True,
        cpu="maximum",
        vlan=42,
    )
    assert guest_spec(parser().parse_args(words.split()[:5])) == GuestSpec("vm1", "alpha")


def test_an_overlay_needs_qcow2() -> None:
    """A raw disk has no layers."""
    with pytest.raises(LabError, match="overlay"):
        GuestSpec("vm1", "alpha", overlay=True).image_kind()


@pytest.mark.parametrize("vlan", [0, 4095])
def test_a_vlan_is_one_that_can_be(vlan: int) -> None:
    """0 and 4095 are no VLANs."""
    assert GuestSpec("vm1", "alpha", vlan=42).image_kind() == "tiny"
    with pytest.raises(LabError, match="use 1 to 4094"):
        GuestSpec("vm1", "alpha", vlan=vlan).image_kind()


def test_an_encrypted_disk_is_qcow2() -> None:
    """What vmport carries; the option arrives."""
    words = "guest start vm1 --provider alpha --encrypted --disk-format qcow2"
    assert guest_spec(parser().parse_args(words.split())) == GuestSpec(
        "vm1", "alpha", disk_format="qcow2", encrypted=True
    )
    with pytest.raises(LabError, match="encrypted"):
        GuestSpec("vm1", "alpha", encrypted=True).image_kind()


def test_exec_keeps_the_command_with_its_options() -> None:
    """What follows -- belongs to the command, not to the lab."""
    arguments = parser().parse_args(["--lab", "t1", "exec", "alpha", "--", "ls", "-l", "--lab"])
    assert arguments.argv[-3:] == ["ls", "-l", "--lab"]
    assert arguments.lab == "t1"


@pytest.mark.parametrize("words", [[], ["guest"], ["guest", "start", "vm1"], ["up", "--lin", "1mbit"]])
def test_wrong_usage_ends_with_code_2(words: list[str]) -> None:
    """Options are not abbreviated, and what is required is asked for."""
    with pytest.raises(SystemExit) as end:
        parser().parse_args(words)
    assert end.value.code == 2


def test_services_need_the_debian_guest() -> None:
    """The web workload takes the Debian image, and the tiny one refuses it."""
    assert GuestSpec("vm1", "alpha", workload="web").image_kind() == "debian"
    with pytest.raises(LabError, match="needs the Debian guest"):
        GuestSpec("vm1", "alpha", workload="web", image="tiny").image_kind()
