"""Who serves a VM that has left: answered by this side for a set time, once it is certain."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from services.node_agent.network.moved import MovedVms, serve_moved
from services.node_agent.state.given_away import GivenAwayVm
from services.node_agent.state.journal import Journal, Phase, PortRecord
from shared.config import ConfigError
from shared.messages.network import NetworkMode
from shared.messages.porting import Side
from shared.tasks import Tasks
from tests.services.node_agent.network.plans import agreement, plan

AGREED = agreement(plan(NetworkMode.TRANSLATE))
LEFT_AT = datetime(2026, 1, 1, tzinfo=UTC)


def journal(folder: Path, phase: Phase | None = Phase.DONE) -> Journal:
    """Of a node that has given the VM away."""
    made = Journal(folder / "ports").open()
    made.given_away.store(GivenAwayVm.by(AGREED, since=LEFT_AT.isoformat(), reason="ported"))
    if phase is not None:
        made.store(PortRecord(side=Side.OUTBOUND, agreement=AGREED, phase=phase))
    return made


def moved(made: Journal, after_s: float = 60.0) -> MovedVms:
    return MovedVms(made, for_s=3600, now=lambda: LEFT_AT + timedelta(seconds=after_s))


@pytest.mark.parametrize("who", [str(AGREED.vm_uuid), "10.81.1.10", "fd00:81:1::10"])
def test_it_is_known_by_its_id_and_its_addresses(tmp_path: Path, who: str) -> None:
    told = moved(journal(tmp_path)).answer(who)
    assert told is not None
    assert (told["provider"], told["node"], told["epoch"]) == (AGREED.recipient, AGREED.recipient_node, AGREED.epoch)
    assert told["addresses"] == ["10.81.1.10", "fd00:81:1::10"]
    assert told["until"] == "2026-01-01T01:00:00+00:00"


@pytest.mark.parametrize("phase", [Phase.TRANSFERRING, Phase.FINISH_PASSED, Phase.RETURNING, Phase.FAILED])
def test_what_is_not_certain_is_not_answered(tmp_path: Path, phase: Phase) -> None:
    """The fence against starts is there before the ledger has decided."""
    assert moved(journal(tmp_path, phase)).answer("10.81.1.10") is None


def test_its_time_and_its_end(tmp_path: Path) -> None:
    """Then nothing is said; nor of a VM that has come back. One whose port is forgotten is known by its id."""
    made = journal(tmp_path)
    assert moved(made, 3599).answer("10.81.1.10") is not None
    assert moved(made, 3600).answer("10.81.1.10") is None
    assert moved(made).answer("10.81.1.11") is None
    made.remove(AGREED.port_id, Side.OUTBOUND)
    assert moved(made).answer("10.81.1.10") is None
    assert moved(made).answer(str(AGREED.vm_uuid)) is not None
    made.given_away.has_returned(AGREED.vm_uuid, AGREED.epoch + 1)
    assert moved(made).answer(str(AGREED.vm_uuid)) is None


async def test_it_is_answered_over_http(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    async with aiohttp.ClientSession() as session, asyncio.timeout(10), Tasks("test") as tasks:
        tasks.spawn(serve_moved(moved(journal(tmp_path)), listen), name="moved")
        for who, status in ((str(AGREED.vm_uuid).upper(), 200), ("10.81.1.10", 200), ("10.81.1.11", 404)):
            while True:
                try:
                    async with session.get(f"http://{listen}/moved/{who}") as answer:
                        assert answer.status == status
                        assert ((await answer.json()).get("provider") == AGREED.recipient) is (status == 200)
                        break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.01)
        with pytest.raises(ConfigError, match="cannot listen"):
            await serve_moved(moved(journal(tmp_path / "other")), listen)
