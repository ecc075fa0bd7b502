"""The journal: what is written before a thing is made is there after a crash; a damaged file is kept, not believed."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from services.node_agent.state.files import write_atomically
from services.node_agent.state.journal import Journal, Kind, Made, Phase, PortRecord, TransferJournal
from shared.messages.porting import DisksErased, InboundFinished, Side
from tests.support.transfer_pair import DOMAIN, make_agreement


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """An empty journal."""
    return Journal(tmp_path / "ports").open()


@pytest.fixture
def transfer(journal: Journal) -> TransferJournal:
    """A transfer that has begun."""
    agreement = make_agreement(Path("/images/x.raw"), domain_xml=DOMAIN % "/a.raw")
    record = PortRecord(side=Side.INBOUND, agreement=agreement)
    journal.store(record)
    return TransferJournal(journal, record)


def test_a_record_survives(journal: Journal, transfer: TransferJournal) -> None:
    """What was stored is read back, equal."""
    transfer.will_create(Kind.DISK, "/images/x.raw")
    transfer.enter(Phase.OPEN)
    transfer.remember_vm(("/a.raw",))
    assert journal.get(transfer.record.port_id, Side.INBOUND) == transfer.record
    assert journal.load() == ([transfer.record], [])
    assert transfer.record.made == (Made(kind=Kind.DISK, id="/images/x.raw"),)


def test_a_thing_is_recorded_once(transfer: TransferJournal) -> None:
    """Making it again adds nothing; forgetting it removes it."""
    transfer.will_create(Kind.DISK, "/d")
    transfer.will_create(Kind.DISK, "/d")
    transfer.will_create(Kind.DIRECTORY, "/r")
    transfer.discard(Made(kind=Kind.DISK, id="/d"))
    assert transfer.record.made == (Made(kind=Kind.DIRECTORY, id="/r"),)


def test_a_last_word_is_kept_and_told_once(transfer: TransferJournal) -> None:
    """The same message again is not told again; another one is."""
    word = InboundFinished(port_id=transfer.record.port_id, epoch=2)
    transfer.conclude(Phase.DONE, word)
    assert transfer.record.last_word is not None
    assert transfer.record.last_word.message == word
    assert not transfer.record.last_word.told
    transfer.mark_last_word_sent()
    transfer.conclude(Phase.DONE, word)
    assert transfer.record.last_word.told
    transfer.conclude(Phase.DONE, InboundFinished(port_id=transfer.record.port_id, epoch=3))
    assert not transfer.record.last_word.told


def test_a_damaged_record_is_set_aside(journal: Journal, transfer: TransferJournal, tmp_path: Path) -> None:
    """It is named, and the others are read."""
    (tmp_path / "ports" / "x.inbound.json").write_text("{")
    assert journal.load() == ([transfer.record], ["x.inbound.json"])
    assert (tmp_path / "ports" / "x.inbound.damaged").exists()


def test_removing_is_idempotent(journal: Journal, transfer: TransferJournal) -> None:
    """A transfer that is not known is already forgotten."""
    journal.remove(transfer.record.port_id, Side.INBOUND)
    journal.remove(transfer.record.port_id, Side.INBOUND)
    assert journal.get(transfer.record.port_id, Side.INBOUND) is None


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


def test_disks_in_quarantine_are_found_by_vm(journal: Journal, transfer: TransferJournal, tmp_path: Path) -> None:
    """Those that are still there; another VM's are its own."""
    kept = tmp_path / "x.raw.quarantine"
    kept.touch()
    transfer.quarantine((str(kept), str(tmp_path / "erased")))
    assert journal.quarantined_disks(transfer.record.agreement.vm_uuid) == [kept]
    assert journal.quarantined_disks(uuid4()) == []


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


def test_a_vms_run_state_is_remembered(transfer: TransferJournal) -> None:
    """For the next process, which must not resume what an operator has paused."""
    transfer.remember_vm(("/a.raw",))
    assert (transfer.record.disks, transfer.record.was_running) == (("/a.raw",), True)
    transfer.remember_run_state(was_running=False)
    assert transfer.record.was_running is False
    transfer.remember_vm(("/a.raw",))
    assert transfer.record.was_running is True


@pytest.mark.parametrize("read", ["load", "get"])
def test_of_a_damaged_record_the_vm_may_still_be_known(
    journal: Journal, transfer: TransferJournal, tmp_path: Path, read: str
) -> None:
    """It is set aside when it is read, and found there by every later process."""
    record = transfer.record
    path = tmp_path / "ports" / f"{record.port_id}.inbound.json"
    path.write_bytes(path.read_bytes()[:-100])
    if read == "load":
        assert journal.load() == ([], [path.name])
    else:
        assert journal.get(record.port_id, Side.INBOUND) is None
    (damaged,) = journal.damaged()
    assert (damaged.port_id, damaged.side) == (record.port_id, Side.INBOUND)
    assert (damaged.vm_uuid, damaged.epoch) == (record.agreement.vm_uuid, record.agreement.epoch)
    assert journal.damaged(record.port_id, Side.INBOUND) == [damaged]
    assert journal.damaged(record.port_id, Side.OUTBOUND) == []


def test_a_damaged_record_may_say_nothing(journal: Journal, transfer: TransferJournal, tmp_path: Path) -> None:
    """Its name still says of which port it was; a file with another name is nobody's."""
    path = tmp_path / "ports" / f"{transfer.record.port_id}.inbound.json"
    path.write_bytes(b"\0" * 100)
    (tmp_path / "ports" / "notes.damaged").touch()
    journal.load()
    (damaged,) = journal.damaged()
    assert (damaged.port_id, damaged.vm_uuid, damaged.epoch) == (transfer.record.port_id, None, 1)
    assert damaged.name == f"{transfer.record.port_id}.inbound.damaged"


def test_the_directory_is_the_agents_alone_and_is_made_once(tmp_path: Path) -> None:
    """With what is missing above it; it holds the secrets of agreements."""
    place = tmp_path / "var" / "ports"
    old = os.umask(0)
    try:
        Journal(place).open()
    finally:
        os.umask(old)
    assert place.stat().st_mode & 0o777 == 0o700
    assert Journal(place).open().load() == ([], [])


def test_an_end_stores_its_phase(journal: Journal, transfer: TransferJournal) -> None:
    """With its message; and a quarantine is one, too."""
    transfer.conclude(Phase.DONE, InboundFinished(port_id=transfer.record.port_id, epoch=2))
    assert transfer.record.phase is Phase.DONE
    transfer.quarantine(("/a.raw.quarantine",))
    stored = journal.get(transfer.record.port_id, Side.INBOUND)
    assert stored is not None
    assert (stored.phase, stored.quarantined_disks) == (Phase.QUARANTINED, ("/a.raw.quarantine",))


def test_what_left_lies_beside_the_transfers(journal: Journal, tmp_path: Path) -> None:
    """libvirt's hook looks for it there."""
    assert journal.given_away.directory == tmp_path / "given-away"


def test_autostart_is_remembered_with_the_boot(transfer: TransferJournal, tmp_path: Path) -> None:
    """Stored when it changes, and put back without a boot."""
    path = tmp_path / "ports" / f"{transfer.record.port_id}.inbound.json"

    def stored() -> tuple[bool, str]:
        record = json.loads(path.read_bytes())
        return record["autostart"], record["boot_id"]

    transfer.remember_autostart(on=True, boot_id="b1")
    assert stored() == (True, "b1")
    path.unlink()
    transfer.remember_autostart(on=True, boot_id="b1")
    assert not path.exists()
    transfer.remember_autostart(on=True, boot_id="b2")
    assert stored() == (True, "b2")
    transfer.remember_autostart(on=False)
    assert stored() == (False, "")


def test_an_erasure_ends_the_quarantine_and_is_kept_for_a_while(
    journal: Journal, transfer: TransferJournal, tmp_path: Path
) -> None:
    """Whoever asks again hears the same; other records stay, however old."""
    transfer.quarantine(("/a.raw.quarantine",), ("/shared.raw is not the VM's alone",))
    assert transfer.record.left_disks == ("/shared.raw is not the VM's alone",)
    other = PortRecord(side=Side.OUTBOUND, agreement=transfer.record.agreement)
    journal.store(other)
    journal.remove_erased(time.time() + 60)
    assert len(journal.load()[0]) == 2
    word = DisksErased(port_id=transfer.record.port_id, erased_bytes=5)
    transfer.erased(word)
    record = journal.get(transfer.record.port_id, Side.INBOUND)
    assert record is not None
    assert record.last_word is not None
    assert (record.quarantined_disks, record.last_word.message) == ((), word)
    path = tmp_path / "ports" / f"{record.port_id}.inbound.json"
    os.utime(path, (1000, 1000))
    journal.remove_erased(1000)
    assert path.exists()
    journal.remove_erased(1001)
    assert journal.load() == ([other], [])


@pytest.mark.parametrize(
    ("side", "phase", "known"),
    [
        (Side.INBOUND, Phase.SWITCHOVER_ASKED, 0),
        (Side.INBOUND, Phase.FINISH_PASSED, 2),
        (Side.INBOUND, Phase.KEPT, 2),
        (Side.INBOUND, Phase.DONE, 2),
        (Side.OUTBOUND, Phase.FINISH_PASSED, 0),
        (Side.OUTBOUND, Phase.DONE, 2),
        (Side.OUTBOUND, Phase.QUARANTINED, 2),
    ],
)
def test_what_is_older_than_what_was_heard(transfer: TransferJournal, side: Side, phase: Phase, known: int) -> None:
    """By the phase, or by what the donor was told; a message without an epoch is believed."""
    record = transfer.record.model_copy(update={"side": side, "phase": phase})
    assert record.agreement.epoch == 2
    assert record.heard_epoch == known
    assert [record.is_outdated(epoch) for epoch in (known - 1, known, known + 1, None)] == [True, False, False, False]
    told = record.model_copy(update={"told_epoch": 3})
    assert (told.heard_epoch, told.is_outdated(2), told.is_outdated(3)) == (3, True, False)


def test_an_epoch_is_stored_when_it_is_news(transfer: TransferJournal, tmp_path: Path) -> None:
    """And never goes back."""
    path = tmp_path / "ports" / f"{transfer.record.port_id}.inbound.json"
    transfer.remember_epoch(2)
    assert json.loads(path.read_bytes())["told_epoch"] == 2
    path.unlink()
    transfer.remember_epoch(2)
    transfer.remember_epoch(1)
    assert not path.exists()
    assert transfer.record.told_epoch == 2


def test_finish_is_stored_with_the_boot(transfer: TransferJournal, journal: Journal) -> None:
    """In one write."""
    transfer.pass_finish("b1")
    record = journal.get(transfer.record.port_id, Side.INBOUND)
    assert record is not None
    assert (record.phase, record.boot_id) == (Phase.FINISH_PASSED, "b1")


def test_that_the_guest_may_have_run_is_stored(transfer: TransferJournal, journal: Journal) -> None:
    """For the next process, beside all else."""
    transfer.pass_finish("b1")
    transfer.note_ran()
    record = journal.get(transfer.record.port_id, Side.INBOUND)
    assert record is not None
    assert (record.phase, record.boot_id, record.may_have_run) == (Phase.FINISH_PASSED, "b1", True)


def test_secrets_are_stored_by_their_names(transfer: TransferJournal, journal: Journal) -> None:
    """Which ones the VM has, and nothing of them."""
    transfer.remember_secrets(())
    transfer.remember_secrets((UUID(int=3),))
    record = journal.get(transfer.record.port_id, Side.INBOUND)
    assert record is not None
    assert record.secrets == (UUID(int=3),)


def test_why_an_arriving_guest_ends_is_watched_until_its_end_is_stored(
    transfer: TransferJournal, tmp_path: Path
) -> None:
    """The file is there before Finish is said to be passed; what the hook wrote is heard."""
    ended = tmp_path / "given-away" / f"{transfer.record.agreement.vm_uuid}.ended"
    transfer.pass_finish("boot")
    assert ended.read_bytes() == b""
    assert not transfer.ended_by_itself
    ended.write_text("crashed\n")
    assert transfer.ended_by_itself
    transfer.conclude(Phase.DONE, InboundFinished(port_id=transfer.record.port_id, epoch=2))
    assert not ended.exists()


def test_finish_is_not_passed_where_nobody_could_write_down_why_the_guest_ends(
    transfer: TransferJournal, tmp_path: Path
) -> None:
    """The next process would take a guest that ran for one that never did."""
    (tmp_path / "given-away").write_text("no directory")
    phase = transfer.record.phase
    with pytest.raises(OSError, match="given-away"):
        transfer.pass_finish("boot")
    assert transfer.record.phase is phase


def test_the_end_of_a_transfer_that_takes_the_vm_away_says_nothing_of_its_arrival(
    journal: Journal, transfer: TransferJournal
) -> None:
    """They are of one VM, on one host."""
    transfer.pass_finish("boot")
    leaving = TransferJournal(journal, transfer.record.model_copy(update={"side": Side.OUTBOUND}))
    leaving.conclude(Phase.FAILED, InboundFinished(port_id=transfer.record.port_id, epoch=2))
    assert (journal.given_away.directory / f"{transfer.record.agreement.vm_uuid}.ended").exists()
