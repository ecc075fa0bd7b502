"""Cleaning up: exactly what the journal lists, domain first; what cannot go stays listed."""

from __future__ import annotations

import errno
from pathlib import Path
from uuid import UUID

import pytest

from services.node_agent.hypervisor.interface import HypervisorError
from services.node_agent.hypervisor.secret_values import SecretSpec, made_by
from services.node_agent.hypervisor.testing import FakeHypervisor
from services.node_agent.state.journal import Journal, Kind, Made, Phase, PortRecord, TransferJournal
from services.node_agent.transfers.cleanup import forget_directory, remove_created, still_to_remove
from shared.domain import SecretUsage
from shared.messages.porting import Side
from tests.support.transfer_pair import DOMAIN, VM, make_agreement


def transfer_journal(folder: Path) -> TransferJournal:
    """A transfer with nothing made."""
    agreement = make_agreement(folder / "d.raw", domain_xml=DOMAIN % "/a.raw")
    return TransferJournal(Journal(folder / "journal").open(), PortRecord(side=Side.INBOUND, agreement=agreement))


async def test_only_what_was_made_is_removed(tmp_path: Path) -> None:
    """A neighbour's file and VM stay."""
    disk, neighbour, run = tmp_path / "d.raw", tmp_path / "n.raw", tmp_path / "run"
    disk.touch()
    neighbour.touch()
    run.mkdir()
    (run / "mem.sock").touch()
    hypervisor = FakeHypervisor()
    hypervisor.add(DOMAIN % disk, persistent=False)
    journal = transfer_journal(tmp_path)
    for kind, name in ((Kind.DISK, disk), (Kind.DIRECTORY, run), (Kind.DOMAIN, VM)):
        journal.will_create(kind, str(name))
    assert await remove_created(journal, hypervisor) == ()
    assert (disk.exists(), run.exists(), neighbour.exists()) == (False, False, True)
    assert hypervisor.vms == {}
    assert journal.record.made == ()


async def test_what_was_never_made_needs_no_removal(tmp_path: Path) -> None:
    """The journal is written first, so a crash may leave names of nothing."""
    journal = transfer_journal(tmp_path)
    journal.will_create(Kind.DISK, str(tmp_path / "never.raw"))
    journal.will_create(Kind.DOMAIN, str(VM))
    assert await remove_created(journal, FakeHypervisor()) == ()


async def test_variables_and_tpm_are_removed_with_the_disks(tmp_path: Path) -> None:
    """libvirt leaves the variables after a failed migration; what was never made needs no removal."""
    variables, folder = tmp_path / "web_VARS.fd", tmp_path / str(VM)
    variables.touch()
    (folder / "tpm2").mkdir(parents=True)
    journal = transfer_journal(tmp_path)
    journal.will_create(Kind.NVRAM, str(variables))
    journal.will_create(Kind.TPM, str(folder))
    journal.will_create(Kind.TPM, str(tmp_path / "never" / str(VM)))
    assert await remove_created(journal, FakeHypervisor()) == ()
    assert (variables.exists(), folder.exists()) == (False, False)


async def test_the_tpm_of_a_vm_that_has_come_since_is_left_alone(tmp_path: Path) -> None:
    """Its folder has the same name: a clean-up that comes late must not take it."""
    folder = tmp_path / str(VM)
    folder.mkdir()
    hypervisor = FakeHypervisor()
    hypervisor.add(DOMAIN % (tmp_path / "another.raw"))
    journal = transfer_journal(tmp_path)
    journal.will_create(Kind.TPM, str(folder))
    assert await remove_created(journal, hypervisor) == ()
    assert folder.exists()


async def test_what_cannot_be_removed_is_named_and_stays_in_the_journal(tmp_path: Path) -> None:
    """The next attempt tries again."""
    folder = tmp_path / "a-folder"
    folder.mkdir()
    journal = transfer_journal(tmp_path)
    journal.will_create(Kind.DISK, str(folder))
    assert await remove_created(journal, FakeHypervisor()) == (f"disk {folder}",)
    assert len(journal.record.made) == 1


async def test_disks_stay_while_the_domain_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt does not answer: the guest may run, and must not run on unlinked files."""
    disk = tmp_path / "d.raw"
    disk.touch()
    hypervisor = FakeHypervisor()

    async def unreachable(uuid: UUID, *, disks: tuple[str, ...]) -> None:
        assert disks == (str(disk),)
        raise HypervisorError(f"destroy VM {uuid}", "libvirtd is away")

    monkeypatch.setattr(hypervisor, "destroy_created", unreachable)
    journal = transfer_journal(tmp_path)
    journal.will_create(Kind.DISK, str(disk))
    journal.will_create(Kind.DOMAIN, str(VM))
    assert await remove_created(journal, hypervisor) == (f"domain {VM}", f"disk {disk}")
    assert disk.exists()
    assert len(journal.record.made) == 2


async def test_a_lasting_vm_with_the_ports_disks_is_left_alone_and_its_disks_too(tmp_path: Path) -> None:
    """An operator has defined it since: that is told, and nothing of it removed."""
    disk = tmp_path / "d.raw"
    disk.touch()
    hypervisor = FakeHypervisor()
    hypervisor.add(DOMAIN % disk)
    journal = transfer_journal(tmp_path)
    journal.will_create(Kind.DISK, str(disk))
    journal.will_create(Kind.DOMAIN, str(VM))
    assert await remove_created(journal, hypervisor) == (f"domain {VM}", f"disk {disk}")
    assert disk.exists()
    assert VM in hypervisor.vms


async def test_what_is_gone_may_stay_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal cannot be written: the removal has succeeded all the same."""
    journal = transfer_journal(tmp_path)
    journal.will_create(Kind.DIRECTORY, str(tmp_path / "run"))

    def full(_: PortRecord) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal._journal, "store", full)
    assert await remove_created(journal, FakeHypervisor()) == ()
    forget_directory(journal)
    assert len(journal.record.made) == 1


@pytest.mark.parametrize(
    ("side", "phase", "kinds"),
    [
        (Side.INBOUND, Phase.FAILED, set(Kind)),
        (Side.INBOUND, Phase.DONE, {Kind.DIRECTORY}),
        (Side.INBOUND, Phase.KEPT, {Kind.DIRECTORY}),
        (Side.OUTBOUND, Phase.DONE, set(Kind)),
    ],
)
def test_what_an_ended_transfer_may_have_left_behind(
    tmp_path: Path, side: Side, phase: Phase, kinds: set[Kind]
) -> None:
    """Nothing of a guest that may have run here."""
    record = transfer_journal(tmp_path).record.model_copy(
        update={"side": side, "phase": phase, "made": tuple(Made(kind=kind, id="x") for kind in Kind)}
    )
    assert {made.kind for made in still_to_remove(record)} == kinds


async def test_a_secret_is_removed_with_the_disks_if_the_port_made_it(tmp_path: Path) -> None:
    """One of the same UUID that was there before is somebody's."""
    hypervisor, journal = FakeHypervisor(), transfer_journal(tmp_path)
    port = journal.record.port_id
    ours, theirs, never = UUID(int=1), UUID(int=2), UUID(int=3)
    hypervisor.secrets.add(SecretSpec(ours, SecretUsage.VTPM, f"{made_by(port)}tpm"), b"key")
    hypervisor.secrets.add(SecretSpec(theirs, SecretUsage.VTPM, f"{made_by(never)}tpm"), b"key")
    for uuid in (ours, theirs, never):
        journal.will_create(Kind.SECRET, str(uuid))
    assert await remove_created(journal, hypervisor) == ()
    assert set(hypervisor.secrets.there) == {theirs}
    assert journal.record.made == ()
