"""How a lane or one of its streams ends. A LaneError is fatal to the lane; a StreamError to one stream only."""

from __future__ import annotations

from shared.errors import VmportError


class LaneError(VmportError):
    """The lane has ended; nothing more will cross it."""

    code = "lane_failed"

    def __init__(self, sentence: str, *, lane: str) -> None:
        self.lane = lane
        super().__init__(sentence)


class LaneClosedError(LaneError):
    """The lane was closed in order, by this end or by the other one, and was used afterwards."""

    code = "lane_closed"

    def __init__(self, *, lane: str, by_peer: bool) -> None:
        self.by_peer = by_peer
        who = "the other node agent" if by_peer else "this node agent"
        super().__init__(f"lane {lane} was closed by {who}", lane=lane)


class LaneSilentError(LaneError):
    """Nothing came from the other end for the whole silence deadline."""

    code = "lane_silent"

    def __init__(self, *, lane: str, silence_s: float, ever_heard: bool) -> None:
        self.silence_s = silence_s
        self.ever_heard = ever_heard
        what = "fell silent" if ever_heard else "never answered"
        super().__init__(
            f"lane {lane}: the other node agent {what} for {silence_s:.0f} s; check that it runs and reaches RabbitMQ",
            lane=lane,
        )


class PeerRestartedError(LaneError):
    """The other end lost the lane's state: it introduced itself with another epoch than before."""

    code = "lane_peer_restarted"

    def __init__(self, *, lane: str, known_epoch: int, new_epoch: int) -> None:
        self.known_epoch = known_epoch
        self.new_epoch = new_epoch
        super().__init__(
            f"lane {lane}: the other node agent restarted and lost the lane's state; the port must start again",
            lane=lane,
        )


class EndpointRestartedError(LaneError):
    """This end is new, but the other one still talks to the endpoint that was here before."""

    code = "lane_endpoint_restarted"

    def __init__(self, *, lane: str, former_epoch: int) -> None:
        self.former_epoch = former_epoch
        super().__init__(
            f"lane {lane}: this node agent restarted within the lane's life and has no state of it; "
            "the port must start again",
            lane=lane,
        )


class LaneAbortedError(LaneError):
    """The other end ended the lane with an error of its own."""

    code = "lane_aborted"

    def __init__(self, *, lane: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"lane {lane} was ended by the other node agent: {reason}", lane=lane)


class LaneViolationError(LaneError):
    """The other end broke the lane protocol or sent bytes that are no frame."""

    code = "lane_violation"

    def __init__(self, *, lane: str, finding: str) -> None:
        self.finding = finding
        super().__init__(f"lane {lane}: the other node agent broke the lane protocol: {finding}", lane=lane)


class LaneSecurityError(LaneError):
    """The other end is not who the agreement says, or what came was changed on the way."""

    code = "lane_security"

    def __init__(self, *, lane: str, finding: str) -> None:
        self.finding = finding
        super().__init__(f"lane {lane} is not secure and has ended: {finding}", lane=lane)


class LaneRouteError(LaneError):
    """The route failed in a way that waiting does not repair; `__cause__` is what it raised."""

    code = "lane_route"

    def __init__(self, *, lane: str, cause: BaseException) -> None:
        super().__init__(f"lane {lane}: its route failed for good: {cause!r}", lane=lane)
        self.__cause__ = cause


class LaneCancelledError(LaneError):
    """The task that ran the lane's session was cancelled."""

    code = "lane_cancelled"

    def __init__(self, *, lane: str) -> None:
        super().__init__(f"lane {lane}: its session was cancelled", lane=lane)


class StreamError(VmportError):
    """One stream of a lane has ended early."""

    code = "stream_failed"

    def __init__(self, sentence: str, *, lane: str, stream_id: int) -> None:
        self.lane = lane
        self.stream_id = stream_id
        super().__init__(sentence)


class StreamResetError(StreamError):
    """The stream was reset, by this end or by the other one."""

    code = "stream_reset"

    def __init__(self, *, lane: str, stream_id: int, reason: str, by_peer: bool) -> None:
        self.reason = reason
        self.by_peer = by_peer
        who = "the other node agent" if by_peer else "this node agent"
        super().__init__(
            f"stream {stream_id} of lane {lane} was reset by {who}: {reason}", lane=lane, stream_id=stream_id
        )


class QuestionError(VmportError):
    """The other node agent answered a question of this one with no, or not at all."""

    code = "signal"
