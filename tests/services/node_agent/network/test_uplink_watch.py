"""When an announced VM is told to be reached, and when not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.uplink_watch import NOT_ANNOUNCED, UplinkWatch
from shared.messages.addresses import NetworkState
from shared.messages.porting import ServiceChangeAgreement, Side
from tests.services.node_agent.network.plans import PORT, agreement, plan
from tests.services.node_agent.network.test_keeper import Kernel


async def at_once(work: Callable[[], object]) -> object:
    return work()


async def test_it_is_told_once_that_nobody_comes_and_that_somebody_has_come(tmp_path: Path) -> None:
    told: list[tuple[NetworkState, str]] = []

    def report(agreement: ServiceChangeAgreement, state: NetworkState, detail: str = "") -> None:
        assert agreement.port_id == PORT
        told.append((state, detail))

    record = NetworkRecord(side=Side.INBOUND, agreement=agreement(plan(announce=True)), there=True)
    record = record.model_copy(update={"steps": record.wanted})
    journal, kernel = NetworkJournal(tmp_path), Kernel()
    journal.store(record)
    watch = UplinkWatch(journal, kernel, report, write=at_once, unseen_looks=2)
    for _ in range(4):
        await watch.look(record)
    assert told == [(NetworkState.FAILED, NOT_ANNOUNCED)]
    watch.forget(PORT)
    await watch.look(record)
    kernel.packets = 1
    await watch.look(record)
    assert told[1:] == [(NetworkState.ANNOUNCED, "")]
    assert journal.readable() == (record.model_copy(update={"announced": True}),)
