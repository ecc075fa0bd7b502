"""Reads a port's lanes for the ladder, which decides about the downtime. Owns no rule and carries no step out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from services.node_agent.hypervisor.interface import JobStats
from services.node_agent.switchover.convergence import Backlog, Ladder, NewDataShare, ServiceRate, Step
from services.node_agent.transfers.port_lanes import PortLanes
from shared.topology import Lane

RATE_EVERY_S: Final = 1.0
"""Over less, hiccups of two event loops are a good part of a rate."""


class DowntimeControl:
    """Controls the downtime of one outbound migration."""

    def __init__(self, ladder: Ladder, lanes: PortLanes, *, clock: Callable[[], float]) -> None:
        self._ladder = ladder
        self._lanes = lanes
        self._clock = clock
        self._link = ServiceRate()
        self._recipient = ServiceRate()
        self._new_data = NewDataShare()
        self._rate_at_s = clock()

    def carried_out(self, step: Step) -> None:
        """A step was done; one that failed is decided again."""
        self._ladder.carried_out(step)

    def sample(self, stats: JobStats, *, may_switch: bool = True) -> list[Step]:
        """Judge one reading of the job with the lanes as they are now; what the codec may let wait is set here.

        While not `may_switch`, the guest must not be paused.
        """
        lanes = self._lanes.stats()
        memory, now_s = lanes[Lane.MEMORY], self._clock()
        if now_s >= self._rate_at_s:
            self._rate_at_s = now_s + RATE_EVERY_S
            bulk = (memory, lanes[Lane.DISK])
            self._link.sample(
                delivered_bytes=sum(lane.data_sent_bytes - lane.unconsumed_out_bytes for lane in bulk),
                full=any(lane.link_is_full for lane in bulk),
                at_s=now_s,
            )
            self._recipient.sample(
                delivered_bytes=sum(lane.raw_sent_bytes - lane.unconsumed_out_raw_bytes for lane in bulk),
                full=any(lane.reader_is_full for lane in bulk),
                at_s=now_s,
            )
        taken_bytes, _ = self._lanes.raw_bytes_by_direction(Lane.MEMORY)
        self._new_data.sample(stats.memory_iteration, taken_bytes=taken_bytes, new_data_bytes=memory.data_sent_bytes)
        self._lanes.hold_at_most(Lane.MEMORY, self._ladder.hold_bytes(self._link.bytes_per_s))
        return self._ladder.next_steps(
            stats,
            link=Backlog(
                memory.unconsumed_out_bytes + self._lanes.held_bytes(Lane.MEMORY),
                self._link.bytes_per_s,
            ),
            recipient=Backlog(
                memory.unconsumed_out_raw_bytes + self._lanes.held_raw_bytes(Lane.MEMORY),
                self._recipient.bytes_per_s,
            ),
            new_data_share=self._new_data.share,
            may_switch=may_switch,
        )
