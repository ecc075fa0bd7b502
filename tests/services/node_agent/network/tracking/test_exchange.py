"""The VM's connections on the wire between two nodes: in rounds, within bounds, and never a reason to fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from services.node_agent.lanes.core.errors import QuestionError
from services.node_agent.lanes.stream import LaneStream
from services.node_agent.network.tracking import exchange
from services.node_agent.network.tracking.exchange import BATCH, Answer, receive_connections, send_connections
from services.node_agent.network.tracking.table import TrackingError
from services.node_agent.network.tracking.values import Changes, TrackedConnection, TrackedFound
from shared.page_stream.bodies import StreamKind
from tests.support.control_lane import lane


def connection(port: int, state: int = 3) -> TrackedConnection:
    return TrackedConnection(
        protocol="tcp",
        source="203.0.113.5",
        source_port=port,
        destination="10.81.1.10",
        destination_port=22,
        timeout_s=3600,
        state=state,
    )


class Recipient:
    """Takes all, and remembers the rounds."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.rounds: list[Changes] = []
        self.answer = answer or Answer()

    async def take(self, changed: Changes) -> Answer:
        self.rounds.append(changed)
        return self.answer

    async def serve(self, stream: LaneStream) -> None:
        await receive_connections(stream, self.take)


def looks(*found: TrackedFound) -> Callable[[], Awaitable[TrackedFound]]:
    """The table as it is at each look."""
    left = list(found)

    async def read() -> TrackedFound:
        return left.pop(0)

    return read


def rounds(*more: bool) -> Callable[[], Awaitable[bool]]:
    told: asyncio.Queue[bool] = asyncio.Queue()
    for each in more:
        told.put_nowait(each)
    return told.get


async def test_all_first_then_what_has_changed() -> None:
    """Many go in several parts; what is gone at the donor is named."""
    many = tuple(connection(port) for port in range(1, 2 * BATCH + 2))
    recipient = Recipient()
    now = (*many[1:], connection(60_000))
    async with lane(recipient.serve) as control:
        found = await send_connections(
            control, looks(TrackedFound(many), TrackedFound(now), TrackedFound(now)), rounds(True, True, False)
        )
    assert found == ()
    assert recipient.rounds == [
        Changes(many, ()),
        Changes((connection(60_000),), (many[0].key,)),
        Changes((), ()),
    ]


async def test_what_is_left_behind_is_named() -> None:
    recipient = Recipient(Answer(refused=2, problem="no permission"))
    async with lane(recipient.serve) as control:
        found = await send_connections(control, looks(TrackedFound((), 3, 4)), rounds(False))
    assert found == (
        "connections not carried: no permission",
        "3 connections are translated (NAT) at the donor, and are not carried",
        "4 connections beyond 65536 are not carried",
        "the recipient refused 2 connections",
    )


async def test_a_recipient_that_knows_no_such_stream() -> None:
    async def reset(stream: LaneStream) -> None:
        stream.reset("no stream 'connections' is expected")

    async with lane(reset) as control:
        (finding,) = await send_connections(control, looks(TrackedFound()), rounds(False))
    assert "no stream" in finding


async def test_a_donor_without_tracking() -> None:
    async def read() -> TrackedFound:
        raise TrackingError("not available")

    async with lane(Recipient().serve) as control:
        assert await send_connections(control, read, rounds(False)) == ("connections not carried: not available",)


async def test_an_answer_that_means_nothing_is_a_finding() -> None:
    async def answer(stream: LaneStream) -> None:
        await stream.read()
        await stream.write(b"?")

    async with lane(answer) as control:
        (finding,) = await send_connections(control, looks(TrackedFound()), rounds(False))
    assert finding.startswith("connections not carried")


LINE = connection(1).model_dump(mode="json")


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"?\n", "cannot be read"),
        (json.dumps({"connections": [LINE] * (BATCH + 1)}).encode() + b"\n", "cannot be read"),
        (json.dumps({"connections": [{**LINE, "source": "::"}]}).encode() + b"\n", "cannot be read"),
        (json.dumps({"gone": [["icmp", "a", 1, "b", 2]]}).encode() + b"\n", "cannot be read"),
        (b"x" * (exchange.MAX_LINE_BYTES + 1), "too long a line"),
        (2 * (json.dumps({"connections": [LINE] * 2}).encode() + b"\n"), "more than 3 connections"),
    ],
)
async def test_a_donor_that_sends_anything_else(monkeypatch: pytest.MonkeyPatch, sent: bytes, why: str) -> None:
    monkeypatch.setattr(exchange, "MAX_CONNECTIONS", 3)
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(stream: LaneStream) -> None:
        with pytest.raises(QuestionError) as raised:
            await receive_connections(stream, Recipient().take)
        told.set_result(str(raised.value))

    async with lane(serve) as control:
        stream = control.open_stream(StreamKind.CONTROL, exchange.CONNECTIONS)
        await stream.write(sent)
        assert why in await told
