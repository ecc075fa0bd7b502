"""The operator's bandwidth caps: a small TOML file, checked once a second so that caps change while ports run.

    [peers]                    # bytes per second, all ports with a provider together
    beta = 12_500_000
    [ports]                    # one port
    "1c6f…" = 3_000_000

A file that is missing means no caps. One that cannot be read leaves the caps as they are, and says so once.
"""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.node_agent.lanes.routes.caps import Caps
from shared.logs import get_logger
from shared.parties import Name

log = get_logger(__name__)

CHECK_EVERY_S = 1.0
Rate = Annotated[int, Field(ge=16 * 1024, le=2**40)]


class CapsText(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    peers: dict[Name, Rate] = {}
    ports: dict[UUID, Rate] = {}


class CapsFile:
    """Applies the file to `caps` whenever it changes."""

    def __init__(self, path: Path, caps: Caps) -> None:
        self._path = path
        self._caps = caps
        self._seen: tuple[int, int, int] | None = None
        self._known = False

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self.check()
            await asyncio.sleep(CHECK_EVERY_S)

    def check(self) -> None:
        """Check once."""
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except FileNotFoundError:
            seen = None
        if self._known and seen == self._seen:
            return
        self._known, self._seen = True, seen
        try:
            text = CapsText() if seen is None else CapsText.model_validate(tomllib.loads(self._path.read_text("utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
            log.warning("caps file invalid, caps unchanged", file=str(self._path), reason=str(error))
            return
        self._caps.set_rates(peers=dict(text.peers), ports=dict(text.ports))
        log.info("bandwidth caps changed", peers=dict(text.peers), ports={str(k): v for k, v in text.ports.items()})
