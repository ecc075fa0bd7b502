"""What a tenant is told of how its VM keeps its addresses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from services.broker.network_queries import network_answer
from shared.messages.addresses import NetworkReported, NetworkShown, NetworkState, ShowNetwork
from shared.messages.queries import QueryFailed
from tests.support.broker_samples import ACME, BETA_NODE, PORT, VM, plan
from tests.support.networked_world import Networked


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Networked]:
    """A port by extension for an hour, completed."""
    async with Networked(f"sqlite:///{tmp_path}/ledger.db", plan("extend", ends_after_s=3600)) as world:
        await world.completed()
        yield world


async def test_what_a_tenant_is_shown(world: Networked) -> None:
    """The plan, who serves the VM, the donor's help and the nodes' reports; by port or by VM."""
    await world.tell(BETA_NODE, NetworkReported(port_id=PORT, epoch=2, state=NetworkState.CARRYING, first_answer_ms=42))
    for question in (ShowNetwork(port_id=PORT), ShowNetwork(vm_uuid=VM)):
        await world.tell(ACME, question)
    first, second = (e.data for e in world.broker.received(ACME) if isinstance(e.data, NetworkShown))
    assert first == second
    assert (first.provider, first.epoch, first.plan) == ("beta", 2, plan("extend", ends_after_s=3600))
    assert first.extension is not None
    assert first.findings == ("52:54:00:00:00:01: 192.0.2.7 is declared, and not seen",)
    assert [(each.state, each.first_answer_ms) for each in first.reports] == [(NetworkState.CARRYING, 42)]


@pytest.mark.parametrize(
    ("question", "tenant", "code"),
    [
        (ShowNetwork(), "acme", "invalid"),
        (ShowNetwork(port_id=UUID(int=9)), "acme", "not_found"),
        (ShowNetwork(port_id=PORT), "globex", "not_found"),
        (ShowNetwork(vm_uuid=VM), "globex", "not_found"),
    ],
)
async def test_what_is_not_there_or_not_yours(world: Networked, question: ShowNetwork, tenant: str, code: str) -> None:
    """Both are answered alike."""
    async with world.store.reading() as connection:
        answer = await network_answer(connection, question, tenant)
    assert isinstance(answer, QueryFailed)
    assert answer.code == code
