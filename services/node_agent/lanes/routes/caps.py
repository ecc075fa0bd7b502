"""Caps: the bandwidth caps in force, per port and per peer provider, and the waiting for them.

Owns the waiting; rate.py owns the arithmetic, and where the figures come from is the caller's matter. Bulk waits, in
the order of arrival, until both the port's and the pair's bucket let it pass; what is small and urgent is only charged.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Final
from uuid import UUID

from services.node_agent.lanes.core.rate import TokenBucket

URGENT_BYTES: Final = 1024
"""A frame of at most this size (an ack, a request) waits for no cap."""


class CapUser(StrEnum):
    """Whose lanes a port has. An extension outlives its transfer."""

    TRANSFER = "transfer"
    EXTENSION = "extension"


class SharedBucket:
    """One cap, for all who share it."""

    def __init__(self, rate_bytes_per_s: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._bucket = TokenBucket(rate_bytes_per_s, now_s=self._loop.time())
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def rate_bytes_per_s(self) -> float | None:
        """The cap in force."""
        return self._bucket.rate_bytes_per_s

    def set_rate(self, rate_bytes_per_s: float | None) -> None:
        """Change the cap at once, also for tasks that wait now. Raises ValueError unless positive."""
        self._bucket.set_rate(rate_bytes_per_s, self._loop.time())
        self._changed.set()

    def charge(self, size_bytes: int) -> None:
        """Take without waiting."""
        self._bucket.consume(size_bytes, self._loop.time())

    async def throttle(self, size_bytes: int) -> None:
        """Wait until so many bytes may leave, and charge them."""
        if self._bucket.rate_bytes_per_s is None and not self._turn.locked():
            return
        async with self._turn:
            while (wait_s := self._bucket.wait_s(self._loop.time())) > 0:
                self._changed.clear()
                try:
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
                except TimeoutError:
                    continue
            self.charge(size_bytes)


class LaneCap:
    """The caps that hold for one lane: its port's and its peer's."""

    def __init__(self, buckets: tuple[SharedBucket, ...], *, bulk: bool) -> None:
        self._buckets = buckets
        self._bulk = bulk

    async def throttle(self, size_bytes: int) -> None:
        """Return when so many bytes may leave."""
        for bucket in self._buckets:
            if self._bulk and size_bytes > URGENT_BYTES:
                await bucket.throttle(size_bytes)
            else:
                bucket.charge(size_bytes)


class Caps:
    """All caps of a node agent. A port's cap is the lower one of what its agreement and this node's operator say."""

    def __init__(self) -> None:
        self._peers: dict[str, SharedBucket] = {}
        self._ports: dict[UUID, SharedBucket] = {}
        self._agreed: dict[UUID, float | None] = {}
        self._users: dict[UUID, set[CapUser]] = {}
        self._peer_rates: dict[str, float] = {}
        self._port_rates: dict[UUID, float] = {}

    def lane(
        self,
        port_id: UUID,
        provider: str,
        agreed_bytes_per_s: float | None,
        *,
        bulk: bool,
        user: CapUser = CapUser.TRANSFER,
    ) -> LaneCap:
        """The caps of one lane of a port with this provider; they hold until its `user` is over."""
        self._users.setdefault(port_id, set()).add(user)
        if port_id not in self._ports:
            self._agreed[port_id] = agreed_bytes_per_s
            self._ports[port_id] = SharedBucket(self._port_rate(port_id))
        if provider not in self._peers:
            self._peers[provider] = SharedBucket(self._peer_rates.get(provider))
        return LaneCap((self._ports[port_id], self._peers[provider]), bulk=bulk)

    def forget(self, port_id: UUID, user: CapUser = CapUser.TRANSFER) -> None:
        """One user of the port's lanes is over; with the last one the port is."""
        users = self._users.get(port_id, set())
        users.discard(user)
        if users:
            return
        self._users.pop(port_id, None)
        self._ports.pop(port_id, None)
        self._agreed.pop(port_id, None)

    def set_rates(self, *, peers: dict[str, float], ports: dict[UUID, float]) -> None:
        """What the operator says now, in bytes per second; peers and ports that are not listed are uncapped."""
        self._peer_rates, self._port_rates = dict(peers), dict(ports)
        for provider, bucket in self._peers.items():
            bucket.set_rate(self._peer_rates.get(provider))
        for port_id, bucket in self._ports.items():
            bucket.set_rate(self._port_rate(port_id))

    def _port_rate(self, port_id: UUID) -> float | None:
        said = [rate for rate in (self._agreed.get(port_id), self._port_rates.get(port_id)) if rate is not None]
        return min(said, default=None)
