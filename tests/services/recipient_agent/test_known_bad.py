"""Pairs of versions that are known to be bad are refused by name; all others are not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.recipient_agent.known_bad import TABLE, Version, Versions, known_bad_refusals
from services.recipient_agent.testing import VERSIONS, make_vm
from shared.messages.vm import HypervisorVersions

OLD_QEMU, NEW_QEMU = (9, 2, 4), (10, 1, 0)


def versions(qemu: Version, libvirt: Version) -> HypervisorVersions:
    """A host's."""
    return VERSIONS.model_copy(update={"qemu": qemu, "libvirt": libvirt})


def codes(vcpus: int, donor: HypervisorVersions, here: HypervisorVersions, domain_type: str = "kvm") -> list[str]:
    """Why this pair is refused."""
    vm = make_vm(vcpus=vcpus, domain_type=domain_type)
    return [refusal.code for refusal in known_bad_refusals(vm, donor, here, node="beta-1")]


@pytest.mark.parametrize(
    ("vcpus", "donor_qemu", "qemu", "libvirt", "refused"),
    [
        (2, OLD_QEMU, NEW_QEMU, (11, 6, 0), True),
        (2, OLD_QEMU, (10, 0, 0), (11, 9, 9), True),
        (1, OLD_QEMU, NEW_QEMU, (11, 6, 0), False),
        (2, NEW_QEMU, NEW_QEMU, (11, 6, 0), False),
        (2, OLD_QEMU, OLD_QEMU, (11, 6, 0), False),
        (2, OLD_QEMU, NEW_QEMU, (11, 10, 0), False),
    ],
)
def test_several_cpus_need_a_libvirt_that_knows_the_new_qemu(
    vcpus: int, donor_qemu: Version, qemu: Version, libvirt: Version, *, refused: bool
) -> None:
    """As others have seen it: from QEMU 9 to 10, before libvirt 11.10, more than one CPU."""
    found = codes(vcpus, versions(donor_qemu, (11, 0, 0)), versions(qemu, libvirt))
    assert found == (["libvirt_refuses_ht"] if refused else [])


def test_emulated_guests_need_a_new_qemu_at_both_sides() -> None:
    """With KVM they do not."""
    old, new = versions((7, 2, 0), (11, 10, 0)), versions((10, 0, 0), (11, 10, 0))
    assert codes(1, old, old, "qemu") == ["qemu_unsafe_emulation"] * 2
    assert codes(1, old, new, "qemu") == codes(1, new, old, "qemu") == ["qemu_unsafe_emulation"]
    assert codes(1, new, new, "qemu") == codes(1, old, new) == []


def test_a_refusal_names_versions_and_source() -> None:
    """Whoever reads it can look it up."""
    donor, here = versions(OLD_QEMU, (11, 0, 0)), versions(NEW_QEMU, (11, 6, 0))
    (refusal,) = known_bad_refusals(make_vm(vcpus=2, domain_type="kvm"), donor, here, node="beta-1")
    assert "QEMU 9.2.4" in refusal.evidence
    assert "node beta-1 QEMU 10.1.0 and libvirt 11.6.0" in refusal.evidence
    assert "issue" in refusal.evidence
    assert all(row.source and row.rule for row in TABLE)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)), min_size=3, max_size=3))
def test_a_range_has_its_start_and_not_its_end(found: list[Version]) -> None:
    """Whatever the versions are."""
    low, middle, high = sorted(found)
    assert all(first <= second for first, second in pairwise((low, middle, high)))
    assert (middle in Versions(since=low, before=high)) is (middle < high)
    assert middle in Versions()
    assert low not in Versions(before=low)
    assert low in Versions(since=low)


def test_operators_can_read_the_table() -> None:
    """Each row is in the documentation."""
    text = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [text.count(f"| `{code}` |") for code in sorted({row.code for row in TABLE})] == [1, 2]
