"""LaneProtocol: one end of a lane, without I/O. Frames in, events out; commands in, frames out; time is an argument.

Theory of operation
-------------------
A lane joins two endpoints by a route that may lose and duplicate frames, break, and come back, but that keeps order
within one connection.

Rule 1  Exactly once, in order. Numbered frames (OPEN, DATA, EOF, RESET, CLOSE) are delivered once and in order, by
        outbox.py and inbox.py.
Rule 2  Acks mean consumed. `received` frees the sender's copy; `consumed` frees the window, when the application has
        finished with the bytes (written them into its local socket). So the window bounds the sender's memory, the
        relay's queue and the receiver's memory together, and a reader that stops reading stops the writer at the
        other end. Within it the sender limits the bytes in flight to about bandwidth x delay (flight.py), both of
        payloads and of the *raw* bytes that the other application decodes from them: a few kB of references may be
        megabytes to write, and then it is the bottleneck. A writer that no switchover waits for may lead by more raw
        bytes. For these measurements acks are sent after `ACK_BYTES`, and after `ack_delay_s`.
Rule 3  Loss is seen, not guessed. Every frame names the last number sent before it in this pass; because the route
        keeps order, any frame that arrives shows what did not. After `resend_after_s` without progress the sender
        asks with a small ACK (REPLY_WANTED), which drives the same mechanism when the *last* frames were lost. Only
        a reported gap repeats anything.
Rule 4  Resync. After the route came back an endpoint sends HELLO until a HELLO with REPLY comes, and no numbered
        frame before that. Since HELLO, too, names the last number sent, both ends then know what was lost on the way.
Rule 5  Epochs. An endpoint has a random epoch for its whole life. A HELLO of a new epoch means that the other end
        lost its state; a HELLO that calls this end by an epoch that it never had means that this end did. Both end
        the lane: its streams cannot be continued. Other frames of a foreign epoch are stale and are dropped.
Rule 6  Silence. An idle end sends an ACK every `keepalive_s`; hearing nothing for `silence_s`, whether the route is
        up or not, is fatal, unless the other end has closed the lane.
Rule 7  Streams of one lane share its window. A reader that stops stops all of them: streams whose readers
        wait for each other, or of which one is urgent, belong on different lanes. OPEN, EOF, RESET and CLOSE are
        outside the window (their number is bounded by `max_streams`), so a stream can always be given up.
Rule 8  Secrecy. Every numbered unit is sealed (seal.py) when it gets its number and opened when it is delivered, so
        this layer moves, repeats and counts ciphertext. Until the seal is established only HANDSHAKE frames are
        numbered; the streams' units that the application asks for meanwhile wait, unnumbered. HELLO, ACK and ABORT are
        not sealed: whoever changes them can end or stall the lane, which a relay can anyway, but change no byte of it.
Rule 9  Every violation raises a LaneError from the call that met it, and again from all later ones.

This module is longer than others (about 600 lines, one class): the rules above are about one state, and to cut it would
spread them over objects that must call each other once per frame.

    stream:  OPEN -> open -> EOF from one end -> half closed -> EOF from the other -> closed
             RESET from either end, at any time -> closed
    lane:    link_up -> HELLO/HELLO(REPLY) -> ready -> link_down/link_up -> resynced ... -> CLOSE, consumed -> closed
"""
# Over 400 lines: the rules above hold only together, so the machine that keeps them stands in one place.

from __future__ import annotations

from collections import deque
from typing import Final, NoReturn

from services.node_agent.lanes.core.errors import (
    EndpointRestartedError,
    LaneAbortedError,
    LaneClosedError,
    LaneError,
    LaneSecurityError,
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
from services.node_agent.lanes.core.flight import Flight
from services.node_agent.lanes.core.inbox import Inbox
from services.node_agent.lanes.core.outbox import FRAME_COST_BYTES, Outbox
from services.node_agent.lanes.core.seal import LaneSeal, SealError
from services.node_agent.lanes.core.settings import LaneSettings
from services.node_agent.lanes.core.stats import LaneStats
from services.node_agent.lanes.core.streams import StreamTable
from shared.page_stream.bodies import (
    Hello,
    Open,
    StreamKind,
    decode_hello,
    decode_open,
    decode_reason,
    encode_hello,
    encode_open,
    encode_reason,
)
from shared.page_stream.errors import FrameError
from shared.page_stream.frame import Flag, Frame, FrameBytes, FrameType, decode_frame, encode_frame

KEEPALIVE_LATE_S: Final = 2.0
"""How much later than every `keepalive_s` the other end's keepalive may come before it counts as away."""
RAW_LIMIT_BYTES: Final = 1 << 40
"""No limit: raw bytes in flight are held in no memory; only the payloads are."""
ACK_BYTES: Final = 128 * 1024
"""An ack is due when so much was consumed, or an eighth of the window where that is less. On loopback that costs 5 % of
900 MB/s beside acks after 1 MiB; at 100 Mbit/s it is 95 acks and 5 kB a second (tests/bench/lane_throughput.py)."""


class LaneProtocol:
    """One end of a lane.

    `epoch` must be random, non-zero and below 2**64; `now_s` is any monotonic clock in seconds. Raises SealError where
    `seal` cannot begin.
    """

    def __init__(self, settings: LaneSettings, *, seal: LaneSeal, epoch: int, now_s: float) -> None:
        if not 0 < epoch < 2**64:
            raise ValueError(f"epoch must be within 1 and 2**64-1, not {epoch}")
        self.settings = settings
        self._epoch = epoch
        self._peer_epoch = 0
        self._peer_max_payload_bytes = 0
        self._outbox = Outbox()
        self._flight = Flight(follow=settings.window_follows_link)
        self._raw_flight = Flight(follow=settings.window_follows_link)
        self._raw_flight.window_bytes = RAW_LIMIT_BYTES
        self._flights = (self._flight, self._raw_flight)
        self._inbox = Inbox(window_bytes=settings.window_bytes)
        self._streams = StreamTable(role=settings.role, max_streams=settings.max_streams)
        self._seal = seal
        self._unsealed: deque[tuple[FrameType, int, bytes]] = deque()  # asked for before the seal was established
        self._failure: LaneError | None = None
        self._closing = False
        self._peer_closed = False
        # The route: HELLOs and ACKs that are due, and since when.
        self._link_ups = 0
        self._link_is_up = False
        self._synced = False
        self._ready = False
        self._hello_due: Flag | None = None
        self._hello_retry_at_s = now_s
        self._ack_due: Flag | None = None
        self._ack_at_s: float | None = None
        self._gap_told_in_pass = -1
        self._now_s = now_s
        self._heard_s = now_s
        self._said_s = now_s
        self._probe_at_s = now_s
        self._probe_pause_s = settings.resend_after_s
        # For statistics only.
        self._sent_frames = 0
        self._sent_bytes = 0
        self._resent_bytes = 0
        self._received_frames = 0
        self._received_bytes = 0
        self._dropped_frames = 0
        self._data_sent_bytes = 0
        self._data_received_bytes = 0
        self._raw_sent_bytes = 0
        if opening := seal.begin():
            self._outbox.append(FrameType.HANDSHAKE, 0, opening)

    # What is true now ---------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the other end is proven, and its window and limits are known."""
        return self._ready and self._seal.established

    def is_away(self, now_s: float) -> bool:
        """Whether the other end cannot be heard now: the route is down, or not even a keepalive came."""
        late_s = self.settings.keepalive_s + KEEPALIVE_LATE_S
        return not self._synced or now_s - self._heard_s > late_s

    @property
    def peer_closed(self) -> bool:
        """Whether the other end has closed the lane in order."""
        return self._peer_closed

    @property
    def flushed(self) -> bool:
        """Whether the other application has consumed everything; CLOSE included, unless it closed the lane itself."""
        waiting = self._outbox.unconsumed_units + len(self._unsealed)
        return waiting <= (self._closing and self._peer_closed)

    @property
    def max_send_bytes(self) -> int:
        """Largest DATA payload that both ends accept; this end's own limit until the other one's is known."""
        return min(self.settings.max_payload_bytes, self._peer_max_payload_bytes or self.settings.max_payload_bytes)

    def has_room(self, payload_bytes: int, *, raw_lead_bytes: int = 0) -> bool:
        """Whether `send_data` of this many bytes is possible now, by a writer that may lead by so many raw bytes."""
        raw_bytes = self._outbox.unconsumed_raw_bytes
        return (
            self._seal.established
            and self._flight.has_room(self._outbox.unconsumed_bytes)
            and (raw_bytes < raw_lead_bytes or self._raw_flight.has_room(raw_bytes))
            and self._outbox.has_room(self._seal.sealed_bytes(payload_bytes))
        )

    def stats(self) -> LaneStats:
        """Counters since the endpoint was made, as of the latest call that carried a time."""
        return LaneStats(
            at_s=self._now_s,
            sent_frames=self._sent_frames,
            sent_bytes=self._sent_bytes,
            resent_bytes=self._resent_bytes,
            received_frames=self._received_frames,
            received_bytes=self._received_bytes,
            dropped_frames=self._dropped_frames,
            data_sent_bytes=self._data_sent_bytes,
            data_received_bytes=self._data_received_bytes,
            raw_sent_bytes=self._raw_sent_bytes,
            allowed_out_bytes=self._flight.allowed_bytes,
            unconsumed_out_bytes=self._outbox.unconsumed_bytes,
            allowed_out_raw_bytes=self._raw_flight.allowed_bytes,
            unconsumed_out_raw_bytes=self._outbox.unconsumed_raw_bytes,
            unconsumed_in_bytes=self._inbox.unconsumed_bytes,
            reconnects=max(0, self._link_ups - 1),
            open_streams=len(self._streams),
        )

    # Commands of the application ----------------------------------------------------------------------------------

    def open_stream(self, kind: StreamKind, label: str) -> int:
        """Open a stream; its id.

        Raises ValueError when `max_streams` of this end's are open, BadBodyError for a long label.
        """
        self._check_usable()
        if self._outbox.unconsumed_controls + len(self._unsealed) >= 4 * self.settings.max_streams:
            raise ValueError(f"lane {self.settings.lane}: too many streams were opened and ended without an answer")
        body = encode_open(Open(kind=kind, label=label))
        stream_id = self._streams.open_local()
        self._put(FrameType.OPEN, stream_id, body)
        return stream_id

    def send_data(
        self,
        stream_id: int,
        payload: memoryview | bytes,
        now_s: float,
        *,
        raw_bytes: int | None = None,
        raw_lead_bytes: int = 0,
    ) -> None:
        """Queue one DATA frame; the other end receives exactly these bytes as one payload. An empty payload is no
        frame.

        `payload` must not change afterwards. The other application makes `raw_bytes` of it, as many as it has unless
        said, and may be `raw_lead_bytes` of them behind whatever it is measured to take. Raises ValueError when it is
        too long, has no room, or the stream cannot send.
        """
        self._check_usable()
        self._streams.check_sends(stream_id)
        size = len(payload)
        if size > self.max_send_bytes:
            raise ValueError(f"payload of {size} bytes is over this lane's limit of {self.max_send_bytes}")
        if not self.has_room(size, raw_lead_bytes=raw_lead_bytes):
            raise ValueError(f"no room in the window for {size} bytes; ask has_room() first")
        if size:
            raw = size if raw_bytes is None else raw_bytes
            before_bytes = self._outbox.unconsumed_bytes
            self._put(FrameType.DATA, stream_id, payload, raw_bytes=raw)
            in_flight_bytes = self._outbox.unconsumed_bytes
            self._flight.sent(in_flight_bytes - before_bytes, unconsumed_bytes=in_flight_bytes, now_s=now_s)
            self._raw_flight.sent(raw, unconsumed_bytes=self._outbox.unconsumed_raw_bytes, now_s=now_s)
            self._data_sent_bytes += size
            self._raw_sent_bytes += raw

    def send_eof(self, stream_id: int) -> None:
        """Close this end's half of a stream. Raises ValueError when it is closed already."""
        self._check_usable()
        self._streams.end_sending(stream_id)
        self._put(FrameType.EOF, stream_id)

    def send_reset(self, stream_id: int, reason: str) -> None:
        """Give a stream up in both directions; no effect on one that is closed."""
        self._check_usable()
        if self._streams.drop(stream_id):
            self._put(FrameType.RESET, stream_id, encode_reason(reason))

    def data_consumed(self, sequence: int) -> None:
        """The application is done with a DataReceived. Each one must be reported once, also after a reset."""
        self._inbox.consume(sequence)
        if self._inbox.consumed_since_report_bytes >= min(ACK_BYTES, self.settings.window_bytes // 8):
            self._ack_now()
        else:
            self._ack_soon()

    def close(self) -> None:
        """Queue CLOSE after all that was sent; later commands raise LaneClosedError. Idempotent."""
        if not self._closing and self._failure is None:
            self._put(FrameType.CLOSE, 0)
            self._closing = True

    def abort_frame(self, reason: str) -> bytes:
        """An ABORT for the shell to send once, best effort, when it gives the lane up."""
        return self._encode(FrameType.ABORT, payload=encode_reason(reason))

    # The route ----------------------------------------------------------------------------------------------------

    def link_up(self, now_s: float) -> None:
        """The route is usable, for the first time or again: resync before anything else."""
        self._now_s = now_s
        self._link_ups += 1
        self._link_is_up = True
        self._synced = False
        self._hello_due = (self._hello_due or Flag.NONE) | Flag.REPLY_WANTED
        for flight in self._flights:
            flight.restart(now_s)

    def link_down(self, now_s: float) -> None:
        """The route is away; `next_frame` has nothing until `link_up`."""
        self._now_s = now_s
        self._link_is_up = False
        self._synced = False

    def receive_frame(self, data: FrameBytes, now_s: float) -> list[LaneEvent]:
        """One frame from the route. Raises a LaneError that ends the lane."""
        self._check_alive()
        self._now_s = now_s
        self._received_frames += 1
        self._received_bytes += len(data)
        try:
            return self._on_frame(decode_frame(data))
        except SealError as error:
            self._fail(LaneSecurityError(lane=self.settings.lane, finding=str(error)), error)
        except (FrameError, ValueError) as error:
            self._fail(LaneViolationError(lane=self.settings.lane, finding=str(error)), error)

    def next_frame(self, now_s: float) -> bytes | None:
        """The next frame for the route, or None when there is nothing to say now. What is returned counts as sent."""
        self._now_s = now_s
        if not self._link_is_up or self._failure is not None:
            return None
        if self._hello_due is not None:
            flags, self._hello_due = self._hello_due, None
            self._hello_retry_at_s = now_s + self.settings.hello_retry_s
            return self._encode(FrameType.HELLO, flags=flags, payload=self._hello_body())
        if self._ack_due is not None and self._peer_epoch:
            return self._encode(FrameType.ACK, flags=self._ack_due)
        if self._synced and self._outbox.pending:
            if not self._outbox.unanswered:
                self._expect_progress()
            unit, again = self._outbox.next_unit()
            data = self._encode(unit.type, stream_id=unit.stream_id, sequence=unit.sequence, payload=unit.payload)
            self._resent_bytes += len(data) if again else 0
            return data
        return None

    def frames_to_send(self, now_s: float) -> list[bytes]:
        """All that `next_frame` has now."""
        frames = []
        while (frame := self.next_frame(now_s)) is not None:
            frames.append(frame)
        return frames

    def tick(self, now_s: float) -> None:
        """See what has become due; `next_frame` then has it. Raises LaneSilentError."""
        self._check_alive()
        self._now_s = now_s
        if not self._peer_closed and now_s >= self._heard_s + self.settings.silence_s:
            silence_s = now_s - self._heard_s
            heard = self._peer_epoch != 0
            self._fail(LaneSilentError(lane=self.settings.lane, silence_s=silence_s, ever_heard=heard))
        if not self._link_is_up:
            return
        if not self._synced and self._hello_due is None and now_s >= self._hello_retry_at_s:
            self._hello_due = Flag.REPLY_WANTED
        if self._ack_at_s is not None and now_s >= self._ack_at_s:
            self._ack_now()
        for flight in self._flights:
            flight.tick(now_s, all_arrived=self._outbox.all_received)
        if self._synced and self._outbox.unanswered and now_s >= self._probe_at_s:
            self._ack_now(Flag.REPLY_WANTED)
            self._probe_pause_s = min(2 * self._probe_pause_s, self.settings.probe_limit_s)
            self._probe_at_s = now_s + self._probe_pause_s
        if self._keepalive_counts and now_s >= self._said_s + self.settings.keepalive_s:
            self._ack_now()

    def next_tick_s(self) -> float:
        """When `tick` will have something to do, if nothing else happens before; later than the latest `tick`.

        What is due already and waits for the route to take it is no reason to tick again.
        """
        due = [] if self._peer_closed else [self._heard_s + self.settings.silence_s]
        if self._link_is_up:
            if not self._synced and self._hello_due is None:
                due.append(self._hello_retry_at_s)
            if self._ack_at_s is not None:
                due.append(self._ack_at_s)
            stills = (flight.next_tick_s(all_arrived=self._outbox.all_received) for flight in self._flights)
            due += [still_s for still_s in stills if still_s is not None]
            if self._synced and self._outbox.unanswered:
                due.append(self._probe_at_s)
            if self._keepalive_counts:
                due.append(self._said_s + self.settings.keepalive_s)
        return min(due, default=self._now_s + self.settings.silence_s)

    # Frames in ----------------------------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> list[LaneEvent]:
        if frame.type is FrameType.HELLO:
            return self._on_hello(frame)
        if frame.type is FrameType.ABORT and self._peer_epoch in (0, frame.epoch):
            self._fail(LaneAbortedError(lane=self.settings.lane, reason=decode_reason("ABORT", frame.payload)))
        if frame.epoch != self._peer_epoch:
            self._dropped_frames += 1
            return []
        self._heard_s = self._now_s
        self._apply_report(frame)
        if not self._is_next(frame):
            self._dropped_frames += frame.numbered
            return []
        self._ack_soon()
        if self._peer_closed:
            raise ValueError(f"frame {frame.sequence} ({frame.type.name}) came after CLOSE")
        return self._deliver(frame)

    def _on_hello(self, frame: Frame) -> list[LaneEvent]:
        hello = decode_hello(frame.payload)
        self._check_hello(frame, hello)
        self._heard_s = self._now_s
        self._peer_epoch = frame.epoch
        self._peer_max_payload_bytes = hello.max_payload_bytes
        self._outbox.window_bytes = min(hello.window_bytes, self.settings.window_bytes)
        self._flight.window_bytes = self._outbox.window_bytes
        self._apply_report(frame)
        self._is_next(frame)
        if frame.flags & Flag.REPLY_WANTED:
            self._hello_due = (self._hello_due or Flag.NONE) | Flag.REPLY
        if self._synced or not self._link_is_up or hello.peer_epoch == 0 or not frame.flags & Flag.REPLY:
            return []
        self._synced = True
        self._expect_progress()
        first, self._ready = not self._ready, True
        if not self._seal.established:
            return []
        return [LaneReady()] if first else [LaneResumed()]

    def _check_hello(self, frame: Frame, hello: Hello) -> None:
        mine = self.settings
        if hello.lane != mine.lane or hello.role is not mine.role.peer or frame.epoch in (0, self._epoch):
            raise ValueError(
                f"its HELLO is of lane {hello.lane!r}, {hello.role.name}; "
                f"this end is the {mine.role.name} of {mine.lane!r}"
            )
        if hello.peer_epoch not in (0, self._epoch):
            self._fail(EndpointRestartedError(lane=mine.lane, former_epoch=hello.peer_epoch))
        if self._peer_epoch not in (0, frame.epoch):
            self._fail(PeerRestartedError(lane=mine.lane, known_epoch=self._peer_epoch, new_epoch=frame.epoch))
        if not 0 < hello.max_payload_bytes <= hello.window_bytes - FRAME_COST_BYTES:
            raise ValueError(f"its window of {hello.window_bytes} bytes holds no payload of {hello.max_payload_bytes}")

    def _apply_report(self, frame: Frame) -> None:
        in_flight = self._outbox.unconsumed_payloads
        if self._outbox.report(
            received=frame.received,
            consumed=frame.consumed,
            pass_seen=frame.pass_seen,
            gap=bool(frame.flags & Flag.GAP),
        ):
            payloads = in_flight - self._outbox.unconsumed_payloads
            for flight in self._flights:
                flight.consumed(payloads, self._now_s)
            self._expect_progress()

    def _is_next(self, frame: Frame) -> bool:
        """Whether the frame is to be delivered; says at once what is missing, once per pass and whenever asked."""
        is_next = self._inbox.accept(frame)
        if self._inbox.gap and self._gap_told_in_pass != self._inbox.pass_seen:
            self._gap_told_in_pass = self._inbox.pass_seen
            self._ack_now()
        if frame.flags & Flag.REPLY_WANTED and frame.type is not FrameType.HELLO:
            self._ack_now()
        return is_next

    def _deliver(self, frame: Frame) -> list[LaneEvent]:
        stream_id = frame.stream_id
        if frame.type is FrameType.HANDSHAKE:
            return self._on_handshake(frame)
        if not self._seal.established:
            raise ValueError(f"frame {frame.sequence} ({frame.type.name}) came before the handshake was done")
        body = self._seal.open(frame.type, stream_id, frame.payload)
        if len(body) and frame.type in {FrameType.EOF, FrameType.CLOSE}:
            raise ValueError(f"{frame.type.name} has {len(body)} bytes where none belong")
        match frame.type:
            case FrameType.OPEN:
                opening = decode_open(body)
                self._streams.open_peer(stream_id)
                return [StreamOpened(stream_id, opening.kind, opening.label)]
            case FrameType.DATA:
                return self._deliver_data(frame, body)
            case FrameType.EOF if self._streams.takes(stream_id):
                self._streams.end_receiving(stream_id)
                return [EofReceived(stream_id)]
            case FrameType.RESET:
                self._streams.check_known(stream_id)
                reason = decode_reason("RESET", body)
                return [StreamReset(stream_id, reason)] if self._streams.drop(stream_id) else []
            case FrameType.CLOSE:
                self._peer_closed = True
                self._streams.drop_all()
                self._ack_now()
                return [LaneClosed()]
        return []

    def _on_handshake(self, frame: Frame) -> list[LaneEvent]:
        answer = self._seal.receive_handshake(frame.payload)
        if answer:
            self._outbox.append(FrameType.HANDSHAKE, 0, answer)
        if not self._seal.established:
            return []
        while self._unsealed:
            self._put(*self._unsealed.popleft())
        return [LaneReady()] if self._ready else []

    def _deliver_data(self, frame: Frame, body: memoryview | bytes) -> list[LaneEvent]:
        size = len(body)
        if not 0 < size <= self.settings.max_payload_bytes:
            raise ValueError(f"DATA of {size} bytes, {self.settings.max_payload_bytes} is the limit and 1 the least")
        if not self._streams.takes(frame.stream_id):
            self.data_consumed(frame.sequence)
            return []
        self._data_received_bytes += size
        return [DataReceived(frame.stream_id, frame.sequence, body)]

    # Frames out ---------------------------------------------------------------------------------------------------

    def _put(
        self, frame_type: FrameType, stream_id: int, body: memoryview | bytes = b"", *, raw_bytes: int = 0
    ) -> None:
        """Seal and number one unit, or keep it until that is possible."""
        if not self._seal.established:
            self._unsealed.append((frame_type, stream_id, bytes(body)))
            return
        try:
            sealed = self._seal.seal(frame_type, stream_id, body)
        except SealError as error:
            self._fail(LaneSecurityError(lane=self.settings.lane, finding=str(error)), error)
        self._outbox.append(frame_type, stream_id, sealed, raw_bytes=raw_bytes)

    def _encode(
        self,
        frame_type: FrameType,
        *,
        flags: Flag = Flag.NONE,
        stream_id: int = 0,
        sequence: int | None = None,
        payload: memoryview | bytes = b"",
    ) -> bytes:
        """A frame with the current report in its header; counts as said."""
        data = encode_frame(
            Frame(
                type=frame_type,
                flags=flags | (Flag.GAP if self._inbox.gap else Flag.NONE),
                epoch=self._epoch,
                stream_id=stream_id,
                sequence=self._outbox.sent_through if sequence is None else sequence,
                received=self._inbox.received,
                consumed=self._inbox.consumed,
                resend_pass=self._outbox.resend_pass,
                pass_seen=self._inbox.pass_seen,
                payload=payload,
            )
        )
        self._said_s = self._now_s
        self._ack_at_s = None
        if frame_type is FrameType.ACK or self._ack_due is Flag.NONE:
            self._ack_due = None
        self._inbox.reported()
        self._sent_frames += 1
        self._sent_bytes += len(data)
        return data

    def _hello_body(self) -> bytes:
        mine = self.settings
        return encode_hello(
            Hello(
                peer_epoch=self._peer_epoch,
                window_bytes=mine.window_bytes,
                max_payload_bytes=mine.max_payload_bytes,
                role=mine.role,
                lane=mine.lane,
            )
        )

    def _ack_now(self, flags: Flag = Flag.NONE) -> None:
        self._ack_due = (self._ack_due or Flag.NONE) | flags
        self._ack_at_s = None

    def _ack_soon(self) -> None:
        if self._ack_at_s is None and self._ack_due is None:
            self._ack_at_s = self._now_s + self.settings.ack_delay_s

    @property
    def _keepalive_counts(self) -> bool:
        return self._peer_epoch != 0 and self._ack_due is None and self._hello_due is None

    def _expect_progress(self) -> None:
        self._probe_pause_s = self.settings.resend_after_s
        self._probe_at_s = self._now_s + self._probe_pause_s

    # Ends ---------------------------------------------------------------------------------------------------------

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _check_usable(self) -> None:
        self._check_alive()
        if self._closing or self._peer_closed:
            raise LaneClosedError(lane=self.settings.lane, by_peer=not self._closing)

    def _fail(self, failure: LaneError, cause: Exception | None = None) -> NoReturn:
        self._failure = failure
        raise failure from cause
