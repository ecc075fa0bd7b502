"""Records of what ports changed in the network: stored, found, damaged, and what each wants."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.steps import Bridge, NftTable, ProxyNeighbour
from shared.messages.network import NetworkMode
from shared.messages.porting import Side
from tests.services.node_agent.network.plans import BRIDGE, GUEST_MAC, PORT, agreement, plan


def record(side: Side = Side.INBOUND, *, mode: NetworkMode = NetworkMode.EXTEND, **more: object) -> NetworkRecord:
    """A record of the tests' port."""
    return NetworkRecord(side=side, agreement=agreement(plan(mode))).model_copy(update=more)


def test_each_side_has_a_record_of_its_own(tmp_path: Path) -> None:
    journal = NetworkJournal(tmp_path / "network")
    assert (journal.all(), journal.get(PORT, Side.INBOUND)) == (((), ()), None)
    steps = (Bridge(name=BRIDGE), NftTable(family="inet", name="vmport_1", objects=({"chain": {}},)))
    mine, theirs = record(steps=steps), record(Side.OUTBOUND)
    journal.store(theirs)
    journal.store(mine)

    assert journal.get(PORT, Side.INBOUND) == mine
    assert {each.side for each in journal.all()[0]} == set(Side)
    journal.remove(PORT, Side.INBOUND)
    journal.remove(PORT, Side.INBOUND)
    assert journal.all() == ((theirs,), ())


def test_a_damaged_record_is_set_aside_once(tmp_path: Path) -> None:
    journal = NetworkJournal(tmp_path)
    journal.store(record())
    file = tmp_path / f"{PORT}-inbound.json"
    file.write_bytes(b"{")
    assert journal.get(PORT, Side.INBOUND) is None
    assert journal.readable() == ()
    assert file.exists()
    assert journal.all() == ((), (f"{PORT}-inbound.damaged",))
    assert journal.all() == ((), ())


def test_what_a_donors_record_wants_changes_with_the_port() -> None:
    taps = {GUEST_MAC: "vnet0"}
    before = record(Side.OUTBOUND, taps=taps, extension=True)
    paused = before.model_copy(update={"paused": True})
    away = paused.model_copy(update={"there": True})
    assert (before.wanted, away.wanted) == ((), ())
    assert [type(step) for step in paused.wanted] == [NftTable]
    assert (before.is_over, away.is_over) == (False, False)
    assert away.model_copy(update={"closed": True, "extension": False}).is_over


def test_what_a_switchover_makes_is_known_before_it() -> None:
    """At the donor alone, and only once where it is made already."""
    record = NetworkRecord(side=Side.OUTBOUND, agreement=agreement(plan(NetworkMode.TRANSLATE)))
    assert record.wanted == ()
    ahead = record.of_switchover
    assert [str(step) for step in ahead] == [
        f"nftables table {family} vmport_away_123456789a" for family in ("ip", "ip6")
    ]
    assert record.model_copy(update={"ahead": ahead}).known == ahead
    assert record.model_copy(update={"ahead": ahead, "steps": ahead[:1]}).known == ahead
    assert record.model_copy(update={"side": Side.INBOUND}).of_switchover == ()


def test_a_translating_donor_is_needed_until_its_help_ends() -> None:
    away = record(Side.OUTBOUND, mode=NetworkMode.TRANSLATE, there=True)
    assert ProxyNeighbour in {type(step) for step in away.wanted}
    assert away.model_copy(update={"closed": True}).is_over
    assert not record(mode=NetworkMode.TRANSLATE, there=True, closed=True).is_over


def test_there_is_no_record_without_a_plan() -> None:
    with pytest.raises(ValueError, match=str(PORT)):
        _ = NetworkRecord(side=Side.INBOUND, agreement=agreement(None)).plan
    assert record().vm_uuid == agreement(None).vm_uuid != UUID(int=0)


def test_what_is_noted_is_not_lost_by_who_stores_steps(tmp_path: Path) -> None:
    """Both change the same file, and neither knows of the other."""
    journal = NetworkJournal(tmp_path)
    journal.store(read := record())
    assert journal.note(PORT, Side.INBOUND, there=True) is not None
    assert journal.note(PORT, Side.OUTBOUND, there=True) is None
    journal.store_steps(read, (Bridge(name=BRIDGE),))
    found = journal.get(PORT, Side.INBOUND)
    assert found == read.model_copy(update={"there": True, "steps": (Bridge(name=BRIDGE),)})


def test_who_writes_the_records_reads_them_once(tmp_path: Path) -> None:
    """By `all`; from then on they are in memory, as they are on disk."""
    journal = NetworkJournal(tmp_path)
    journal.store(record())
    assert journal.all() == ((record(),), ())
    journal.store(record(Side.OUTBOUND))
    for file in tmp_path.iterdir():
        file.rename(tmp_path / "aside")
        (tmp_path / "aside").unlink()
    assert journal.readable() == (record(), record(Side.OUTBOUND))
    assert journal.get(PORT, Side.OUTBOUND) == record(Side.OUTBOUND)
    journal.remove(PORT, Side.INBOUND)
    assert journal.readable() == (record(Side.OUTBOUND),)
    assert journal.all() == ((), ())


def test_a_record_that_is_undone_wants_nothing() -> None:
    undone = record(mode=NetworkMode.TRANSLATE, there=True, undone=True)
    assert (undone.wanted, undone.is_over) == ((), True)
