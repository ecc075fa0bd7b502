"""Files about VMs that left: durable, of one port each, and gone only when the VM is this host's again."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

import pytest

from services.node_agent.state.given_away import ARRIVING, GivenAway, GivenAwayDamaged, GivenAwayVm
from tests.support.transfer_pair import DOMAIN, VM, make_agreement

AGREEMENT = make_agreement(Path("/x.raw"), domain_xml=DOMAIN % "/a.raw")
GIVEN = GivenAwayVm.by(AGREEMENT, since="2026-01-01T00:00:00+00:00", reason="the switchover was asked for")


@pytest.fixture
def given_away(tmp_path: Path) -> GivenAway:
    store = GivenAway(tmp_path / "given-away")
    store.store(GIVEN)
    return store


def test_what_is_stored_is_read(given_away: GivenAway) -> None:
    """And a shell reads it as well: a line per fact. Of other VMs nothing is said."""
    assert given_away.get(VM) == GIVEN
    assert given_away.get(uuid4()) is None
    lines = (given_away.directory / str(VM)).read_text().splitlines()
    assert {f"port_id={AGREEMENT.port_id}", "epoch=2", "recipient=beta", "recipient_node=beta-1"} <= set(lines)


def test_it_says_by_which_port_and_to_whom() -> None:
    """The epoch is the one that the recipient got."""
    assert GivenAwayVm.by(AGREEMENT, since="2026-01-01T00:00:00+00:00", reason="x") == GivenAwayVm(
        vm_uuid=VM,
        port_id=AGREEMENT.port_id,
        epoch=2,
        recipient="beta",
        recipient_node="beta-1",
        since="2026-01-01T00:00:00+00:00",
        reason="x",
    )


def test_a_reason_may_hold_any_sign_but_a_new_line() -> None:
    """Only the first `=` of a line ends the key."""
    vm = GivenAwayVm.by(AGREEMENT, since="now", reason="epoch=3, owner=beta")
    assert GivenAwayVm.from_bytes(vm.to_bytes()) == vm


def test_the_directory_is_the_agents_alone_and_is_made_once(tmp_path: Path) -> None:
    """With what is missing above it."""
    store = GivenAway(tmp_path / "var" / "given-away")
    old = os.umask(0)
    try:
        store.store(GIVEN)
    finally:
        os.umask(old)
    assert store.directory.stat().st_mode & 0o777 == 0o700
    store.store(GIVEN)
    assert store.get(VM) == GIVEN


def test_a_return_of_a_vm_that_never_left_is_nothing(given_away: GivenAway) -> None:
    """Every arrival tells it."""
    given_away.has_returned(uuid4(), 2)
    assert given_away.get(VM) == GIVEN


def test_only_the_port_that_gave_it_away_takes_it_back(given_away: GivenAway) -> None:
    """An old port's failure does not open what a later one has closed."""
    given_away.take_back(VM, uuid4())
    assert given_away.given_by(VM, AGREEMENT.port_id)
    given_away.take_back(VM, AGREEMENT.port_id)
    assert given_away.get(VM) is None
    given_away.take_back(VM, AGREEMENT.port_id)


def test_a_return_needs_a_later_epoch(given_away: GivenAway) -> None:
    """A message of an older port that is late removes nothing; and an older port cannot bring the VM."""
    given_away.has_returned(VM, 2)
    assert given_away.get(VM) == GIVEN
    assert str(AGREEMENT.port_id) in (given_away.why_not(VM, 2) or "")
    assert given_away.why_not(VM, 3) is None
    given_away.has_returned(VM, 3)
    assert given_away.get(VM) is None
    assert given_away.why_not(VM, 1) is None


def test_a_vm_that_comes_back_is_let_in_meanwhile(given_away: GivenAway) -> None:
    """The file stays, because the port may fail; a VM that never left needs no mark."""
    mark = given_away.directory / f"{VM}{ARRIVING}"
    with given_away.admitted(VM):
        assert mark.exists()
    assert not mark.exists()
    assert given_away.get(VM) == GIVEN
    with given_away.admitted(uuid4()):
        assert [path.name for path in given_away.directory.iterdir()] == [str(VM)]


def test_marks_of_a_dead_process_go_at_the_next_start(given_away: GivenAway, tmp_path: Path) -> None:
    """Nothing arrives then; where there is no directory there is nothing to do."""
    mark = given_away.directory / f"{VM}{ARRIVING}"
    mark.touch()
    given_away.dismiss_all()
    assert not mark.exists()
    assert given_away.get(VM) == GIVEN
    GivenAway(tmp_path / "none").dismiss_all()


def test_a_damaged_file_still_says_that_the_vm_left(given_away: GivenAway) -> None:
    """It proves no port, and does not go but with the VM's return."""
    (given_away.directory / str(VM)).write_text("port_id=?\n")
    with pytest.raises(GivenAwayDamaged, match="damaged"):
        given_away.get(VM)
    assert not given_away.given_by(VM, AGREEMENT.port_id)
    given_away.take_back(VM, AGREEMENT.port_id)
    assert (given_away.directory / str(VM)).exists()
    given_away.has_returned(VM, 3)
    assert given_away.get(VM) is None
