"""The document that says what happens to what."""

from __future__ import annotations

from pathlib import Path

from shared.domain.table import TABLE
from shared.domain.table.document import markdown

COMMITTED = Path(__file__).parents[4] / "docs" / "vm-compatibility.md"


def test_document_is_the_committed_one() -> None:
    """What tenants read is made from the table that decides."""
    assert COMMITTED.read_text() == markdown()


def test_each_note_is_in_the_document() -> None:
    """Each reason and each change is told."""
    text = markdown()
    missing = {row.note for row in TABLE if row.note.removeprefix("not kept: ") not in text}
    assert missing == set()


def test_what_a_reader_looks_for() -> None:
    """A part stands under its fate, with its values or with the reason."""
    text = markdown()
    assert "| `devices/disk/target` | `@dev`: one word; `@bus`: `ide`, `fdc`, `scsi`" in text
    assert "| `devices/disk@device` = `lun` | a SCSI device of the host is passed through |" in text
    assert "`qemu:commandline/…`" in text
