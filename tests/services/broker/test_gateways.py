"""Gateways of a neutral prefix are told with the commit, and again until they have answered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.broker import gateways
from services.broker.saga import Anchor
from services.broker.settings import AnchorSettings
from shared.bus import Reject
from shared.messages.addresses import AddressesServed, ServeAddresses
from shared.messages.service_change import PortPhase
from shared.parties import Party, node
from tests.support.broker_samples import ALPHA_NODE, PORT, VM, plan
from tests.support.broker_world import PARTIES, settings
from tests.support.networked_world import Networked

FIRST, SECOND = node("exchange", "gw-1"), node("exchange", "gw-2")
ANCHOR = AnchorSettings(prefixes=("192.0.2.0/24", "2001:db8::/32"), gateways=("exchange/gw-1", "exchange/gw-2"))


class Anchored(Networked):
    """A world with two gateways."""

    def told_to(self, gateway: Party) -> list[ServeAddresses]:
        """What a gateway was sent."""
        return [each.data for each in self.broker.received(gateway) if isinstance(each.data, ServeAddresses)]


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Anchored]:
    """A port by anchor, completed; no gateway has answered."""
    monkeypatch.setattr(
        "tests.support.broker_world.settings", lambda url: settings(url).model_copy(update={"anchor": ANCHOR})
    )
    monkeypatch.setattr("tests.support.broker_world.PARTIES", (*PARTIES, FIRST, SECOND))
    async with Anchored(f"sqlite:///{tmp_path}/ledger.db", plan("anchor")) as world:
        await world.ask_for_port()
        await world.until_phase(PortPhase.COMPLETED)
        await world.settled()
        yield world


def served(epoch: int = 2) -> AddressesServed:
    """A gateway's answer."""
    return AddressesServed(port_id=PORT, vm_uuid=VM, epoch=epoch)


async def test_a_silent_gateway_is_told_again(world: Anchored) -> None:
    """Less and less often, until it answers; the other one is not bothered."""
    assert [(told.epoch, told.owner) for told in world.told_to(FIRST)] == [(2, "beta")]
    await world.tell(SECOND, served())
    for seconds in (5, 10):
        await world.pass_time(seconds)
    assert (len(world.told_to(FIRST)), len(world.told_to(SECOND))) == (3, 1)
    await world.tell(FIRST, served())
    await world.pass_time(3600)
    assert (len(world.told_to(FIRST)), len(world.told_to(SECOND))) == (3, 1)
    assert await world.events("AddressesServed") == [
        ("node.exchange.gw-2", "serves epoch 2"),
        ("node.exchange.gw-1", "serves epoch 2"),
    ]


async def test_an_answer_to_an_earlier_word_settles_nothing(world: Anchored) -> None:
    """The newer one is still open; one that has heard of a newer epoch has been told enough."""
    await world.tell(FIRST, served(1))
    await world.pass_time(5)
    assert len(world.told_to(FIRST)) == 2
    await world.tell(FIRST, served(7))
    await world.pass_time(3600)
    assert len(world.told_to(FIRST)) == 2
    assert (await world.events("AddressesServed"))[-1][1] == "serves epoch 7; the ledger has epoch 2"


async def test_a_restarted_broker_tells_them_again(world: Anchored) -> None:
    """What is open is in the ledger."""
    await world.restart()
    await world.pass_time(5)
    assert len(world.told_to(FIRST)) == 2


async def test_only_gateways_answer(world: Anchored) -> None:
    """Neither the port's own nodes nor for a port that is not there."""
    with pytest.raises(Reject, match="is no gateway"):
        await world.service.handle(world.seal(ALPHA_NODE, served()))
    stranger = served().model_copy(update={"port_id": VM})
    with pytest.raises(Reject, match="there is no port"):
        await world.service.handle(world.seal(FIRST, stranger))


async def test_a_newer_word_replaces_the_older(world: Anchored) -> None:
    """It alone is repeated."""
    newer = world.told_to(FIRST)[0].model_copy(update={"epoch": 3, "owner": "alpha", "care_of": ()})
    async with world.store.transaction() as tx:
        await gateways.told(tx, FIRST, newer)
    await world.pass_time(5)
    assert [told.epoch for told in world.told_to(FIRST)] == [2, 3]


def test_settings_name_gateways_and_prefixes_together() -> None:
    """PROVIDER/NODE becomes the node's party."""
    assert ANCHOR.anchor() == Anchor(prefixes=ANCHOR.prefixes, gateways=(str(FIRST), str(SECOND)))
    assert AnchorSettings().anchor() == Anchor()
    for wrong in ({"prefixes": ["192.0.2.0/24"]}, {"prefixes": ["192.0.2.0/24"], "gateways": ["gw-1"]}):
        with pytest.raises(ValueError, match="gateways"):
            AnchorSettings.model_validate(wrong)
