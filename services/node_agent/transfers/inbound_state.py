"""The files besides disks of a guest that arrives: its UEFI variables and its TPM's state.

libvirt makes both in Prepare, and QEMU's stream fills them. A failed attempt leaves them behind, so the journal knows
their places before; what is there already is somebody's and is not overwritten.
"""

from __future__ import annotations

from pathlib import Path

from services.node_agent.hypervisor.disk_images import DiskImageError
from services.node_agent.hypervisor.tpm_state import has_emulated_tpm, tpm_folder
from services.node_agent.state.journal import Kind, TransferJournal
from shared.domain import describe, parse
from shared.messages.porting import ServiceChangeAgreement


def claim_state(agreement: ServiceChangeAgreement, journal: TransferJournal, tpm_dir: Path) -> None:
    """Store what libvirt will make. Blocking.

    Raises `DiskImageError` for what is there already and for a folder that is missing, DomainXmlError, OSError.
    """
    domain = parse(agreement.domain_xml)
    variables = describe(domain).nvram
    if variables is not None:
        if not Path(variables).parent.is_dir():
            raise DiskImageError(variables, "this host has no such folder for UEFI variables", code="nvram_folder")
        _claim(journal, Kind.NVRAM, Path(variables), code="nvram_exists")
    if has_emulated_tpm(domain):
        _claim(journal, Kind.TPM, tpm_folder(agreement.vm_uuid, tpm_dir), code="tpm_exists")


def _claim(journal: TransferJournal, kind: Kind, path: Path, *, code: str) -> None:
    if path.exists():
        raise DiskImageError(str(path), "exists already; it is not overwritten", code=code)
    journal.will_create(kind, str(path))
