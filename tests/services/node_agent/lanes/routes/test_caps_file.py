"""The operator's file of caps: applied while lanes run, and never half."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.node_agent.lanes.routes.caps import Caps
from services.node_agent.lanes.routes.caps_file import CapsFile
from tests.support.lane_credentials import Pair
from tests.support.two_routes import BLOCK, PORT, rates, two_routes


async def test_a_cap_holds_and_changes_while_it_runs(credentials: Pair, tmp_path: Path) -> None:
    """Bulk goes at the cap's rate; another figure in the operator's file counts at once."""
    file = tmp_path / "caps.toml"
    async with two_routes(credentials) as lane, asyncio.TaskGroup() as group:
        watched = CapsFile(file, lane.caps[0])
        file.write_text("[peers]\nbeta = 1_000_000\n")
        watched.check()
        lane.start(group)
        await asyncio.gather(*(session.wait_ready() for session in lane.sessions))
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await lane.send_and_check(32)
        capped_s = loop.time() - began_s
        assert capped_s == pytest.approx(32 * len(BLOCK) / 1e6, rel=0.25)

        def lift() -> None:
            file.unlink()
            watched.check()

        began_s = loop.time()
        await lane.send_and_check(64, meanwhile={16: lift})
        assert loop.time() - began_s < 0.7 * 64 * len(BLOCK) / 1e6
        await lane.close()


async def test_a_bad_caps_file_changes_nothing(tmp_path: Path) -> None:
    """A slip of the pen neither lifts a cap nor stops the process."""
    file, caps = tmp_path / "caps.toml", Caps()
    watched = CapsFile(file, caps)
    file.write_text("[peers]\nbeta = 1_000_000\n")
    watched.check()
    file.write_text("[peers]\nbeta = -5\n[nonsense]\n")
    watched.check()
    assert rates(caps.lane(PORT, "beta", None, bulk=True)) == [None, 1e6]
