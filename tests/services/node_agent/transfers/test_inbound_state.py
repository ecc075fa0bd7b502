"""What libvirt will make for an arriving guest besides its disks is in the journal first, and overwrites nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.hypervisor.disk_images import DiskImageError
from services.node_agent.state.journal import Journal, Kind, Made, PortRecord, TransferJournal
from services.node_agent.transfers.inbound_state import claim_state
from shared.messages.porting import Side
from tests.support.transfer_pair import DOMAIN, VM, make_agreement

TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>"


def transfer(folder: Path, *, nvram: Path | None = None, tpm: bool = False) -> TransferJournal:
    """An agreement about a guest with these."""
    xml = DOMAIN % "/a.raw"
    if tpm:
        xml = xml.replace("</devices>", TPM)
    agreement = make_agreement(folder / "d.raw", domain_xml=xml)
    if nvram is not None:
        agreed = agreement.domain_xml.replace("</os>", f"<nvram>{nvram}</nvram></os>")
        agreement = agreement.model_copy(update={"domain_xml": agreed})
    return TransferJournal(Journal(folder / "journal").open(), PortRecord(side=Side.INBOUND, agreement=agreement))


def claim(journal: TransferJournal, tpm_dir: Path) -> tuple[Made, ...]:
    """What is in the journal afterwards."""
    claim_state(journal.record.agreement, journal, tpm_dir=tpm_dir, image_dir=tpm_dir / "images")
    return journal.record.made


def test_an_ordinary_guest_has_none(tmp_path: Path) -> None:
    """Nothing is claimed."""
    assert claim(transfer(tmp_path), tmp_path) == ()


def test_variables_and_tpm_are_listed_before_they_are_made(tmp_path: Path) -> None:
    """With their places; nothing is made here."""
    variables = tmp_path / "web_VARS.fd"
    made = claim(transfer(tmp_path, nvram=variables, tpm=True), tmp_path)
    assert made == (Made(kind=Kind.NVRAM, id=str(variables)), Made(kind=Kind.TPM, id=str(tmp_path / str(VM))))
    assert not variables.exists()


@pytest.mark.parametrize("kind", ["nvram", "tpm"])
def test_what_is_there_already_is_not_claimed(tmp_path: Path, kind: str) -> None:
    """It would be removed if the port failed."""
    variables, folder = tmp_path / "web_VARS.fd", tmp_path / str(VM)
    if kind == "nvram":
        variables.write_bytes(b"somebody's")
    else:
        folder.mkdir()
    journal = transfer(tmp_path, nvram=variables, tpm=True)
    with pytest.raises(DiskImageError, match="not overwritten") as refused:
        claim(journal, tmp_path)
    assert refused.value.code == f"{kind}_exists"
    assert kind not in {str(made.kind) for made in journal.record.made}


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """Before libvirt would fail in Prepare."""
    with pytest.raises(DiskImageError, match="no such folder") as refused:
        claim(transfer(tmp_path, nvram=tmp_path / "no" / "web_VARS.fd"), tmp_path)
    assert refused.value.code == "nvram_folder"


def with_memory(folder: Path, path: Path) -> TransferJournal:
    """A guest with a memory module in this file."""
    journal = transfer(folder)
    module = (
        f"<memory model='nvdimm'><source><path>{path}</path></source><target><size unit='KiB'>1024</size></target>"
        "</memory></devices>"
    )
    agreement = journal.record.agreement
    agreed = agreement.model_copy(update={"domain_xml": agreement.domain_xml.replace("</devices>", module)})
    record = PortRecord(side=Side.INBOUND, agreement=agreed)
    return TransferJournal(Journal(folder / "memory").open(), record)


def test_a_file_of_memory_is_made_with_its_size(tmp_path: Path) -> None:
    """libvirt labels it before QEMU would make it; the stream fills it."""
    module = tmp_path / "images" / "web-memory-0.img"
    journal = with_memory(tmp_path, module)

    assert claim(journal, tmp_path) == (Made(kind=Kind.MEMORY, id=str(module)),)
    assert module.stat().st_size == 1 << 20
    with pytest.raises(DiskImageError, match="not overwritten"):
        claim(with_memory(tmp_path / "again", module), tmp_path)


def test_a_file_of_memory_lies_where_disks_lie(tmp_path: Path) -> None:
    """The path came through the broker."""
    outside = tmp_path / "images" / ".." / "elsewhere.img"
    with pytest.raises(DiskImageError, match="outside") as refused:
        claim(with_memory(tmp_path, outside), tmp_path)
    assert refused.value.code == "memory_outside"
    assert not outside.exists()
