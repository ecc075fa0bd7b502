"""A donor tells the sizes of a VM's firmware: without them no recipient can choose one."""

from __future__ import annotations

from pathlib import Path

from services.node_agent.hypervisor.firmware_sizes import with_sizes
from shared.messages.vm import FirmwareFacts, FirmwareInterface

FACTS = FirmwareFacts(interface=FirmwareInterface.PFLASH, secure_boot=True, nvram=True)


def test_code_and_variables_have_their_sizes(tmp_path: Path) -> None:
    """As the files have them; the rest of the facts stays."""
    code, variables = tmp_path / "code.fd", tmp_path / "vars.fd"
    code.write_bytes(bytes(4096))
    variables.write_bytes(bytes(512))
    sized = with_sizes(FACTS, loader=str(code), nvram=str(variables))
    assert sized == FACTS.model_copy(update={"size_bytes": 4096, "nvram_size_bytes": 512})


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    """The other VMs, and the rest of this one, are told all the same."""
    assert with_sizes(FACTS, loader=str(tmp_path / "none.fd"), nvram=None) == FACTS


def test_a_vm_that_boots_by_bios_has_none() -> None:
    """Nothing is looked for."""
    assert with_sizes(None, loader=None, nvram=None) is None
