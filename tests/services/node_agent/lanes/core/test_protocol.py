from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from services.node_agent.lanes.core.errors import (
    EndpointRestartedError,
    LaneAbortedError,
    LaneClosedError,
    LaneSilentError,
    LaneViolationError,
    PeerRestartedError,
)
from services.node_agent.lanes.core.events import (
    DataReceived,
    EofReceived,
    LaneClosed,
    LaneEvent,
    LaneReady,
    LaneResumed,
    StreamOpened,
    StreamReset,
)
from services.node_agent.lanes.core.flight import START_BYTES
from services.node_agent.lanes.core.outbox import FRAME_COST_BYTES
from services.node_agent.lanes.core.protocol import LaneProtocol
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.testing import PlainSeal
from shared.page_stream.bodies import Hello, LaneRole, StreamKind, encode_hello
from shared.page_stream.frame import Flag, Frame, FrameType, decode_frame, encode_frame

MIB = 1024 * 1024
PAYLOAD_BYTES = 1000
WINDOW_BYTES = 4 * (PAYLOAD_BYTES + FRAME_COST_BYTES)


def endpoint(role: LaneRole, epoch: int, **values: Any) -> LaneProtocol:
    fields = {"lane": "p1.memory", "max_payload_bytes": PAYLOAD_BYTES, "window_bytes": WINDOW_BYTES, **values}
    return LaneProtocol(LaneSettings(role=role, **fields), seal=PlainSeal(), epoch=epoch, now_s=0.0)


class Wire:
    """Two endpoints and the frames between them; the test moves frames and time by hand."""

    def __init__(self, **values: Any) -> None:
        self.a = endpoint(LaneRole.INITIATOR, 0xA, **values)
        self.b = endpoint(LaneRole.ACCEPTOR, 0xB, **values)
        self.now_s = 0.0
        self.to_a: deque[bytes] = deque()
        self.to_b: deque[bytes] = deque()
        self.events_a: list[LaneEvent] = []
        self.events_b: list[LaneEvent] = []

    def up(self) -> Wire:
        self.a.link_up(self.now_s)
        self.b.link_up(self.now_s)
        self.settle()
        return self

    def down(self) -> None:
        self.a.link_down(self.now_s)
        self.b.link_down(self.now_s)

    def collect(self) -> None:
        self.to_b.extend(self.a.frames_to_send(self.now_s))
        self.to_a.extend(self.b.frames_to_send(self.now_s))

    def settle(self) -> None:
        """Move frames until nobody has anything to say."""
        self.collect()
        while self.to_a or self.to_b:
            while self.to_b:
                self.events_b += self.b.receive_frame(self.to_b.popleft(), self.now_s)
            while self.to_a:
                self.events_a += self.a.receive_frame(self.to_a.popleft(), self.now_s)
            self.collect()

    def wait(self, seconds: float) -> None:
        """Let time pass in steps no larger than the timers ask for, moving frames."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(end_s, max(self.now_s + 0.001, min(self.a.next_tick_s(), self.b.next_tick_s())))
            self.a.tick(self.now_s)
            self.b.tick(self.now_s)
            self.settle()

    def consume(self) -> bytes:
        """Read and finish everything that has arrived at b."""
        data = b""
        for event in self.events_b:
            if isinstance(event, DataReceived):
                data += event.payload
                self.b.data_consumed(event.sequence)
        self.events_b.clear()
        return data


def types(frames: deque[bytes]) -> list[str]:
    return [decode_frame(frame).type.name for frame in frames]


def test_both_ends_become_ready() -> None:
    """One HELLO exchange makes the lane usable, once."""
    wire = Wire().up()
    assert wire.events_a == [LaneReady()]
    assert wire.events_b == [LaneReady()]
    assert wire.a.ready


def test_nothing_but_hello_before_the_answer() -> None:
    """Without an answer an endpoint says HELLO again and again, and sends no data."""
    wire = Wire()
    wire.a.link_up(0.0)
    wire.a.open_stream(StreamKind.MEMORY, "early")
    wire.collect()
    wire.now_s = 1.0
    wire.a.tick(1.0)
    wire.collect()
    assert types(wire.to_b) == ["HELLO", "HELLO"]
    wire.b.link_up(1.0)
    wire.settle()
    assert wire.events_b == [LaneReady(), StreamOpened(1, StreamKind.MEMORY, "early")]


def test_a_conversation() -> None:
    """Streams are opened by both ends, are full duplex, close half by half, and arrive in order."""
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.DISK, "vda")
    wire.a.send_data(stream, b"one", wire.now_s)
    wire.a.send_data(stream, b"two", wire.now_s)
    wire.a.send_eof(stream)
    back = wire.b.open_stream(StreamKind.CONTROL, "")
    wire.b.send_data(back, b"hi", wire.now_s)
    wire.settle()
    wire.b.send_data(stream, b"reply", wire.now_s)
    wire.b.send_eof(stream)
    wire.settle()
    assert wire.events_b[1:] == [
        StreamOpened(1, StreamKind.DISK, "vda"),
        DataReceived(1, 2, b"one"),
        DataReceived(1, 3, b"two"),
        EofReceived(1),
    ]
    assert wire.events_a[1:] == [
        StreamOpened(2, StreamKind.CONTROL, ""),
        DataReceived(2, 2, b"hi"),
        DataReceived(1, 3, b"reply"),
        EofReceived(1),
    ]
    with pytest.raises(ValueError, match="not open for sending"):
        wire.a.send_data(stream, b"late", wire.now_s)


def test_the_window_closes_and_opens_with_consumption() -> None:
    """A reader that stands still stops the writer; what it consumes is what may follow."""
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    for _ in range(4):
        wire.a.send_data(stream, bytes(PAYLOAD_BYTES), wire.now_s)
    assert not wire.a.has_room(PAYLOAD_BYTES)
    with pytest.raises(ValueError, match="no room"):
        wire.a.send_data(stream, bytes(PAYLOAD_BYTES), wire.now_s)
    wire.settle()
    wire.wait(60.0)
    assert not wire.a.has_room(PAYLOAD_BYTES)
    assert wire.a.stats().resent_bytes == 0, "a slow reader is no loss"
    first = next(event for event in wire.events_b if isinstance(event, DataReceived))
    wire.b.data_consumed(first.sequence)
    wire.settle()
    assert wire.a.has_room(PAYLOAD_BYTES)
    assert not wire.a.has_room(PAYLOAD_BYTES + 1)
    assert wire.b.stats().unconsumed_in_bytes == wire.a.stats().unconsumed_out_bytes == 3 * (PAYLOAD_BYTES + 512)


def test_payload_limits() -> None:
    """The smaller of both limits holds, and an empty payload is no frame."""
    wire = Wire()
    wire.b = endpoint(LaneRole.ACCEPTOR, 0xB, max_payload_bytes=10, window_bytes=2000)
    wire.up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    assert wire.a.max_send_bytes == 10
    with pytest.raises(ValueError, match="limit of 10"):
        wire.a.send_data(stream, bytes(11), wire.now_s)
    wire.a.send_data(stream, b"", wire.now_s)
    wire.settle()
    assert wire.consume() == b""


def test_a_lost_frame_is_asked_for_at_once() -> None:
    """The frame after the lost one brings the question, with no timer in between."""
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    wire.settle()
    for data in (b"1", b"2", b"3"):
        wire.a.send_data(stream, data, wire.now_s)
    wire.collect()
    wire.to_b.popleft()
    wire.settle()
    assert wire.consume() == b"123"
    assert wire.b.stats().dropped_frames == 2


def test_a_lost_tail_is_asked_for_after_two_seconds() -> None:
    """When the last frames are lost, the sender notices the missing progress and repeats them."""
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    wire.a.send_data(stream, b"tail", wire.now_s)
    wire.collect()
    wire.to_b.clear()
    wire.wait(1.9)
    assert wire.consume() == b""
    wire.wait(0.2)
    assert wire.consume() == b"tail"


def test_a_lost_repetition_is_repeated() -> None:
    """Loss during a repetition is noticed again."""
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    wire.a.send_data(stream, b"tail", wire.now_s)
    for _ in range(3):
        wire.collect()
        wire.to_b.clear()
        wire.now_s += 30.0
        wire.a.tick(wire.now_s)
    wire.settle()
    assert wire.consume() == b"tail"


def test_duplicates_are_dropped() -> None:
    """A route that delivers everything twice changes nothing."""
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    wire.a.send_data(stream, b"once", wire.now_s)
    wire.collect()
    wire.to_b.extend(list(wire.to_b))
    wire.settle()
    assert wire.consume() == b"once"
    assert wire.b.stats().dropped_frames == 2


def test_a_slow_route_repeats_nothing() -> None:
    """Ten seconds of silence on the way cost some questions, but no repetition."""
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    for _ in range(4):
        wire.a.send_data(stream, bytes(PAYLOAD_BYTES), wire.now_s)
    for _ in range(10):
        wire.collect()
        wire.now_s += 1.0
        wire.a.tick(wire.now_s)
    wire.settle()
    wire.wait(5.0)
    assert len(wire.consume()) == 4 * PAYLOAD_BYTES
    assert wire.a.stats().resent_bytes == 0


@pytest.mark.parametrize("lost", [True, False])
def test_resync_after_a_break(*, lost: bool) -> None:
    """After a break both directions go on exactly where they were; what the relay kept is not sent again."""
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    wire.a.send_data(stream, b"before", wire.now_s)
    wire.settle()
    wire.a.send_data(stream, b" during", wire.now_s)
    wire.b.send_data(stream, b"back", wire.now_s)
    wire.collect()
    wire.down()
    wire.a.send_data(stream, b" after", wire.now_s)
    assert wire.a.frames_to_send(wire.now_s) == []
    if lost:
        wire.to_a.clear()
        wire.to_b.clear()
    wire.up()
    assert wire.consume() == b"before during after"
    assert DataReceived(1, 1, b"back") in wire.events_a
    assert LaneResumed() in wire.events_a
    assert (wire.a.stats().resent_bytes > 0) is lost
    assert wire.a.stats().reconnects == 1


def test_one_end_reconnects_alone() -> None:
    """The end that kept its connection learns from the other's HELLO what was lost."""
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    wire.settle()
    wire.a.send_data(stream, b"lost", wire.now_s)
    wire.collect()
    wire.to_b.clear()
    wire.b.link_down(wire.now_s)
    wire.b.link_up(wire.now_s)
    wire.settle()
    assert wire.consume() == b"lost"


def test_acks_wait_for_company_but_not_long() -> None:
    """An eighth of the window is acked at once, less within the ack delay."""
    wire = Wire().up()
    wire.wait(1.0)
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    wire.a.send_data(stream, bytes(10), wire.now_s)
    wire.settle()
    before = wire.b.stats().sent_frames
    wire.consume()
    wire.settle()
    assert wire.b.stats().sent_frames == before
    wire.wait(0.05)
    assert wire.b.stats().sent_frames == before + 1
    assert wire.a.stats().unconsumed_out_bytes == 0
    wire.a.send_data(stream, bytes(PAYLOAD_BYTES), wire.now_s)
    wire.settle()
    wire.consume()
    wire.settle()
    assert wire.a.stats().unconsumed_out_bytes == 0


def test_reset_frees_what_nobody_will_read() -> None:
    """A reset ends both directions; late data of the other end is swallowed and acked."""
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    wire.settle()
    wire.a.send_data(stream, b"crosses the reset", wire.now_s)
    wire.b.send_reset(stream, "disk full")
    wire.b.send_reset(stream, "again")
    wire.settle()
    wire.wait(1.0)
    assert StreamReset(stream, "disk full") in wire.events_a
    assert wire.consume() == b""
    assert wire.a.stats().unconsumed_out_bytes == 0
    assert wire.a.stats().open_streams == 0
    with pytest.raises(ValueError, match="not open"):
        wire.a.send_data(stream, b"more", wire.now_s)


def test_an_idle_lane_lives() -> None:
    """Keepalives flow and nobody falls silent."""
    wire = Wire().up()
    wire.wait(1000.0)
    assert wire.a.stats().sent_frames > 90


def test_a_route_that_takes_nothing_causes_no_spinning() -> None:
    """What is due but cannot leave is not due again and again."""
    wire = Wire()
    wire.a.link_up(0.0)
    for now_s in (1.0, 5.0, 20.0):
        wire.a.tick(now_s)
        assert wire.a.next_tick_s() == 120.0
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    wire.settle()
    wire.a.send_data(stream, b"x", wire.now_s)
    for now_s in (15.0, 30.0, 60.0, 90.0):
        wire.a.tick(now_s)
        assert wire.a.next_tick_s() > now_s
    wire.now_s = 90.0
    wire.settle()
    assert wire.consume() == b"x"


def test_silence_is_fatal_after_the_deadline() -> None:
    """Without a frame from the other end the lane fails at the deadline, not before, also while the route is away."""
    wire = Wire().up()
    wire.down()
    wire.a.tick(119.9)
    with pytest.raises(LaneSilentError, match="fell silent for 120 s"):
        wire.a.tick(120.0)
    with pytest.raises(LaneSilentError):
        wire.a.open_stream(StreamKind.MEMORY, "")
    never = endpoint(LaneRole.ACCEPTOR, 5)
    assert never.next_tick_s() == 120.0
    with pytest.raises(LaneSilentError, match="never answered"):
        never.tick(120.0)


def test_silence_after_close_is_expected() -> None:
    """Who has closed the lane need not be heard any more."""
    wire = Wire().up()
    wire.a.close()
    wire.settle()
    wire.b.tick(500.0)
    assert wire.b.next_tick_s() > 500.0
    wire.b.link_down(500.0)
    assert wire.b.next_tick_s() == 620.0


def test_the_lane_survives_a_break_shorter_than_the_deadline() -> None:
    """A relay that is away for 110 s costs nothing but the time."""
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    wire.a.send_data(stream, b"patient", wire.now_s)
    wire.down()
    wire.now_s += 110.0
    wire.a.tick(wire.now_s)
    wire.up()
    assert wire.consume() == b"patient"


def test_a_restarted_peer_ends_the_lane() -> None:
    """An endpoint that lost its state is noticed by both sides, and nothing of its streams goes on."""
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    wire.a.send_data(stream, b"for the old one", wire.now_s)
    wire.collect()
    wire.b = endpoint(LaneRole.ACCEPTOR, 0xC)
    wire.b.link_up(wire.now_s)
    for frame in wire.to_b:
        assert wire.b.receive_frame(frame, wire.now_s) == []
    (hello,) = wire.b.frames_to_send(wire.now_s)
    with pytest.raises(PeerRestartedError, match="must start again") as caught:
        wire.a.receive_frame(hello, wire.now_s)
    with pytest.raises(LaneAbortedError, match="must start again"):
        wire.b.receive_frame(wire.a.abort_frame(str(caught.value)), wire.now_s)


def test_a_restarted_endpoint_learns_it_from_the_other_s_hello() -> None:
    """Who is called by an epoch that it never had knows that it is not the first here."""
    wire = Wire().up()
    wire.b = endpoint(LaneRole.ACCEPTOR, 0xC)
    wire.a.link_down(1.0)
    wire.a.link_up(1.0)
    (hello,) = wire.a.frames_to_send(1.0)
    with pytest.raises(EndpointRestartedError):
        wire.b.receive_frame(hello, 1.0)


def test_close_in_order() -> None:
    """CLOSE arrives after everything before it; both ends then refuse further use."""
    wire = Wire().up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    wire.a.send_data(stream, b"last words", wire.now_s)
    wire.a.close()
    wire.a.close()
    wire.settle()
    assert not wire.a.flushed
    assert wire.events_b[-1] == LaneClosed()
    assert wire.b.peer_closed
    assert wire.consume() == b"last words"
    wire.wait(0.1)
    assert wire.a.flushed
    with pytest.raises(LaneClosedError, match="by this node agent"):
        wire.a.open_stream(StreamKind.MEMORY, "")
    with pytest.raises(LaneClosedError, match="by the other"):
        wire.b.open_stream(StreamKind.MEMORY, "")
    wire.b.close()
    assert wire.b.flushed


def test_abort_tells_why() -> None:
    """The other end's error reaches this one as a sentence."""
    wire = Wire().up()
    with pytest.raises(LaneAbortedError, match="no space"):
        wire.a.receive_frame(wire.b.abort_frame("no space"), 0.0)
    with pytest.raises(LaneAbortedError):
        wire.a.tick(1.0)
    assert wire.a.frames_to_send(1.0) == []


def from_b(frame_type: FrameType, **fields: Any) -> bytes:
    values = {"epoch": 0xB, "sequence": 1, "received": 0, "consumed": 0, **fields}
    return encode_frame(Frame(type=frame_type, **values))


@pytest.mark.parametrize(
    ("frame_type", "fields", "finding"),
    [
        (FrameType.DATA, {"stream_id": 2, "payload": b"x"}, "never opened"),
        (FrameType.EOF, {"stream_id": 7}, "never opened"),
        (FrameType.RESET, {"stream_id": 7}, "never opened"),
        (FrameType.DATA, {"stream_id": 1}, "DATA of 0 bytes"),
        (FrameType.DATA, {"stream_id": 1, "payload": bytes(PAYLOAD_BYTES + 1)}, "DATA of 1001 bytes"),
        (FrameType.OPEN, {"stream_id": 1, "payload": b"\x06memory\0\0"}, "id of this end"),
        (FrameType.OPEN, {"stream_id": 2, "payload": b"\x03cpu\0\0"}, "kind 'cpu'"),
        (FrameType.ACK, {"received": 5}, "never opened|have frame 5"),
        (FrameType.ACK, {"pass_seen": 1}, "seen pass"),
        (FrameType.HELLO, {"payload": encode_hello(Hello(0xA, 10_000, 1000, LaneRole.ACCEPTOR, "p2"))}, "'p2'"),
        (FrameType.HELLO, {"payload": encode_hello(Hello(0xA, 10_000, 1000, LaneRole.INITIATOR, "p1.memory"))}, "INIT"),
        (
            FrameType.HELLO,
            {"payload": encode_hello(Hello(0xA, 1000, 1000, LaneRole.ACCEPTOR, "p1.memory"))},
            "holds no",
        ),
        (FrameType.HELLO, {"payload": b"?"}, "HELLO"),
    ],
)
def test_violations_end_the_lane(frame_type: FrameType, fields: dict[str, Any], finding: str) -> None:
    """Each breach of the protocol has a sentence, and the lane stays ended."""
    wire = Wire().up()
    with pytest.raises(LaneViolationError, match=finding):
        wire.a.receive_frame(from_b(frame_type, **fields), 0.0)
    with pytest.raises(LaneViolationError):
        wire.a.receive_frame(from_b(FrameType.ACK), 0.0)


def test_bytes_that_are_no_frame_end_the_lane() -> None:
    """A cut frame is a violation."""
    wire = Wire().up()
    with pytest.raises(LaneViolationError, match="cut short"):
        wire.a.receive_frame(from_b(FrameType.ACK)[:-1], 0.0)


def test_a_frame_after_close_is_a_violation() -> None:
    """CLOSE is the last numbered frame."""
    wire = Wire().up()
    wire.a.receive_frame(from_b(FrameType.CLOSE), 0.0)
    with pytest.raises(LaneViolationError, match="after CLOSE"):
        wire.a.receive_frame(from_b(FrameType.RESET, sequence=2, stream_id=1), 0.0)


def test_left_overs_of_another_epoch_are_dropped() -> None:
    """Frames of somebody who is not the known peer change nothing."""
    wire = Wire().up()
    assert wire.a.receive_frame(from_b(FrameType.CLOSE, epoch=0xF), 0.0) == []
    assert wire.a.receive_frame(from_b(FrameType.ABORT, epoch=0xF), 0.0) == []
    assert wire.a.stats().dropped_frames == 2
    assert not wire.a.peer_closed


def test_a_question_is_answered_at_once() -> None:
    """REPLY_WANTED brings an ACK without delay."""
    wire = Wire().up()
    wire.a.receive_frame(from_b(FrameType.ACK, sequence=0, flags=Flag.REPLY_WANTED), 0.0)
    assert [decode_frame(frame).type for frame in wire.a.frames_to_send(0.0)] == [FrameType.ACK]


@pytest.mark.parametrize("epoch", [0, 2**64])
def test_epoch_must_fit(epoch: int) -> None:
    """An epoch is a non-zero u64."""
    with pytest.raises(ValueError, match="epoch"):
        endpoint(LaneRole.INITIATOR, epoch)


def test_rates_come_from_two_snapshots() -> None:
    """A snapshot carries its time and does not change afterwards, so two of them make a rate."""
    wire = Wire().up()
    before = wire.a.stats()
    sent_bytes = before.sent_bytes
    wire.now_s = 2.0
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    wire.a.send_data(stream, bytes(100), wire.now_s)
    wire.settle()
    after = wire.a.stats()
    assert before.sent_bytes == sent_bytes
    assert after.at_s - before.at_s == 2.0
    assert after.data_sent_bytes - before.data_sent_bytes == 100
    assert after.sent_bytes - before.sent_bytes > 100


def wide_wire(**values: Any) -> tuple[Wire, int]:
    """A lane with a window of 4 MiB and a stream on it."""
    wire = Wire(window_bytes=4 * MIB, max_payload_bytes=64 * 1024, ack_delay_s=1.0, **values).up()
    return wire, wire.a.open_stream(StreamKind.MEMORY, "")


def fill(wire: Wire, stream: int) -> int:
    """Send what there is room for; how many payloads."""
    payloads = 0
    while wire.a.has_room(64 * 1024):
        wire.a.send_data(stream, bytes(64 * 1024), wire.now_s)
        payloads += 1
    wire.settle()
    return payloads


def test_less_than_the_window_is_taken_where_the_link_needs_less() -> None:
    """It begins with part of the window, has all of it on a fast link, and begins anew with a new route."""
    wire, stream = wide_wire()
    assert fill(wire, stream) == 8
    assert wire.a.stats().allowed_out_bytes == START_BYTES
    for _ in range(5):
        wire.now_s += 0.001
        wire.consume()
        wire.settle()
        fill(wire, stream)
    assert wire.a.stats().allowed_out_bytes == 4 * MIB
    wire.down()
    wire.up()
    assert wire.a.stats().allowed_out_bytes == START_BYTES


def test_less_is_taken_where_the_reader_makes_much_of_it() -> None:
    """Payloads count as what becomes of them, too; one that stands still is sent the whole window all the same."""
    wire, stream = wide_wire()
    payloads = 0
    while wire.a.has_room(1000):
        wire.a.send_data(stream, bytes(1000), wire.now_s, raw_bytes=64 * 1024)
        payloads += 1
    stats = wire.a.stats()
    assert payloads * 64 * 1024 == stats.unconsumed_out_raw_bytes == stats.raw_sent_bytes == START_BYTES
    assert stats.reader_is_full
    assert not stats.link_is_full
    wire.settle()
    wire.wait(1.1)
    assert wire.a.has_room(1000)
    wire.consume()
    wire.wait(1.1)
    assert wire.a.stats().unconsumed_out_raw_bytes == 0


def test_a_writer_may_lead_the_reader_by_more() -> None:
    """Of what becomes of its payloads; the bound of their own bytes holds all the same."""
    wire, stream = wide_wire()
    lead = 4 * START_BYTES
    while wire.a.has_room(1000, raw_lead_bytes=lead):
        wire.a.send_data(stream, bytes(1000), wire.now_s, raw_bytes=64 * 1024, raw_lead_bytes=lead)
    assert wire.a.stats().unconsumed_out_raw_bytes == lead
    assert not wire.a.has_room(1000)
    with pytest.raises(ValueError, match="no room"):
        wire.a.send_data(stream, bytes(1000), wire.now_s, raw_bytes=64 * 1024)
    while wire.a.has_room(1000, raw_lead_bytes=2**40):
        wire.a.send_data(stream, bytes(1000), wire.now_s, raw_bytes=64 * 1024, raw_lead_bytes=2**40)
    assert wire.a.stats().link_is_full


def test_a_writer_is_not_kept_from_the_window_by_a_reader_that_waits() -> None:
    """What the reader waits for may be what comes next."""
    wire, stream = wide_wire()
    assert fill(wire, stream) == 8
    wire.wait(1.1)
    assert fill(wire, stream) == 4 * MIB // (64 * 1024 + FRAME_COST_BYTES) - 8
    wire.consume()
    wire.wait(1.1)
    assert wire.a.stats().unconsumed_out_bytes == 0


def test_into_an_outage_no_more_is_sent_than_was_allowed_before_it() -> None:
    """What is put into a dead link must all be sent again: that the reader does not go on is no reason to put more."""
    wire, stream = wide_wire(silence_s=300.0)
    sent = fill(wire, stream)
    wire.consume()
    wire.wait(1.1)
    while wire.a.has_room(64 * 1024):
        wire.a.send_data(stream, bytes(64 * 1024), wire.now_s)
    allowed_bytes = wire.a.stats().allowed_out_bytes
    wire.a.frames_to_send(wire.now_s)  # nothing tells that they are lost
    for _ in range(120):
        wire.now_s += 1.0
        wire.a.tick(wire.now_s)
        assert wire.a.next_tick_s() > wire.now_s
        wire.a.frames_to_send(wire.now_s)
    assert not wire.a.has_room(64 * 1024)
    wire.down()
    wire.up()
    wire.settle()
    wire.consume()
    stats = wire.a.stats()
    assert stats.data_sent_bytes > sent * 64 * 1024
    assert stats.resent_bytes <= allowed_bytes + 2 * 64 * 1024


def test_a_lane_that_does_not_follow_the_link_has_its_window() -> None:
    """From the beginning."""
    wire, stream = wide_wire(window_follows_link=False)
    assert fill(wire, stream) == 4 * MIB // (64 * 1024 + FRAME_COST_BYTES)
    assert wire.a.stats().allowed_out_bytes == 4 * MIB


def test_acks_come_often_enough_to_measure() -> None:
    """Not only after an eighth of a large window: after 128 KiB."""
    wire, stream = wide_wire()
    fill(wire, stream)
    arrived = [event for event in wire.events_b if isinstance(event, DataReceived)]
    wire.b.data_consumed(arrived[0].sequence)
    assert wire.b.next_frame(wire.now_s) is None
    wire.b.data_consumed(arrived[1].sequence)
    assert wire.b.next_frame(wire.now_s) is not None


def test_an_outage_of_two_minutes_costs_what_was_unacknowledged() -> None:
    """Nothing that had arrived is sent again, and the lane goes on within one exchange after the link is back."""
    wire = Wire(silence_s=300.0).up()
    stream = wire.a.open_stream(StreamKind.MEMORY, "")
    for _ in range(2):
        wire.a.send_data(stream, b"a" * PAYLOAD_BYTES, wire.now_s)
    wire.settle()
    wire.wait(0.1)
    wire.a.send_data(stream, b"b" * PAYLOAD_BYTES, wire.now_s)
    wire.a.frames_to_send(wire.now_s)  # lost on the way
    wire.down()
    assert wire.a.is_away(wire.now_s)
    wire.now_s += 120.0
    wire.a.tick(wire.now_s)
    wire.b.tick(wire.now_s)
    wire.up()
    wire.settle()
    assert wire.consume() == b"a" * 2 * PAYLOAD_BYTES + b"b" * PAYLOAD_BYTES
    assert PAYLOAD_BYTES < wire.a.stats().resent_bytes < 1.2 * PAYLOAD_BYTES
    assert not wire.a.is_away(wire.now_s)


def test_an_end_that_is_silent_for_longer_than_its_keepalives_is_away() -> None:
    """The route may be dead without anybody knowing."""
    wire = Wire().up()
    wire.now_s = 11.9
    assert not wire.a.is_away(wire.now_s)
    wire.now_s = 12.1
    assert wire.a.is_away(wire.now_s)
