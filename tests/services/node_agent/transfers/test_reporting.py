"""What transfers report: to the right agent, once, and in one form for every failure."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from services.node_agent.messenger import Messenger
from services.node_agent.metrics import NodeMetrics
from services.node_agent.state.journal import Journal, Phase, PortRecord, TransferJournal
from services.node_agent.state.outbox import Outbox
from services.node_agent.transfers.errors import TransferError
from services.node_agent.transfers.progress import ProgressMeter
from services.node_agent.transfers.reporting import OutboundReports, TransferReports, failure_message
from shared.messages import Message, open_envelope
from shared.messages.porting import (
    InboundFinished,
    InboundOpened,
    OutboundStarted,
    Side,
    TransferAborted,
    TransferFailed,
)
from shared.messages.service_change import PortProgressed
from shared.parties import BROKER, donor, node, recipient
from shared.testing import MemoryBroker
from tests.support.transfer_pair import DOMAIN, make_agreement

ME = node("alpha", "alpha-1")


class Reporting:
    """Reports over an outbox that nobody empties, and a bus in memory."""

    def __init__(self, folder: Path) -> None:
        self.bus = MemoryBroker(ME, BROKER)
        self.registry = CollectorRegistry()
        self.folder = folder / "outbox"
        outbox = Outbox(self.folder, self.bus.bus(ME))
        outbox.open()
        self.reports = TransferReports(Messenger(self.bus.bus(ME), outbox), NodeMetrics(self.registry))
        self.agreement = make_agreement(folder / "x.raw", domain_xml=DOMAIN % "/a.raw")
        self.port_id = self.agreement.port_id
        self.store = Journal(folder / "ports").open()

    def journal(self, side: Side) -> TransferJournal:
        """A transfer's journal."""
        record = PortRecord(side=side, agreement=self.agreement)
        self.store.store(record)
        return TransferJournal(self.store, record)

    def stored(self) -> list[tuple[str, Message]]:
        """What waits in the outbox: receiver and message."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            stored = _Line.model_validate_json(path.read_bytes())
            found.append((stored.to, open_envelope(stored.envelope.encode()).data))
        return found


class _Line(BaseModel):
    to: str
    envelope: str


@pytest.fixture
def reporting(tmp_path: Path) -> Reporting:
    return Reporting(tmp_path)


def test_a_failure_is_put_into_one_message(reporting: Reporting) -> None:
    """Everything that the error knows."""
    error = TransferError("lane_failed", "no route", guest_running=True)
    assert failure_message(reporting.port_id, Side.OUTBOUND, error) == TransferFailed(
        port_id=reporting.port_id, side=Side.OUTBOUND, code="lane_failed", detail="no route", guest_running=True
    )


def test_each_side_reports_to_its_own_agent(reporting: Reporting) -> None:
    """The donor's agent hears of the outbound transfer, the recipient's of the inbound one."""
    reporting.reports.started(reporting.port_id)
    reporting.reports.opened(reporting.port_id)
    reporting.reports.aborted(reporting.port_id, Side.INBOUND, guest_running=False, remaining=("disk /x",))
    assert reporting.stored() == [
        (str(donor("alpha")), OutboundStarted(port_id=reporting.port_id)),
        (str(recipient("alpha")), InboundOpened(port_id=reporting.port_id)),
        (
            str(recipient("alpha")),
            TransferAborted(port_id=reporting.port_id, side=Side.INBOUND, guest_running=False, left_overs=("disk /x",)),
        ),
    ]


def test_a_last_message_is_sent_once(reporting: Reporting) -> None:
    """And again only for somebody who asks again."""
    journal = reporting.journal(Side.INBOUND)
    assert not reporting.reports.final_again(journal.record)
    reporting.reports.final(journal)
    assert reporting.stored() == []
    finished = InboundFinished(port_id=reporting.port_id, epoch=2)
    journal.conclude(Phase.DONE, finished)
    reporting.reports.final(journal)
    reporting.reports.final(journal)
    assert reporting.stored() == [(str(recipient("alpha")), finished)]
    assert reporting.reports.final_again(journal.record)
    assert len(reporting.stored()) == 2


def test_a_switchover_in_doubt_is_a_problem_until_the_transfer_ends(reporting: Reporting) -> None:
    """The agent hears it at once; the heartbeat names the port."""
    reporting.reports.in_doubt(reporting.port_id, "the lane is lost")
    ((to, message),) = reporting.stored()
    assert isinstance(message, TransferFailed)
    assert (to, message.code, message.guest_running) == (str(donor("alpha")), "switchover_in_doubt", False)
    (problem,) = reporting.reports.problems()
    assert str(reporting.port_id) in problem
    assert "the lane is lost" in problem
    reporting.reports.ended(reporting.port_id)
    assert reporting.reports.problems() == ()


async def test_progress_is_published_at_once_and_may_be_lost(reporting: Reporting) -> None:
    """Nothing waits in the outbox; a bus that is down costs one report."""
    reports = OutboundReports(reporting.reports, reporting.port_id)
    progress = ProgressMeter(disk_bytes=0, memory_bytes=1).finish()
    await reports.progressed(progress, wire_bytes=7)
    (envelope,) = reporting.bus.received(BROKER)
    assert isinstance(envelope.data, PortProgressed)
    assert (envelope.data.percent, envelope.data.wire_bytes) == (100, 7)
    reporting.bus.interrupt()
    await reports.progressed(progress, wire_bytes=8)
    assert reporting.stored() == []
    assert len(reporting.bus.received(BROKER)) == 1


async def test_an_outbound_transfer_remembers_that_it_started(reporting: Reporting) -> None:
    """So a repeated command can be answered."""
    reports = OutboundReports(reporting.reports, reporting.port_id)
    assert not reports.has_started
    await reports.started()
    await reports.in_doubt("x")
    assert reports.has_started
    assert [type(message) for _, message in reporting.stored()] == [OutboundStarted, TransferFailed]
