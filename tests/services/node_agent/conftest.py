"""Fixtures of the node agent's tests; the worlds themselves are in `tests.support.node_world`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from shared.messages.service_change import PortLimits
from tests.support.lane_credentials import Pair as CredentialsPair
from tests.support.node_world import World
from tests.support.transfer_pair import NOW, OVERLAID_BASE, Pair, made_pair


@pytest.fixture
async def pair(credentials: CredentialsPair) -> AsyncIterator[Pair]:
    """A port at once."""
    async with made_pair(credentials) as made:
        yield made


@pytest.fixture
async def seeded_pair(credentials: CredentialsPair, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    """A port whose window opens in an hour, with seeding; the techniques that beta does without are the parameter."""
    limits = PortLimits(window_start=NOW + timedelta(hours=1), seed=True)
    async with made_pair(credentials, limits=limits, without=getattr(request, "param", ())) as made:
        yield made


@pytest.fixture
async def overlaid(credentials: CredentialsPair) -> AsyncIterator[Pair]:
    """Two hosts with a VM on the first whose disk is an overlay on `OVERLAID_BASE`; its transfers are not open yet."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="vmport-"))
        yield Pair(Path(folder), stack, credentials, base=OVERLAID_BASE)


@pytest.fixture
async def world(credentials: CredentialsPair) -> AsyncIterator[World]:
    """Two running nodes."""
    with TemporaryDirectory(prefix="vmport-") as folder:
        made = World(Path(folder), credentials)
        async with AsyncExitStack() as stack:
            for each in (made.alpha, made.beta):
                await stack.enter_async_context(each.hypervisor.serve(each.settings.libvirt_socket))
                await each.start()
                stack.push_async_callback(each.kill)
            broker = asyncio.get_running_loop().create_task(made.play_broker())
            yield made
            broker.cancel()
            await asyncio.gather(broker, return_exceptions=True)
