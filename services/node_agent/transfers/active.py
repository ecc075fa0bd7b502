"""A transfer that is under way: what the commands of broker and agents need of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.node_agent.state.journal import TransferJournal
from services.node_agent.switchover.broker_client import BrokerClient
from services.node_agent.transfers.reporting import OutboundReports


@dataclass(slots=True)
class ActiveTransfer:
    """A transfer that has a task. `cancel` obeys the broker; `stop` ends only what may end without the broker.
    `copy_asked` is there while the transfer itself knows whether the guest was let go."""

    journal: TransferJournal
    broker: BrokerClient
    reporter: OutboundReports
    cancel: Callable[[], None] | None = None
    stop: Callable[[], None] | None = None
    copy_asked: Callable[[], None] | None = None
    aborting: bool = False
    opened: bool = False
    arrived: bool = False
    provisioned: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def abort(self) -> None:
        """Stop it, now or as soon as it can be stopped."""
        self.aborting = True
        if self.cancel is not None:
            self.cancel()

    def cancel_with(self, cancel: Callable[[], None]) -> None:
        """From now on it can be stopped so; an abort that came earlier is carried out now."""
        self.cancel = cancel
        if self.aborting:
            cancel()

    @contextmanager
    def answering(self, copy_asked: Callable[[], None] | None) -> Iterator[None]:
        """Meanwhile questions whether the guest was let go are answered so."""
        self.copy_asked = copy_asked
        try:
            yield
        finally:
            self.copy_asked = None
