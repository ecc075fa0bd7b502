"""Target `lane`: the lane protocol against a hostile peer, and two ends over a route that does everything a route can.

Promises: whatever frames come, only LaneErrors are raised and the window bounds what is held. What an application reads
is a beginning of what the other one wrote; if the route damaged nothing and then behaves, all of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from services.node_agent.lanes.core.errors import LaneError
from services.node_agent.lanes.core.events import DataReceived, EofReceived, LaneEvent, StreamOpened, StreamReset
from services.node_agent.lanes.core.outbox import FRAME_COST_BYTES
from services.node_agent.lanes.core.protocol import LaneProtocol
from services.node_agent.lanes.core.seal import LaneSeal, SealError
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.testing import PlainSeal
from shared.page_stream.bodies import Hello, LaneRole, Open, StreamKind, encode_hello, encode_open
from shared.page_stream.frame import Flag, Frame, FrameType, encode_frame
from tests.fuzz.source import Source, damaged

PAYLOAD_BYTES: Final = 200
WINDOW_BYTES: Final = 5 * (PAYLOAD_BYTES + FRAME_COST_BYTES)
MAX_STREAMS: Final = 8
_TAG_BYTES: Final = 8
_NUMBERS: Final = (0, 1, 2, 3, 4, 7, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
_ROUTE_S: Final = 400
"""Seconds of the lane's time within which all must arrive over a route that behaves."""


class CheckedSeal(PlainSeal):
    """Hides nothing, but sees every change of a unit, as TLS does: its number, type, stream and body."""

    def __init__(self) -> None:
        self._sealed = 0
        self._opened = 0

    def sealed_bytes(self, body_bytes: int) -> int:
        """With the tag."""
        return body_bytes + _TAG_BYTES

    def seal(self, frame_type: FrameType, stream_id: int, body: bytes | memoryview) -> bytes:
        """The body with a tag behind it."""
        self._sealed += 1
        return bytes(body) + _tag(self._sealed, frame_type, stream_id, bytes(body))

    def open(self, frame_type: FrameType, stream_id: int, sealed: bytes | memoryview) -> bytes:
        """The body."""
        self._opened += 1
        body, tag = bytes(sealed[:-_TAG_BYTES]), bytes(sealed[-_TAG_BYTES:])
        if tag != _tag(self._opened, frame_type, stream_id, body):
            raise SealError("a unit was changed")
        return body


def _tag(number: int, frame_type: FrameType, stream_id: int, body: bytes) -> bytes:
    return blake3(repr((number, int(frame_type), stream_id, body)).encode()).digest(_TAG_BYTES)


@dataclass(slots=True)
class End:
    """One endpoint and its application."""

    protocol: LaneProtocol
    incoming: list[bytes] = field(default_factory=list)
    written: dict[int, bytearray] = field(default_factory=dict)
    read: dict[int, bytearray] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    reset: set[int] = field(default_factory=set)
    unfinished: list[int] = field(default_factory=list)
    is_up: bool = False
    failed: bool = False
    next_byte: int = 0

    def note(self, events: list[LaneEvent]) -> None:
        """What the application learns."""
        for event in events:
            match event:
                case StreamOpened(stream_id=stream_id):
                    assert stream_id not in self.read
                    self.written[stream_id] = bytearray()
                    self.read[stream_id] = bytearray()
                case DataReceived(stream_id=stream_id, sequence=sequence, payload=payload):
                    assert stream_id not in self.ended
                    assert 0 < len(payload) <= PAYLOAD_BYTES
                    self.read[stream_id] += payload
                    self.unfinished.append(sequence)
                case EofReceived(stream_id=stream_id):
                    assert stream_id not in self.ended
                    self.ended.add(stream_id)
                case StreamReset(stream_id=stream_id):
                    self.reset.add(stream_id)
                case _:
                    pass

    def receive(self, frame: bytes, now_s: float) -> None:
        """A frame; the lane may end of it."""
        try:
            self.note(self.protocol.receive_frame(frame, now_s))
        except LaneError:
            self.failed = True
        stats = self.protocol.stats()
        assert stats.unconsumed_out_bytes <= WINDOW_BYTES
        if not self.failed:
            assert stats.unconsumed_in_bytes <= WINDOW_BYTES

    def act(self, source: Source, now_s: float) -> None:
        """One thing that an application does."""
        writable = sorted(set(self.written) - self.finished - self.reset)
        match source.below(8):
            case 0 if len(writable) < MAX_STREAMS // 2 and len(self.written) < 3 * MAX_STREAMS:
                try:
                    stream_id = self.protocol.open_stream(StreamKind.MEMORY, "s")
                except ValueError:  # half closed ones count, too, and those whose end was not answered
                    return
                self.written[stream_id] = bytearray()
                self.read[stream_id] = bytearray()
            case 1 if writable:
                stream_id = source.pick(writable)
                if source.one_in(2):
                    self.protocol.send_eof(stream_id)
                    self.finished.add(stream_id)
                else:
                    self.protocol.send_reset(stream_id, "why not")
                    self.reset.add(stream_id)
            case 2 | 3:
                for _ in range(min(1 + source.below(4), len(self.unfinished))):
                    self.protocol.data_consumed(self.unfinished.pop(source.below(len(self.unfinished))))
            case _ if writable:
                size = 1 + source.below(PAYLOAD_BYTES - _TAG_BYTES)
                stream_id = source.pick(writable)
                if self.protocol.has_room(size) and size <= self.protocol.max_send_bytes:
                    data = bytes((self.next_byte + at) % 251 for at in range(size))
                    self.next_byte += size
                    self.protocol.send_data(stream_id, data, now_s, raw_bytes=size * source.pick((0, 1, 1000)))
                    self.written[stream_id] += data


def check(data: bytes) -> None:
    """One input; raises when a promise is broken."""
    source = Source(data)
    if source.one_in(2):
        _check_hostile(source)
    else:
        _check_joined(source)


def seeds() -> list[bytes]:
    """Inputs of some length, for both halves; what a byte means follows from those before."""
    dice = random.Random(7)  # noqa: S311  # the same in every run
    return [bytes([half, at % 2]) + dice.randbytes(60 * (1 + at)) for at in range(10) for half in (0, 1)]


def _endpoint(role: LaneRole, seal: LaneSeal) -> LaneProtocol:
    settings = LaneSettings(
        lane="m",
        role=role,
        window_bytes=WINDOW_BYTES,
        max_payload_bytes=PAYLOAD_BYTES,
        silence_s=1e6,
        max_streams=MAX_STREAMS,
    )
    return LaneProtocol(settings, seal=seal, epoch=role.value, now_s=0.0)


# ---- a hostile peer ----


def _check_hostile(source: Source) -> None:
    end = End(_endpoint(LaneRole.INITIATOR, PlainSeal()))
    end.protocol.link_up(0.0)
    now_s = 0.0
    numbered = 0
    if not source.one_in(4):
        end.receive(_frame(FrameType.HELLO, flags=Flag(3), payload=_hello(source, good=True)), now_s)
    while source.left and not end.failed:
        match source.below(8):
            case 0:
                now_s += source.pick((0.01, 1.0, 11.0))
                _tick(end, now_s)
            case 1:
                if not end.protocol.peer_closed:
                    end.act(source, now_s)
            case 2:
                end.receive(damaged(source, _any_frame(source, numbered)), now_s)
            case 3:
                end.receive(source.take(source.below(100)), now_s)
            case _:
                frame = _any_frame(source, numbered)
                numbered += 1
                end.receive(frame, now_s)
        for frame in end.protocol.frames_to_send(now_s):
            assert len(frame) < 2 * 1024
    if end.failed:
        _stays_failed(end, now_s)


def _stays_failed(end: End, now_s: float) -> None:
    try:
        end.protocol.tick(now_s)
    except LaneError:
        assert end.protocol.next_frame(now_s) is None
        return
    raise AssertionError("a lane that ended goes on")


def _tick(end: End, now_s: float) -> None:
    try:
        end.protocol.tick(now_s)
    except LaneError:
        end.failed = True
        return
    assert end.protocol.next_tick_s() > now_s, "a shell that sleeps until then would spin"


def _frame(kind: FrameType, **fields: object) -> bytes:
    header: dict[str, object] = {"epoch": LaneRole.ACCEPTOR.value, "sequence": 0, "received": 0, "consumed": 0}
    return encode_frame(Frame(kind, **(header | fields)))  # type: ignore[arg-type]  # by name


def _hello(source: Source, *, good: bool) -> bytes:
    window = WINDOW_BYTES if good else source.pick(_NUMBERS) % 2**32
    return encode_hello(
        Hello(
            peer_epoch=LaneRole.INITIATOR.value if good else source.pick(_NUMBERS),
            window_bytes=window,
            max_payload_bytes=PAYLOAD_BYTES if good else source.pick(_NUMBERS) % 2**32,
            role=LaneRole.ACCEPTOR if good else source.pick(list(LaneRole)),
            lane="m" if good else source.pick(("m", "", "x" * 255)),
        )
    )


def _any_frame(source: Source, numbered: int) -> bytes:
    """A frame that is well formed; most of its figures fit."""
    kind = source.pick((*FrameType, FrameType.DATA, FrameType.OPEN, FrameType.DATA))
    fits = not source.one_in(4)
    match kind:
        case FrameType.HELLO:
            payload = _hello(source, good=fits)
        case FrameType.OPEN:
            payload = encode_open(Open(source.pick(list(StreamKind)), "label"))
        case FrameType.DATA:
            payload = bytes(source.below(PAYLOAD_BYTES + 2))
        case FrameType.ACK | FrameType.EOF | FrameType.CLOSE if fits:
            payload = b""
        case FrameType.ACK:
            payload = b""
        case _:
            payload = source.take(source.below(30))
    return _frame(
        kind,
        flags=Flag(source.below(8)),
        epoch=LaneRole.ACCEPTOR.value if fits else source.pick(_NUMBERS),
        stream_id=source.pick((2, 4, 6, 1, 3)) if fits else source.pick(_NUMBERS) % 2**32,
        sequence=numbered + 1 if fits else source.pick(_NUMBERS),
        received=0 if fits else source.pick(_NUMBERS),
        consumed=0 if fits else source.pick(_NUMBERS),
        resend_pass=0 if fits else source.pick(_NUMBERS) % 2**32,
        pass_seen=0 if fits else source.pick(_NUMBERS) % 2**32,
        payload=payload,
    )


# ---- two ends ----


def _check_joined(source: Source) -> None:
    may_damage = source.one_in(2)
    ends = (
        End(_endpoint(LaneRole.INITIATOR, CheckedSeal())),
        End(_endpoint(LaneRole.ACCEPTOR, CheckedSeal())),
    )
    now_s = 0.0
    for end in ends:
        _up(end, now_s)
    while source.left and not any(end.failed for end in ends):
        at = source.below(2)
        end, peer = ends[at], ends[1 - at]
        match source.below(12):
            case 0 | 1 | 2:
                end.act(source, now_s)
            case 3:
                now_s += source.pick((0.01, 0.06, 1.0, 2.5, 11.0))
                for each in ends:
                    _tick(each, now_s)
            case 4:
                if end.is_up:
                    end.is_up = False
                    end.protocol.link_down(now_s)
                    if source.one_in(2):
                        end.incoming.clear()
                else:
                    _up(end, now_s)
            case 5:
                _tamper(source, end, may_damage=may_damage)
            case _:
                _move(end, peer, now_s, sent=1 + source.below(6), delivered=1 + source.below(6))
        _compare(ends)
    if not may_damage:
        assert not any(end.failed for end in ends), "the lane ended though nothing was damaged"
        _finish(ends, now_s)
    _compare(ends)


def _up(end: End, now_s: float) -> None:
    end.is_up = True
    end.protocol.link_up(now_s)


def _tamper(source: Source, end: End, *, may_damage: bool) -> None:
    """Drop, double, reorder or damage what is under way to this end."""
    frames = end.incoming
    if not frames:
        return
    at = source.below(len(frames))
    match source.below(4):
        case 0:
            del frames[at : at + 1 + source.below(4)]
        case 1:
            frames[at:at] = frames[: 1 + source.below(4)]
        case 2:
            frames.insert(source.below(len(frames)), frames.pop(at))
        case _ if may_damage:
            frames[at] = damaged(source, frames[at])
        case _:
            frames.clear()


def _move(end: End, peer: End, now_s: float, *, sent: int, delivered: int) -> None:
    for _ in range(sent):
        frame = end.protocol.next_frame(now_s)
        if frame is None:
            break
        peer.incoming.append(frame)
    for _ in range(min(delivered, len(peer.incoming)) if peer.is_up else 0):
        if not peer.failed:
            peer.receive(peer.incoming.pop(0), now_s)


def _compare(ends: tuple[End, End]) -> None:
    for end, peer in (ends, ends[::-1]):
        for stream_id, data in end.read.items():
            assert peer.written.get(stream_id, bytearray()).startswith(data), "what was read was not written so"


def _finish(ends: tuple[End, End], now_s: float) -> None:
    for end in ends:
        if not end.is_up:
            _up(end, now_s)
    deadline_s = now_s + _ROUTE_S
    while not all(end.protocol.flushed for end in ends):
        assert now_s < deadline_s, "a route that behaves does not bring all of it"
        for end, peer in (ends, ends[::-1]) * 3:
            _move(end, peer, now_s, sent=200, delivered=1000)
            while peer.unfinished:
                peer.protocol.data_consumed(peer.unfinished.pop())
        now_s += 1.0
        for end in ends:
            _tick(end, now_s)
        assert not any(end.failed for end in ends), "the lane ended though nothing was damaged"
    for end, peer in (ends, ends[::-1]):
        for stream_id, data in end.written.items():
            if stream_id not in end.reset | peer.reset:
                assert data == peer.read[stream_id]
                assert (stream_id in peer.ended) is (stream_id in end.finished)
