"""Devices, features and vCPUs that a host must have."""

from __future__ import annotations

from typing import Any

import pytest

from services.recipient_agent.device_check import device_refusals
from services.recipient_agent.testing import make_platform, make_vm
from shared.domain import NEXT_VCPUS, SECRET
from shared.messages.base import Refusal
from shared.messages.host import DeviceOffers
from shared.messages.vm import Need

OFFERS = DeviceOffers(
    accelerator="qemu",
    machines=("pc-q35-10.0",),
    offers={
        "video": ("vga", "virtio"),
        "graphics": ("vnc",),
        "tpm": (),
        "channel": ("pty", "unix"),
        "hyperv": ("vapic",),
        "feature_missing": ("genid",),
        "vcpus_max": ("288",),
    },
)


def check(*needs: tuple[str, str], **vm: Any) -> list[Refusal]:
    """The refusals of a VM with these needs."""
    host = make_platform(device_offers=(OFFERS,))
    wanted = tuple(Need(kind=kind, value=value) for kind, value in needs)
    return list(device_refusals(make_vm(needs=wanted, **vm), host, node="beta-1"))


@pytest.mark.parametrize(
    "need",
    [("video", "qxl"), ("graphics", "spice"), ("tpm", "tpm-crb"), ("hyperv", "evmcs"), ("channel", "spicevmc")],
)
def test_a_device_that_is_not_offered_is_named(need: tuple[str, str]) -> None:
    """QXL at a host whose QEMU has no SPICE."""
    (refusal,) = check(need)
    assert refusal.code == "device_unsupported"
    assert need[1] in refusal.evidence


@pytest.mark.parametrize(
    "need",
    [("video", "vga"), ("sound", "ich9"), ("channel", "null"), ("feature", "smm"), ("machine", "pc-q35-10.0")],
)
def test_what_is_offered_or_not_told_is_let_in(need: tuple[str, str]) -> None:
    """libvirt does not mention sound cards, nor files as channels: its silence is no refusal."""
    assert check(need) == []


def test_a_feature_that_libvirt_calls_missing() -> None:
    """Said, so judged."""
    assert [refusal.code for refusal in check(("feature", "genid"))] == ["device_unsupported"]


def test_offers_are_those_of_machine_and_accelerator() -> None:
    """Nothing is known of another machine, so its devices are not judged here."""
    assert check(("video", "qxl"), machine="microvm") == []
    assert check(("video", "qxl"), domain_type="kvm") == []


def test_more_vcpus_than_qemu_runs() -> None:
    """Those that may be plugged in count."""
    assert check(vcpus=2, vcpus_max=288) == []
    assert [refusal.code for refusal in check(vcpus=2, vcpus_max=289)] == ["vcpus_unsupported"]


def test_more_vcpus_than_qemu_runs_at_the_next_start() -> None:
    """As the lasting definition has them; what is no number says nothing."""
    assert check((NEXT_VCPUS, "288"), (NEXT_VCPUS, "many"), vcpus=2) == []
    assert [refusal.code for refusal in check((NEXT_VCPUS, "289"), vcpus=2)] == ["vcpus_unsupported"]


@pytest.mark.parametrize(("usage", "what"), [("vtpm", "its TPM"), ("volume", "a disk")])
def test_a_node_that_keeps_no_secrets_takes_no_encrypted_vm(usage: str, what: str) -> None:
    """A node of an earlier release says nothing of secrets, and keeps none."""
    vm = make_vm(needs=(Need(kind=SECRET, value=usage),))

    (refusal,) = device_refusals(vm, make_platform(), node="beta-1")
    assert refusal.code == "secret_unsupported"
    assert what in refusal.evidence
    assert list(device_refusals(vm, make_platform(secret_usages=("volume", "vtpm")), node="beta-1")) == []
