"""A stream by itself: long writes are cut, a payload in hand stays in the window, a reset gives everything back."""

from __future__ import annotations

import pytest

from services.node_agent.lanes.core.errors import StreamResetError
from services.node_agent.lanes.core.events import DataReceived
from services.node_agent.lanes.stream import LaneStream, StreamInbox
from shared.page_stream.bodies import StreamKind


class Owner:
    """A session that only writes down what its stream asks for."""

    lane = "p1.memory"
    max_payload_bytes = 10

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, int, int]] = []
        self.consumed_sequences: list[int] = []
        self.resets: list[str] = []
        self.eofs = 0

    is_away = False

    async def send_payload(
        self,
        inbox: StreamInbox,  # noqa: ARG002  # the contract's names
        payload: bytes | memoryview,
        *,
        raw_bytes: int,
        raw_lead_bytes: int,
    ) -> None:
        self.sent.append((bytes(payload), raw_bytes, raw_lead_bytes))

    def send_eof(self, inbox: StreamInbox) -> None:
        self.eofs += 1
        inbox.eof_sent = True

    def send_reset(self, inbox: StreamInbox, reason: str) -> None:
        self.resets.append(reason)
        self.consumed_sequences += inbox.discard_unread()

    def consumed(self, sequence: int) -> None:
        self.consumed_sequences.append(sequence)


def make() -> tuple[Owner, StreamInbox, LaneStream]:
    owner, inbox = Owner(), StreamInbox(1)
    return owner, inbox, LaneStream(owner, inbox, kind=StreamKind.MEMORY, label="")


async def test_a_long_write_becomes_several_payloads() -> None:
    """Each is as long as both ends accept, with its share of the raw bytes."""
    owner, _, stream = make()
    await stream.write(b"0123456789abcdefghijABCDE", raw_bytes=2500, raw_lead_bytes=7)
    assert owner.sent == [(b"0123456789", 1000, 7), (b"abcdefghij", 1000, 7), (b"ABCDE", 500, 7)]


async def test_a_payload_is_consumed_by_the_next_read() -> None:
    """`read_view` keeps it in the window, `read` does not."""
    owner, inbox, stream = make()
    for sequence in (1, 2, 3):
        inbox.deliver(DataReceived(1, sequence, bytes([sequence])))
    assert await stream.read_view() == b"\1"
    assert owner.consumed_sequences == []
    assert await stream.read_view() == b"\2"
    assert owner.consumed_sequences == [1]
    assert await stream.read() == b"\3"
    assert owner.consumed_sequences == [1, 2, 3]
    inbox.deliver_eof()
    assert await stream.read() == b""


async def test_a_reset_gives_back_what_was_not_read() -> None:
    """The payload in hand and those behind it leave the window; later reads say why."""
    owner, inbox, stream = make()
    for sequence in (4, 5):
        inbox.deliver(DataReceived(1, sequence, b"x"))
    await stream.read_view()
    stream.reset("not wanted")
    stream.reset("again")
    assert (owner.resets, sorted(owner.consumed_sequences)) == (["not wanted"], [4, 5])
    with pytest.raises(StreamResetError, match="not wanted"):
        await stream.read()


def test_eof_is_sent_once() -> None:
    """However often it is written."""
    owner, _, stream = make()
    stream.write_eof()
    stream.write_eof()
    assert owner.eofs == 1
