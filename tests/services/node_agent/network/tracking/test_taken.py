"""What was inserted for a port is on disk before, and is removed if the VM does not come; nothing else is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from services.node_agent.network.tracking.table import ConnectionTable, Inserted, TrackingError
from services.node_agent.network.tracking.taken import TakenConnections
from services.node_agent.network.tracking.values import Changes, ConnectionKey, TrackedConnection, TrackedFound
from tests.services.node_agent.network.plans import PORT
from tests.services.node_agent.network.tracking.test_exchange import connection

ADDRESSES = frozenset({"10.81.1.10"})


def listed(directory: Path) -> list[Path]:
    """The lists of ports."""
    return list(directory.iterdir())


class FakeTable(ConnectionTable):
    """A kernel's table in memory. `directory`: where, at each insertion, the list must be."""

    def __init__(self, directory: Path | None = None) -> None:
        self.there: dict[ConnectionKey, TrackedConnection] = {}
        self.directory = directory
        self.problem = ""
        self.looked = 0

    async def read(
        self,
        addresses: Iterable[str],
        *,
        most: int = 9,  # noqa: ARG002  # ConnectionTable
    ) -> TrackedFound:
        self._check()
        self.looked += 1
        wanted = set(addresses)
        return TrackedFound(tuple(each for each in self.there.values() if {each.source, each.destination} & wanted))

    async def insert(self, connections: Sequence[TrackedConnection]) -> Inserted:
        self._check()
        new = tuple(each.key for each in connections if each.key not in self.there)
        if self.directory is not None:
            (path,) = self.directory.glob("*.connections")
            assert len(path.read_text().splitlines()) >= len(new)
        self.there.update({each.key: each for each in connections})
        return Inserted(new, len(connections) - len(new))

    async def delete(self, keys: Sequence[ConnectionKey]) -> None:
        self._check()
        for key in keys:
            self.there.pop(key, None)

    def _check(self) -> None:
        if self.problem:
            raise TrackingError(self.problem)


async def test_inserted_and_removed_again(tmp_path: Path) -> None:
    """By another process, too; what was there before stays."""
    table = FakeTable(tmp_path)
    table.there[connection(1).key] = connection(1)
    taken = TakenConnections(tmp_path, table)
    answer = await taken.take(PORT, ADDRESSES, Changes((connection(1), connection(2), connection(3)), ()))
    assert (answer.new, answer.there) == (2, 1)
    await taken.take(PORT, ADDRESSES, Changes((connection(4),), (connection(2).key, connection(1).key)))
    assert set(table.there) == {connection(port).key for port in (1, 3, 4)}

    assert await TakenConnections(tmp_path, table).undo(PORT) == ()
    assert set(table.there) == {connection(1).key}
    assert listed(tmp_path) == []


async def test_kept_when_the_vm_is_here(tmp_path: Path) -> None:
    """What still comes is inserted, and no list of it is left."""
    table = FakeTable()
    taken = TakenConnections(tmp_path, table)
    await taken.take(PORT, ADDRESSES, Changes((connection(1),), ()))
    taken.keep(PORT)
    await taken.take(PORT, ADDRESSES, Changes((connection(2),), ()))
    assert await taken.undo(PORT) == ()
    assert len(table.there) == 2
    assert listed(tmp_path) == []


async def test_other_addresses_are_refused(tmp_path: Path) -> None:
    table = FakeTable()
    answer = await TakenConnections(tmp_path, table).take(
        PORT, frozenset({"10.81.1.11"}), Changes((connection(1),), ())
    )
    assert (answer.new, answer.refused, table.there) == (0, 1, {})


async def test_a_donor_cannot_fill_the_table(tmp_path: Path) -> None:
    """By many rounds, nor by another process's; what is there already is brought up to date all the same."""
    table = FakeTable()
    taken = TakenConnections(tmp_path, table, most=3)
    answer = await taken.take(PORT, ADDRESSES, Changes((connection(1), connection(2)), ()))
    assert (answer.new, answer.refused) == (2, 0)
    answer = await taken.take(PORT, ADDRESSES, Changes((connection(1), connection(3), connection(4)), ()))
    assert (answer.new, answer.there, answer.refused) == (1, 1, 1)
    again = TakenConnections(tmp_path, table, most=3)
    answer = await again.take(PORT, ADDRESSES, Changes((connection(5),), ()))
    assert (answer.new, answer.refused) == (0, 1)
    assert (
        await TakenConnections(tmp_path, table, most=0).take(PORT, ADDRESSES, Changes((connection(6),), ()))
    ).new == 0


async def test_a_torn_list(tmp_path: Path) -> None:
    """Of a crash while it was written: what it names is removed, the rest was never inserted."""
    table = FakeTable()
    taken = TakenConnections(tmp_path, table)
    await taken.take(PORT, ADDRESSES, Changes((connection(1),), ()))
    (path,) = listed(tmp_path)
    path.write_text(path.read_text() + '["tcp", "10')
    assert await taken.undo(PORT) == ()
    assert table.there == {}


@pytest.mark.parametrize("when", ["take", "undo"])
async def test_a_kernel_without_tracking(tmp_path: Path, when: str) -> None:
    """It is told, and tried again."""
    table = FakeTable()
    taken = TakenConnections(tmp_path, table)
    if when == "take":
        table.problem = "no permission"
        assert (await taken.take(PORT, ADDRESSES, Changes((connection(1),), ()))).problem == "no permission"
        return
    await taken.take(PORT, ADDRESSES, Changes((connection(1),), ()))
    table.problem = "no permission"
    (left,) = await taken.undo(PORT)
    assert "no permission" in left
    table.problem = ""
    assert await taken.undo(PORT) == ()
    assert table.there == {}
