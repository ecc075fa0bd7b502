"""When the donor's help counts as not used any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from services.node_agent.network.help_watch import HelpWatch
from services.node_agent.network.journal import NetworkRecord
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.steps import NftTable
from shared.messages.network import NetworkMode
from shared.messages.porting import Side
from tests.services.node_agent.network.plans import PORT, agreement, plan


class Counting(StepMaker):
    """Translates nothing; says what it is told."""

    count = 0

    async def packets_translated(self, tables: Iterable[NftTable]) -> int:
        assert all(table.name.startswith("vmport_") for table in tables)
        return self.count


def record(mode: NetworkMode, *, extension: bool = False) -> NetworkRecord:
    made = NetworkRecord(side=Side.INBOUND, agreement=agreement(plan(mode, announce=True)), there=True)
    return made.model_copy(update={"extension": extension, "steps": made.wanted})


@pytest.mark.parametrize(("carried_s", "idle"), [(None, True), (14.9, False), (15.0, True)])
async def test_an_extension(carried_s: float | None, *, idle: bool) -> None:
    watch = HelpWatch(lambda _: carried_s, Counting(), idle_s=15)
    assert await watch.is_idle(record(NetworkMode.EXTEND, extension=True)) is idle


async def test_a_translation() -> None:
    """Not before it was looked at for long enough; each packet begins that again."""
    maker = Counting()
    watch = HelpWatch(lambda _: None, maker, idle_s=0.05)
    translated = record(NetworkMode.TRANSLATE)
    for maker.count in (0, 1):
        assert not await watch.is_idle(translated)
        await asyncio.sleep(0.06)
    assert await watch.is_idle(translated)
    watch.forget(PORT)
    assert not await watch.is_idle(translated)


async def test_gateways_of_a_neutral_prefix_are_no_help_of_the_donors() -> None:
    assert not await HelpWatch(lambda _: 99.0, Counting(), idle_s=0).is_idle(record(NetworkMode.ANCHOR))
