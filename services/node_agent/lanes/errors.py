"""How a lane or one of its streams ends. A LaneError is fatal to the lane; a StreamError to one stream only."""

from __future__ import annotations


class LaneError(Exception):
    """The lane has ended; nothing more will cross it."""

    def __init__(self, *, lane: str) -> None:
        super().__init__(lane)
        self.lane = lane


class LaneClosedError(LaneError):
    """The lane was closed in order, by this end or by the other one, and was used afterwards."""

    def __init__(self, *, lane: str, by_peer: bool) -> None:
        super().__init__(lane=lane)
        self.by_peer = by_peer

    def __str__(self) -> str:
        who = "the other node agent" if self.by_peer else "this node agent"
        return f"lane {self.lane} was closed by {who}"


class LaneSilentError(LaneError):
    """Nothing came from the other end for the whole silence deadline."""

    def __init__(self, *, lane: str, silence_s: float, ever_heard: bool) -> None:
        super().__init__(lane=lane)
        self.silence_s = silence_s
        self.ever_heard = ever_heard

    def __str__(self) -> str:
        what = "fell silent" if self.ever_heard else "never answered"
        return (
            f"lane {self.lane}: the other node agent {what} for {self.silence_s:.0f} s; "
            "check that it runs and reaches RabbitMQ"
        )


class PeerRestartedError(LaneError):
    """The other end lost the lane's state: it introduced itself with another epoch than before."""

    def __init__(self, *, lane: str, known_epoch: int, new_epoch: int) -> None:
        super().__init__(lane=lane)
        self.known_epoch = known_epoch
        self.new_epoch = new_epoch

    def __str__(self) -> str:
        return f"lane {self.lane}: the other node agent restarted and lost the lane's state; the port must start again"


class EndpointRestartedError(LaneError):
    """This end is new, but the other one still talks to the endpoint that was here before."""

    def __init__(self, *, lane: str, former_epoch: int) -> None:
        super().__init__(lane=lane)
        self.former_epoch = former_epoch

    def __str__(self) -> str:
        return (
            f"lane {self.lane}: this node agent restarted within the lane's life and has no state of it; "
            "the port must start again"
        )


class LaneAbortedError(LaneError):
    """The other end ended the lane with an error of its own."""

    def __init__(self, *, lane: str, reason: str) -> None:
        super().__init__(lane=lane)
        self.reason = reason

    def __str__(self) -> str:
        return f"lane {self.lane} was ended by the other node agent: {self.reason}"


class LaneViolationError(LaneError):
    """The other end broke the lane protocol or sent a frame that is none."""

    def __init__(self, *, lane: str, finding: str) -> None:
        super().__init__(lane=lane)
        self.finding = finding

    def __str__(self) -> str:
        return f"lane {self.lane}: the other node agent broke the lane protocol: {self.finding}"


class LaneRouteError(LaneError):
    """The route failed in a way that waiting does not mend; `__cause__` is what it raised."""

    def __init__(self, *, lane: str, cause: BaseException) -> None:
        super().__init__(lane=lane)
        self.__cause__ = cause

    def __str__(self) -> str:
        return f"lane {self.lane}: its route failed for good: {self.__cause__!r}"


class LaneCancelledError(LaneError):
    """The task that ran the lane's session was cancelled."""

    def __str__(self) -> str:
        return f"lane {self.lane}: its session was cancelled"


class StreamError(Exception):
    """One stream of a lane has ended early."""

    def __init__(self, *, lane: str, stream_id: int) -> None:
        super().__init__(lane, stream_id)
        self.lane = lane
        self.stream_id = stream_id


class StreamResetError(StreamError):
    """The stream was reset, by this end or by the other one."""

    def __init__(self, *, lane: str, stream_id: int, reason: str, by_peer: bool) -> None:
        super().__init__(lane=lane, stream_id=stream_id)
        self.reason = reason
        self.by_peer = by_peer

    def __str__(self) -> str:
        who = "the other node agent" if self.by_peer else "this node agent"
        return f"stream {self.stream_id} of lane {self.lane} was reset by {who}: {self.reason}"
