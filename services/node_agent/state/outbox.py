"""Messages that must not be lost: one file each, until the bus has stored them. A node needs no database.

Order is kept per receiver. A message may be sent twice (a crash between confirm and removal); receivers know its id.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from services.node_agent.state.files import write_atomically
from shared.backoff import Backoff
from shared.bus import Bus, BusDown, Undeliverable
from shared.logs import get_logger
from shared.messages import AnyEnvelope, MessageError, open_envelope
from shared.parties import Party, PartyName

log = get_logger(__name__)


class _StoredMessage(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    to: PartyName
    envelope: str


class Outbox:
    """A directory of messages, and the task that empties it."""

    def __init__(self, directory: Path, bus: Bus, *, backoff: Backoff | None = None) -> None:
        self._directory = directory
        self._bus = bus
        self._backoff = backoff or Backoff()
        self._more = asyncio.Event()
        self._next = 0

    def open(self) -> None:
        """Make the directory and go on where the last process stopped. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = sorted(path.stem for path in self._directory.glob("*.json"))
        self._next = int(names[-1]) + 1 if names else 0
        self._more.set()

    def store(self, to: Party, envelope: AnyEnvelope) -> None:
        """Store a message; on return it survives this process. Raises OSError."""
        stored = _StoredMessage(to=str(to), envelope=envelope.to_json().decode())
        write_atomically(self._directory / f"{self._next:016d}.json", stored.model_dump_json().encode())
        self._next += 1
        self._more.set()

    async def run(self, *, chance: Callable[[], float] = random.random) -> None:
        """Send what is stored, until cancelled."""
        failures = 0
        while True:
            self._more.clear()
            if await self._drain():
                failures = 0
                await self._more.wait()
            else:
                failures += 1
                await asyncio.sleep(self._backoff.delay_s(failures, chance()))

    async def _drain(self) -> bool:
        """Send everything once; True when all was sent."""
        blocked: set[str] = set()
        for path in sorted(self._directory.glob("*.json")):
            try:
                stored = _StoredMessage.model_validate_json(path.read_bytes())
                envelope = open_envelope(stored.envelope.encode())
            except (ValidationError, MessageError) as error:
                log.warning("damaged message set aside", file=path.name, error=str(error))
                path.rename(path.with_suffix(".damaged"))
                continue
            if stored.to in blocked:
                continue
            try:
                await self._bus.publish(Party.parse(stored.to), envelope)
            except (BusDown, Undeliverable) as error:
                log.warning("message waits for the bus", to=stored.to, type=envelope.type, error=str(error))
                blocked.add(stored.to)
                continue
            path.unlink(missing_ok=True)
        return not blocked
