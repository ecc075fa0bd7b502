"""Two protocols joined by a route that loses, repeats, breaks and comes back at any point, one frame at a time."""

from __future__ import annotations

from collections import deque

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from services.node_agent.lanes.core.events import DataReceived, EofReceived, LaneEvent, StreamOpened, StreamReset
from services.node_agent.lanes.core.outbox import FRAME_COST_BYTES
from services.node_agent.lanes.core.protocol import LaneProtocol
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.testing import PlainSeal
from shared.page_stream.bodies import LaneRole, StreamKind

PAYLOAD_BYTES = 200
WINDOW_BYTES = 5 * (PAYLOAD_BYTES + FRAME_COST_BYTES)
NAMES = ("a", "b")
OTHER = {"a": "b", "b": "a"}
names = st.sampled_from(NAMES)
picks = st.integers(0, 7)


class End:
    """One endpoint with what its application wrote and read."""

    def __init__(self, name: str) -> None:
        role = LaneRole.INITIATOR if name == "a" else LaneRole.ACCEPTOR
        settings = LaneSettings(
            lane="m",
            role=role,
            window_bytes=WINDOW_BYTES,
            max_payload_bytes=PAYLOAD_BYTES,
            silence_s=1e6,
            max_streams=1000,
        )
        self.protocol = LaneProtocol(settings, seal=PlainSeal(), epoch=role.value, now_s=0.0)
        self.is_up = False
        self.incoming: deque[bytes] = deque()
        self.written: dict[int, bytearray] = {}
        self.read: dict[int, bytearray] = {}
        self.eof_written: set[int] = set()
        self.eof_read: set[int] = set()
        self.reset: set[int] = set()
        self.unfinished: deque[int] = deque()
        self.next_byte = 0

    def note(self, events: list[LaneEvent]) -> None:
        for event in events:
            match event:
                case StreamOpened(stream_id=stream_id):
                    assert stream_id not in self.read
                    self.written[stream_id] = bytearray()
                    self.read[stream_id] = bytearray()
                case DataReceived(stream_id=stream_id, sequence=sequence, payload=payload):
                    assert stream_id not in self.eof_read
                    self.read[stream_id] += payload
                    self.unfinished.append(sequence)
                case EofReceived(stream_id=stream_id):
                    assert stream_id not in self.eof_read
                    self.eof_read.add(stream_id)
                case StreamReset(stream_id=stream_id):
                    self.reset.add(stream_id)
                case _:
                    pass

    def writable(self) -> list[int]:
        return sorted(set(self.written) - self.eof_written - self.reset)


class LossyLane(RuleBasedStateMachine):
    """Whatever the route does, every stream's bytes arrive exactly, and the window is never exceeded."""

    @initialize()
    def start(self) -> None:
        self.now_s = 0.0
        self.ends = {name: End(name) for name in NAMES}
        for name in NAMES:
            self.link_up(name)
            self.open_stream(name)
        for name in NAMES * 3:
            self.move(name, sent=10, delivered=10)

    def link_up(self, name: str) -> None:
        self.ends[name].is_up = True
        self.ends[name].protocol.link_up(self.now_s)

    @rule(name=names)
    def open_stream(self, name: str) -> None:
        end = self.ends[name]
        if len(end.writable()) < 3:
            stream_id = end.protocol.open_stream(StreamKind.MEMORY, name)
            end.written[stream_id] = bytearray()
            end.read[stream_id] = bytearray()

    @rule(
        name=names,
        pick=picks,
        sizes=st.lists(st.integers(1, PAYLOAD_BYTES), min_size=1, max_size=5),
        raw_times=st.sampled_from([0, 1, 10**4]),
    )
    def write(self, name: str, pick: int, sizes: list[int], raw_times: int) -> None:
        end = self.ends[name]
        streams = end.writable()
        for size in sizes:
            if streams and end.protocol.has_room(size):
                stream_id = streams[pick % len(streams)]
                data = bytes((end.next_byte + offset) % 251 for offset in range(size))
                end.next_byte += size
                end.protocol.send_data(stream_id, data, self.now_s, raw_bytes=size * raw_times)
                end.written[stream_id] += data

    @rule(name=names, pick=picks, reset=st.integers(0, 4).map(lambda number: number == 0))
    def end_stream(self, name: str, pick: int, *, reset: bool) -> None:
        end = self.ends[name]
        streams = end.writable()
        if len(streams) < 2:
            return
        stream_id = streams[pick % len(streams)]
        if reset:
            end.protocol.send_reset(stream_id, "test")
            end.reset.add(stream_id)
        else:
            end.protocol.send_eof(stream_id)
            end.eof_written.add(stream_id)

    @rule(name=names, sent=st.integers(0, 8), delivered=st.integers(0, 8))
    def move(self, name: str, sent: int, delivered: int) -> None:
        """One end sends some frames; the other one receives some, one by one."""
        peer = self.ends[OTHER[name]]
        for _ in range(sent):
            frame = self.ends[name].protocol.next_frame(self.now_s)
            if frame is None:
                break
            peer.incoming.append(frame)
        for _ in range(min(delivered, len(peer.incoming)) if peer.is_up else 0):
            peer.note(peer.protocol.receive_frame(peer.incoming.popleft(), self.now_s))

    @precondition(lambda self: any(end.incoming for end in self.ends.values()))
    @rule(name=names, at=st.integers(0, 20), count=st.integers(1, 5))
    def lose(self, name: str, at: int, count: int) -> None:
        """Frames vanish from the head, the middle or the tail of what is under way."""
        frames = list(self.ends[name].incoming)
        start = at % (len(frames) + 1)
        self.ends[name].incoming = deque(frames[:start] + frames[start + count :])

    @precondition(lambda self: any(end.incoming for end in self.ends.values()))
    @rule(name=names, count=st.integers(1, 5))
    def duplicate(self, name: str, count: int) -> None:
        """The first frames under way come twice."""
        frames = list(self.ends[name].incoming)
        self.ends[name].incoming = deque(frames[:count] + frames)

    @rule(name=names, lose_all=st.booleans())
    def cut_or_mend(self, name: str, *, lose_all: bool) -> None:
        end = self.ends[name]
        if end.is_up:
            end.is_up = False
            end.protocol.link_down(self.now_s)
            if lose_all:
                end.incoming.clear()
        else:
            self.link_up(name)

    @precondition(lambda self: any(end.unfinished for end in self.ends.values()))
    @rule(name=names, newest_first=st.booleans(), count=st.integers(1, 4))
    def consume(self, name: str, count: int, *, newest_first: bool) -> None:
        end = self.ends[name]
        for _ in range(min(count, len(end.unfinished))):
            end.protocol.data_consumed(end.unfinished.pop() if newest_first else end.unfinished.popleft())

    @rule(seconds=st.sampled_from([0.01, 0.06, 1.0, 2.5, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        for end in self.ends.values():
            end.protocol.tick(self.now_s)
            assert end.protocol.next_tick_s() > self.now_s, "a shell that sleeps until then would spin"

    @invariant()
    def window_is_kept(self) -> None:
        for end in self.ends.values():
            stats = end.protocol.stats()
            assert stats.unconsumed_out_bytes <= WINDOW_BYTES
            assert stats.unconsumed_in_bytes <= WINDOW_BYTES

    @invariant()
    def what_was_read_is_what_was_written(self) -> None:
        for name, end in self.ends.items():
            for stream_id, data in end.read.items():
                written = self.ends[OTHER[name]].written.get(stream_id, b"")
                assert bytes(written[: len(data)]) == bytes(data)

    def teardown(self) -> None:
        """Once the route behaves, everything arrives within a few seconds of the lane's time."""
        for name in NAMES:
            if not self.ends[name].is_up:
                self.link_up(name)
        for _ in range(60):
            for name in NAMES * 4:
                self.move(name, sent=100, delivered=1000)
                self.consume(name, 1000, newest_first=False)
            if all(end.protocol.flushed for end in self.ends.values()):
                break
            self.wait(1.0)
        for name, end in self.ends.items():
            assert end.protocol.flushed
            assert end.protocol.stats().unconsumed_out_bytes == end.protocol.stats().unconsumed_out_raw_bytes == 0
            peer = self.ends[OTHER[name]]
            for stream_id, data in end.written.items():
                if stream_id not in end.reset | peer.reset:
                    assert bytes(peer.read[stream_id]) == bytes(data)
                    assert (stream_id in peer.eof_read) is (stream_id in end.eof_written)


LossyLane.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=80, deadline=None)
TestLossyLane = LossyLane.TestCase
