"""Whether the donor's help with a VM's packets is still used: what its extension carries, or a translation counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import UUID

from services.node_agent.network.journal import NetworkRecord
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.steps import NftTable
from shared.messages.network import NetworkMode


class HelpWatch:
    """Of all ports of this host. `carried_s` says for how many seconds a port's extension has carried nothing."""

    def __init__(
        self,
        carried_s: Callable[[UUID], float | None],
        maker: StepMaker,
        *,
        idle_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._carried_s = carried_s
        self._maker = maker
        self._idle_s = idle_s
        self._clock = clock
        self._counted: dict[UUID, tuple[int, float]] = {}

    async def is_idle(self, record: NetworkRecord) -> bool:
        """Whether no packet has come so for long enough. Raises `NftError`."""
        if record.extension:
            carried_s = self._carried_s(record.port_id)
            return carried_s is None or carried_s >= self._idle_s
        if record.plan.terms.carry is not NetworkMode.TRANSLATE:
            return False
        tables = [step for step in record.steps if isinstance(step, NftTable)]
        count, now_s = await self._maker.packets_translated(tables), self._clock()
        known, since_s = self._counted.get(record.port_id, (-1, now_s))
        if count != known:
            since_s = now_s
        self._counted[record.port_id] = (count, since_s)
        return now_s - since_s >= self._idle_s

    def forget(self, port_id: UUID) -> None:
        """Nothing of the port is watched any more."""
        self._counted.pop(port_id, None)
