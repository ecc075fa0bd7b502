"""LaneSettings: sizes and times of one lane, as a plain value.

Reading them from configuration is the caller's work.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.page_stream.bodies import MAX_NAME_BYTES, LaneRole

_MIB = 1024 * 1024
MAX_DATA_BYTES = _MIB + 4096  # sealed, it must fit a frame


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """All that an endpoint must be told. Raises ValueError when the values cannot work together."""

    lane: str
    """Name of the lane, the same at both ends, such as `<port id>.memory`; a HELLO for another name is refused."""
    role: LaneRole
    """INITIATOR at one end, ACCEPTOR at the other."""
    window_bytes: int = 8 * _MIB
    """Most bytes in flight in either direction: sent by one application, not yet consumed by the other."""
    window_follows_link: bool = True
    """Whether this end uses less of the window where bandwidth x delay is less. Of no use to a lane of small, urgent
    messages."""
    max_payload_bytes: int = 256 * 1024 + 4096
    """Largest DATA payload sent and accepted: a chunk and its codec's header."""
    ack_delay_s: float = 0.01
    """How long an ack may wait for more to report when little was consumed."""
    resend_after_s: float = 2.0
    """Time without progress after which the other end is asked what it has; doubles up to `probe_limit_s`."""
    probe_limit_s: float = 30.0
    """Longest pause between two such questions."""
    hello_retry_s: float = 1.0
    """Pause between two HELLOs while no answer comes."""
    keepalive_s: float = 10.0
    """Idle time after which an ACK is sent to show that this end lives."""
    silence_s: float = 120.0
    """Time without any frame from the other end after which the lane has failed; also the wait for the first one."""
    max_streams: int = 64
    """Most streams open at once, in each direction of opening."""

    def __post_init__(self) -> None:
        if not 0 < len(self.lane.encode()) <= MAX_NAME_BYTES:
            raise ValueError(f"lane name must have 1 to {MAX_NAME_BYTES} bytes, not {len(self.lane.encode())}")
        if not 0 < self.max_payload_bytes <= MAX_DATA_BYTES:
            raise ValueError(f"max_payload_bytes must be 1 to {MAX_DATA_BYTES}, not {self.max_payload_bytes}")
        if not 2 * self.max_payload_bytes <= self.window_bytes < 2**32:
            raise ValueError(
                f"window_bytes ({self.window_bytes}) must hold two payloads of {self.max_payload_bytes} bytes"
            )
        for name in ("ack_delay_s", "resend_after_s", "probe_limit_s", "hello_retry_s", "keepalive_s"):
            if not 0 < getattr(self, name) < self.silence_s:
                raise ValueError(f"{name} must be positive and shorter than silence_s ({self.silence_s} s)")
        if self.max_streams < 1:
            raise ValueError(f"max_streams must be at least 1, not {self.max_streams}")
