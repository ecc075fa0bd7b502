"""The operator's bandwidth caps: a small TOML file, checked once a second so that caps change while ports run.

    [peers]                    # bytes per second, all ports with a provider together
    beta = 12_500_000
    [ports]                    # one port
    "1c6f…" = 3_000_000

A file that is missing means no caps. One that cannot be read stops a start; later it leaves the caps as they are, and
says so once.
"""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from services.node_agent.lanes.routes.caps import Caps
from shared.config_phrases import in_words
from shared.errors import VmportError
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


class CapsError(VmportError):
    """The file as it stands cannot be used. The text says where it is wrong."""

    code = "bad_caps_file"


def read_caps(path: Path) -> CapsText:
    """What the file says now, or nothing where it is missing; raises `CapsError`."""
    try:
        return CapsText.model_validate(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return CapsText()
    except OSError as error:
        raise CapsError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CapsError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        findings = error.errors(include_input=False, include_url=False)
        raise CapsError("; ".join(f"{path}: {_where(each['loc'])}: {_in_words(each)}" for each in findings)) from error


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location if part != "[key]")


def _in_words(finding: ErrorDetails) -> str:
    return in_words(finding, others={"extra_forbidden": "is no table of a caps file; there are [peers] and [ports]"})


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
            text = read_caps(self._path)
        except CapsError as error:
            log.warning("caps file invalid, caps unchanged", file=str(self._path), reason=str(error))
            return
        self._caps.set_rates(peers=dict(text.peers), ports=dict(text.ports))
        log.info("bandwidth caps changed", peers=dict(text.peers), ports={str(k): v for k, v in text.ports.items()})
