"""Where a TPM's state is, and which VMs have one."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.hypervisor.tpm_state import has_emulated_tpm, state_folders, tpm_folder
from tests.support.transfer_pair import DOMAIN, VM


def test_the_folder_is_the_uuids(tmp_path: Path) -> None:
    """It is one of the VM's once it is there."""
    assert state_folders(VM, tmp_path) == ()
    tpm_folder(VM, tmp_path).mkdir()
    assert state_folders(VM, tmp_path) == (str(tmp_path / str(VM)),)


@pytest.mark.parametrize(
    ("tpm", "emulated"),
    [
        ("", False),
        ("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>", True),
        ("<tpm model='tpm-tis'><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>", False),
    ],
)
def test_only_an_emulated_tpm_has_state_here(tpm: str, emulated: bool) -> None:  # noqa: FBT001  # a parameter
    """A host's own TPM keeps its state itself."""
    assert has_emulated_tpm((DOMAIN % "/a.raw").replace("</devices>", f"{tpm}</devices>")) is emulated
