"""A world with one agent in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.recipient_world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A fresh world."""
    return World(tmp_path)


@pytest.fixture
async def running(world: World) -> AsyncIterator[World]:
    """A world with a running agent."""
    async with world.agent():
        yield world
