"""StreamTable: which streams of a lane are open, in which directions. Owns ids and the rules of half-closing. Pure.

Ids are never used twice: the initiator opens 1, 3, 5, ..., the acceptor 2, 4, 6, ... An id below the newest of its
kind that is not in the table is a closed stream's. Its late DATA (sent before our RESET arrived) is swallowed; DATA
after the other end's own EOF is a violation. Findings about the other end are ValueErrors with the sentence; the
protocol turns them into violations.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.page_stream.bodies import LaneRole


@dataclass(slots=True)
class _Directions:
    sends: bool = True
    receives: bool = True


class StreamTable:
    """The streams of one endpoint."""

    def __init__(self, *, role: LaneRole, max_streams: int) -> None:
        self._role = role
        self._max_streams = max_streams
        self._open: dict[int, _Directions] = {}
        self._next_local_id = role.value
        self._newest_peer_id = 0

    def __len__(self) -> int:
        return len(self._open)

    def open_local(self) -> int:
        """A new stream of this end; its id. Raises ValueError at the limit."""
        if self._count(local=True) >= self._max_streams:
            raise ValueError(f"{self._max_streams} streams are open, which is the limit")
        stream_id = self._next_local_id
        self._next_local_id += 2
        self._open[stream_id] = _Directions()
        return stream_id

    def check_sends(self, stream_id: int) -> None:
        """Raises ValueError unless this end may send on the stream."""
        directions = self._open.get(stream_id)
        if directions is None or not directions.sends:
            raise ValueError(f"stream {stream_id} is not open for sending")

    def end_sending(self, stream_id: int) -> None:
        """This end's EOF."""
        self.check_sends(stream_id)
        self._open[stream_id].sends = False
        self._forget_if_done(stream_id)

    def drop(self, stream_id: int) -> bool:
        """Reset by either end; whether the stream was open."""
        return self._open.pop(stream_id, None) is not None

    def drop_all(self) -> None:
        """The lane has ended."""
        self._open.clear()

    def open_peer(self, stream_id: int) -> None:
        """The other end's OPEN."""
        if stream_id == 0 or self._is_local(stream_id):
            raise ValueError(f"it opened stream {stream_id}, an id of this end")
        if stream_id <= self._newest_peer_id:
            raise ValueError(f"it opened stream {stream_id} after {self._newest_peer_id}")
        if self._count(local=False) >= self._max_streams:
            raise ValueError(f"it opened more than {self._max_streams} streams at once")
        self._newest_peer_id = stream_id
        self._open[stream_id] = _Directions()

    def takes(self, stream_id: int) -> bool:
        """Whether the other end's DATA or EOF is to be delivered (True) or swallowed (False)."""
        directions = self._open.get(stream_id)
        if directions is not None:
            if not directions.receives:
                raise ValueError(f"it sent on stream {stream_id} after its EOF")
            return True
        self.check_known(stream_id)
        return False

    def check_known(self, stream_id: int) -> None:
        """Raises ValueError for an id that was never opened."""
        # Ids rise by two at each end, so every id up to the newest was opened once.
        newest = self._next_local_id - 2 if self._is_local(stream_id) else self._newest_peer_id
        if not 0 < stream_id <= newest:
            raise ValueError(f"it spoke of stream {stream_id}, which was never opened")

    def end_receiving(self, stream_id: int) -> None:
        """The other end's EOF, after `takes` said True."""
        self._open[stream_id].receives = False
        self._forget_if_done(stream_id)

    def _forget_if_done(self, stream_id: int) -> None:
        directions = self._open[stream_id]
        if not directions.sends and not directions.receives:
            del self._open[stream_id]

    def _is_local(self, stream_id: int) -> bool:
        return stream_id % 2 == self._role.value % 2

    def _count(self, *, local: bool) -> int:
        return sum(1 for stream_id in self._open if self._is_local(stream_id) is local)
