"""`vmport-node net` in a network of the test's own: what is listed, what is missing, what is removed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.node_agent.net_command import main
from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.netlink import Netlink
from services.node_agent.network.steps import Bridge, Route
from services.node_agent.network.tracking.table import ConnectionTable
from services.node_agent.network.tracking.taken import TakenConnections
from services.node_agent.network.tracking.values import Changes
from services.node_agent.state.lock import StateLock
from shared.messages.porting import Side
from tests.services.node_agent.network.plans import BRIDGE, PORT, agreement, plan
from tests.services.node_agent.network.tracking.test_exchange import connection
from tests.support.own_network import needs_root, own_network

pytestmark = needs_root


@pytest.fixture(autouse=True)
def _network() -> Iterator[None]:
    with own_network():
        yield


@pytest.fixture
def record(tmp_path: Path) -> NetworkRecord:
    """A VM that has arrived and is announced, made and stored."""
    found = NetworkRecord(side=Side.INBOUND, agreement=agreement(plan(announce=True)), there=True)
    found = found.model_copy(update={"steps": found.wanted})
    NetworkJournal(tmp_path / "network").store(found)
    asyncio.run(StepMaker().make(found.steps))
    return found


def devices() -> list[str]:
    """Names of all devices."""

    async def names() -> list[str]:
        async with Netlink() as kernel:
            return [link.name for link in await kernel.links()]

    return asyncio.run(names())


def test_a_port_is_listed_with_what_is_missing(
    record: NetworkRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--state-dir", str(tmp_path), "list"]
    assert main([*arguments, "--json"]) == 0
    (port,) = json.loads(capsys.readouterr().out)["ports"]
    assert (port["port_id"], port["missing"], port["mode"]) == (str(PORT), [], "extend")

    asyncio.run(StepMaker().undo([step for step in record.steps if isinstance(step, Route) and step.table == 7070]))
    assert main(arguments) == 1
    assert "MISSING route to 10.81.1.10/32" in capsys.readouterr().out


def test_what_no_record_claims_is_removed_and_nothing_else(
    record: NetworkRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record.steps
    asyncio.run(StepMaker().make([Bridge(name="vmpdeadbeef000")]))
    assert main(["--state-dir", str(tmp_path), "list"]) == 1
    assert "of no port: bridge vmpdeadbeef000" in capsys.readouterr().out
    assert main(["--state-dir", str(tmp_path), "prune", "--dry-run"]) == 0
    assert "would remove: bridge vmpdeadbeef000" in capsys.readouterr().out
    assert main(["--state-dir", str(tmp_path), "prune"]) == 0
    assert devices() == ["lo", BRIDGE]


def test_a_ports_changes_are_removed_while_the_agent_is_stopped(
    record: NetworkRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--state-dir", str(tmp_path), "prune", "--port", str(record.port_id)]
    lock = StateLock(tmp_path)
    lock.acquire()
    assert main(arguments) == 1
    assert "stop the node agent first" in capsys.readouterr().err
    lock.release()
    assert main(arguments) == 0
    assert devices() == ["lo"]
    assert main(["--state-dir", str(tmp_path), "list"]) == 0
    assert "no port has changed" in capsys.readouterr().out


def test_wrong_usage_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--state-dir", str(tmp_path), "prune", "--port", "x"])
    assert "invalid UUID" in capsys.readouterr().err


def test_a_ports_connections_are_removed_with_it(record: NetworkRecord, tmp_path: Path) -> None:
    """Those that were taken over for it, and no other of the VM's."""
    table, taken = ConnectionTable(), TakenConnections(tmp_path / "network")
    addresses = frozenset({"10.81.1.10"})

    async def take() -> None:
        await table.insert([connection(1)])
        await taken.take(PORT, addresses, Changes((connection(1), connection(2)), ()))

    asyncio.run(take())
    assert main(["--state-dir", str(tmp_path), "prune", "--port", str(record.port_id)]) == 0
    assert [each.source_port for each in asyncio.run(table.read(addresses)).connections] == [1]
    assert list((tmp_path / "network").iterdir()) == []
