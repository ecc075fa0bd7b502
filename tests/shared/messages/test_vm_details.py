"""A tenant's view of a VM is bounded in every direction."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.messages.envelope import MAX_BODY_BYTES
from shared.messages.vm import CpuFeature
from shared.messages.vm_details import MAX_CPU_FEATURES, MAX_DISKS, MAX_NICS, VmDetails
from tests.support.scripted_broker import DETAILS


def largest() -> dict[str, object]:
    """As much of everything as there may be."""
    word = "x" * 256
    feature = CpuFeature(name=word, policy=word)
    disk = DETAILS.disks[0].model_copy(update=dict.fromkeys(("device", "bus", "format", "kind"), word))
    nic = DETAILS.nics[0].model_copy(update=dict.fromkeys(("model", "kind", "network", "port_group"), word))
    return {
        "cpu": DETAILS.cpu.model_copy(update={"features": (feature,) * MAX_CPU_FEATURES}),
        "disks": (disk,) * MAX_DISKS,
        "nics": (nic,) * MAX_NICS,
        "made_anew": ("x" * 512,) * 200,
        "not_kept": ("x" * 512,) * 200,
    }


def test_the_largest_fits_into_a_message() -> None:
    """With room for the reasons beside it."""
    found = VmDetails.model_validate_json(DETAILS.model_copy(update=largest()).model_dump_json())
    assert len(found.model_dump_json()) < MAX_BODY_BYTES / 4


@pytest.mark.parametrize("name", ["disks", "nics"])
def test_one_more_is_refused(name: str) -> None:
    """A provider cannot fill the tenant's memory."""
    values = getattr(DETAILS.model_copy(update=largest()), name)
    with pytest.raises(ValidationError):
        VmDetails.model_validate_json(DETAILS.model_copy(update={name: (*values, values[0])}).model_dump_json())
