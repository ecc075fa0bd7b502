"""What bears vmport's names is found in a real kernel, and told from what a record claims."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from services.node_agent.network.journal import NetworkRecord
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.nft import Nft
from services.node_agent.network.own_things import own_things, unclaimed
from services.node_agent.network.steps import Bridge, NftTable, Route
from shared.messages.network import NetworkMode
from shared.messages.porting import Side
from tests.services.node_agent.network.plans import BRIDGE, PORT, agreement, plan
from tests.support.own_network import needs_root, own_network

pytestmark = needs_root


@pytest.fixture(autouse=True)
def _network() -> Iterator[None]:
    with own_network():
        yield


def command(words: str) -> None:
    subprocess.run(words.split(), check=True, timeout=10)


async def test_found_told_apart_and_undone() -> None:
    record = NetworkRecord(side=Side.INBOUND, agreement=agreement(plan(announce=True)), there=True, extension=True)
    record = record.model_copy(update={"steps": record.wanted})
    stray = (Bridge(name="vmpffffffffff0"), Route(destination="192.0.2.9/32", device="lo", table=7070))
    maker = StepMaker()
    await maker.make((*record.steps, *stray, Bridge(name="vmx1234567890")))
    command("ip link add br0 type bridge")
    command("nft add table inet filter")

    found = await own_things(Nft())

    names = {str(step) for step in found}
    assert {f"bridge {BRIDGE}", "bridge vmx1234567890", "nftables table inet vmport_123456789a_0"} <= names
    assert not any(name in {"bridge br0", "nftables table inet filter"} for name in names)
    left = unclaimed(found, [record])
    assert {str(step) for step in left} == {
        "bridge vmpffffffffff0",
        "bridge vmx1234567890",
        "route to 192.0.2.9/32 over lo in table 7070",
    }
    assert await maker.undo(found) == ()
    assert await own_things(Nft()) == ()


async def test_what_the_switchover_makes_is_claimed_before_it() -> None:
    """A process may die with it made and not yet written down."""
    record = NetworkRecord(side=Side.OUTBOUND, agreement=agreement(plan(NetworkMode.TRANSLATE)))
    record = record.model_copy(update={"ahead": record.of_switchover})
    tables = tuple(step.model_copy(update={"objects": ()}) for step in record.ahead if isinstance(step, NftTable))
    assert len(tables) == 2
    assert unclaimed(tables, [record]) == ()
    assert unclaimed(tables, [record.model_copy(update={"ahead": ()})]) == tables


async def test_an_open_extensions_device_is_claimed() -> None:
    record = NetworkRecord(side=Side.OUTBOUND, agreement=agreement(plan()), extension=True)
    found = (Bridge(name=f"vmx{PORT.hex[:10]}0"), NftTable(family="inet", name="vmport_1", objects=()))
    assert unclaimed(found, [record]) == found[1:]
    assert unclaimed(found, [record.model_copy(update={"extension": False})]) == found
