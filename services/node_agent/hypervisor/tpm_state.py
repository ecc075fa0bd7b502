"""Where libvirt keeps what a VM's emulated TPM remembers: in a folder by the VM's UUID, whatever the VM is called.

libvirt makes it when the VM starts or arrives, and removes it with the definition, or when a transient VM ends.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from shared.domain import DomainSource, parse

TPM_DIR = Path("/var/lib/libvirt/swtpm")
"""Of libvirt's system daemon; it has no setting for it."""


def tpm_folder(uuid: UUID, tpm_dir: Path = TPM_DIR) -> Path:
    """The folder of one VM, if it has a TPM."""
    return tpm_dir / str(uuid)


def state_folders(uuid: UUID, tpm_dir: Path = TPM_DIR) -> tuple[str, ...]:
    """The folders of a VM's state besides its files: its TPM's, where it has one."""
    folder = tpm_folder(uuid, tpm_dir)
    return (str(folder),) if folder.is_dir() else ()


def has_emulated_tpm(domain: DomainSource) -> bool:
    """Whether the VM has a TPM whose state is this host's to keep. Raises `DomainXmlError`."""
    return parse(domain).root.find("devices/tpm/backend[@type='emulator']") is not None
