"""The files besides disks of a guest that arrives: its UEFI variables, its TPM's state, memory that is kept in files.

libvirt makes the first two in Prepare; files of memory are made here, since libvirt labels them before QEMU could make
them. QEMU's stream fills all of them. A failed attempt leaves them behind, so the journal knows their places
before; what is there already is somebody's and is not overwritten.
"""

from __future__ import annotations

from pathlib import Path

from services.node_agent.hypervisor.disk_images import DiskImageError, create_empty
from services.node_agent.hypervisor.tpm_state import has_emulated_tpm, tpm_folder
from services.node_agent.state.journal import Kind, TransferJournal
from shared.domain import describe, parse
from shared.messages.porting import ServiceChangeAgreement


def claim_state(agreement: ServiceChangeAgreement, journal: TransferJournal, *, tpm_dir: Path, image_dir: Path) -> None:
    """Store what libvirt will make, and make what it will not. Blocking.

    Raises `DiskImageError` for what is there already, for a folder that is missing, and for a file of memory outside of
    `image_dir`; DomainXmlError, OSError.
    """
    domain = parse(agreement.domain_xml)
    facts = describe(domain)
    variables = facts.nvram
    if variables is not None:
        if not Path(variables).parent.is_dir():
            raise DiskImageError(variables, "this host has no such folder for UEFI variables", code="nvram_folder")
        _claim(journal, Kind.NVRAM, Path(variables), code="nvram_exists")
    if has_emulated_tpm(domain):
        _claim(journal, Kind.TPM, tpm_folder(agreement.vm_uuid, tpm_dir), code="tpm_exists")
    for file in facts.memory_files:
        if file.path is None or not Path(file.path).resolve().is_relative_to(image_dir.resolve()):
            raise DiskImageError(str(file.path), f"lies outside of {image_dir}", code="memory_outside")
        _claim(journal, Kind.MEMORY, Path(file.path), code="memory_exists")
        create_empty(file.path, file.size_bytes)


def _claim(journal: TransferJournal, kind: Kind, path: Path, *, code: str) -> None:
    if path.exists():
        raise DiskImageError(str(path), "exists already; it is not overwritten", code=code)
    journal.will_create(kind, str(path))
