"""The journal: what is written before a thing is made is there after a crash; a damaged file is kept, not believed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from services.node_agent.state.files import write_atomically
from services.node_agent.state.journal import Journal, Kind, Made, Phase, PortRecord, TransferJournal
from shared.messages.porting import InboundFinished, Side
from tests.support.transfer_pair import DOMAIN, make_agreement


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """An empty journal."""
    return Journal(tmp_path / "ports").open()


@pytest.fixture
def half(journal: Journal) -> TransferJournal:
    """A half that has begun."""
    agreement = make_agreement(Path("/images/x.raw"), domain_xml=DOMAIN % "/a.raw")
    record = PortRecord(side=Side.INBOUND, agreement=agreement)
    journal.store(record)
    return TransferJournal(journal, record)


def test_a_record_survives(journal: Journal, half: TransferJournal) -> None:
    """What was stored is read back, equal."""
    half.will_create(Kind.DISK, "/images/x.raw")
    half.enter(Phase.OPEN)
    half.remember_disks(("/a.raw",))
    assert journal.get(half.record.port_id, Side.INBOUND) == half.record
    assert journal.load() == ([half.record], [])
    assert half.record.made == (Made(kind=Kind.DISK, id="/images/x.raw"),)


def test_a_thing_is_recorded_once(half: TransferJournal) -> None:
    """Making it again adds nothing; forgetting it removes it."""
    half.will_create(Kind.DISK, "/d")
    half.will_create(Kind.DISK, "/d")
    half.will_create(Kind.DIRECTORY, "/r")
    half.discard_kind(Kind.DISK)
    assert half.record.made == (Made(kind=Kind.DIRECTORY, id="/r"),)


def test_a_last_word_is_kept_and_told_once(half: TransferJournal) -> None:
    """The same message again is not told again; another one is."""
    word = InboundFinished(port_id=half.record.port_id, epoch=2)
    half.conclude(Phase.DONE, word)
    assert half.record.last_word is not None
    assert half.record.last_word.message == word
    assert not half.record.last_word.told
    half.mark_last_word_sent()
    half.conclude(Phase.DONE, word)
    assert half.record.last_word.told
    half.conclude(Phase.DONE, InboundFinished(port_id=half.record.port_id, epoch=3))
    assert not half.record.last_word.told


def test_a_damaged_record_is_set_aside(journal: Journal, half: TransferJournal, tmp_path: Path) -> None:
    """It is named, and the others are read."""
    (tmp_path / "ports" / "x.inbound.json").write_text("{")
    assert journal.load() == ([half.record], ["x.inbound.json"])
    assert (tmp_path / "ports" / "x.inbound.damaged").exists()


def test_removing_is_idempotent(journal: Journal, half: TransferJournal) -> None:
    """A half that is not known is already forgotten."""
    journal.remove(half.record.port_id, Side.INBOUND)
    journal.remove(half.record.port_id, Side.INBOUND)
    assert journal.get(half.record.port_id, Side.INBOUND) is None


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    """Either the old or the new content is there, and no litter."""
    path = tmp_path / "f"
    write_atomically(path, b"old")
    path.chmod(0o400)
    (tmp_path / "sub").mkdir()
    with pytest.raises(OSError, match=r"directory"):
        write_atomically(tmp_path / "sub", b"new")
    assert path.read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["f", "sub"]


def test_what_cannot_be_stored_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record in memory is never ahead of the one on disk."""
    journal = Journal(tmp_path / "ports").open()
    agreement = make_agreement(tmp_path / "x.raw", domain_xml=DOMAIN % "/a.raw")
    transfer = TransferJournal(journal, PortRecord(side=Side.INBOUND, agreement=agreement))

    def full(record: PortRecord) -> None:
        raise OSError(errno.ENOSPC, f"no space for {record.port_id}")

    monkeypatch.setattr(journal, "store", full)
    with pytest.raises(OSError, match="no space"):
        transfer.enter(Phase.DONE)
    assert transfer.record.phase is Phase.PREPARING
