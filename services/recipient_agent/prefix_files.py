"""The files in which proofs for public prefixes lie: read when they have changed, in a thread. Judges nothing.

A file that cannot be used is told as such: nothing is announced by what stands in half of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from services.recipient_agent.prefix_proof import CheckedAuthorisation, Proofs
from services.recipient_agent.prefix_records import (
    LARGEST_BYTES,
    BadPrefixFile,
    Network,
    Roas,
    parse_roas,
    parse_routes,
)
from shared.config import Section
from shared.config_files import ReadFile
from shared.errors import VmportError
from shared.logs import get_logger
from shared.messages.network import IpNetwork
from shared.parties import Name
from shared.prefix_authorisation import AsNumber, BadAuthorisation, read_signed

log = get_logger(__name__)
T = TypeVar("T")


class PrefixSection(Section):
    """Proofs that this provider may announce public prefixes of VMs that come. Private prefixes need none."""

    as_numbers: dict[Name, AsNumber] = Field(
        default_factory=dict,
        max_length=4096,
        description="AS numbers of providers by name, this one's included.",
        examples=[{"alpha": 65001, "beta": 65002}],
    )
    internal: tuple[IpNetwork, ...] = Field(
        default=(),
        max_length=1024,
        description="Public prefixes that only partners route among themselves; they need no proof.",
    )
    roas_file: ReadFile | None = Field(
        default=None,
        description="Validated ROAs as Routinator or rpki-client write them (JSON).",
        examples=["/var/lib/rpki-client/json"],
    )
    route_files: tuple[ReadFile, ...] = Field(
        default=(), max_length=64, description="Route objects of IRRs, in RPSL.", examples=[["/etc/vmport/routes.rpsl"]]
    )
    authorisation_files: tuple[ReadFile, ...] = Field(
        default=(), max_length=4096, description="Holders' authorisations, as `vmport prefix authorise` makes them."
    )
    holder_keys: dict[str, ReadFile] = Field(
        default_factory=dict,
        max_length=4096,
        description="Public keys (Ed25519, PEM) of holders by name. Find out first that the key is the holder's.",
        examples=[{"acme": "/etc/vmport/holders/acme.pem"}],
    )
    roa_margin_s: Annotated[float, Field(ge=0, le=30 * 86_400)] = Field(
        default=3600.0, description="A ROA that ends sooner than this is no proof."
    )
    roas_hold_s: Annotated[float, Field(gt=0, le=30 * 86_400)] = Field(
        default=86_400.0, description="ROAs that were validated longer ago than this are no proof."
    )


class PrefixFiles:
    """The newest proofs. One per recipient agent."""

    def __init__(self, section: PrefixSection, provider: str) -> None:
        self._section = section
        self._provider = provider
        self._known = Proofs(provider)
        self._stamps: tuple[Any, ...] | None = None
        self._lock = asyncio.Lock()

    async def current(self) -> Proofs:
        """What the files say now."""
        section = self._section
        files = (section.roas_file, *section.route_files, *section.authorisation_files, *section.holder_keys.values())
        async with self._lock:
            stamps = await asyncio.to_thread(lambda: tuple(_stamp(file) for file in files if file is not None))
            if stamps != self._stamps:
                self._known = await asyncio.to_thread(self.read)
                self._stamps = stamps
                for each in self._known.unreadable:
                    log.error("proof of a prefix cannot be read", reason=each)
            return self._known

    def read(self) -> Proofs:
        """Read all files; what cannot be used is named in the outcome."""
        section, unreadable = self._section, list[str]()
        origins = frozenset(section.as_numbers.values())

        def tried(file: Path, read: Callable[[bytes], T], otherwise: T) -> T:
            try:
                return read(_content(file))
            except VmportError as error:
                unreadable.append(f"{file.name}: {error}"[:200])
                return otherwise

        roas = (
            tried(section.roas_file, lambda content: parse_roas(content, origins), Roas())
            if section.roas_file
            else Roas()
        )
        routes: dict[Network, frozenset[int]] = {}
        nothing: Mapping[Network, frozenset[int]] = {}
        for file in section.route_files:
            for prefix, found in tried(file, lambda content: parse_routes(content, origins), nothing).items():
                routes[prefix] = routes.get(prefix, frozenset()) | found
        authorisations: list[CheckedAuthorisation] = []
        for file in section.authorisation_files:
            authorisations += tried(file, lambda content: (self._checked(content),), ())
        return Proofs(
            provider=self._provider,
            as_numbers=section.as_numbers,
            internal=section.internal,
            roas=roas,
            routes=routes,
            authorisations=tuple(authorisations),
            unreadable=tuple(unreadable),
            margin=timedelta(seconds=section.roa_margin_s),
            roas_hold=timedelta(seconds=section.roas_hold_s),
        )

    def _checked(self, content: bytes) -> CheckedAuthorisation:
        signed = read_signed(content)
        key = self._section.holder_keys.get(signed.authorisation.holder)
        if key is None:
            return CheckedAuthorisation(signed.authorisation, is_signed=False)
        try:
            text = _content(key).decode("ascii")
        except UnicodeDecodeError as error:
            raise BadAuthorisation(f"{key.name} is no public key in PEM") from error
        return CheckedAuthorisation(signed.authorisation, signed.is_signed_by(text))


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise BadPrefixFile(f"cannot be read: {error.strerror}") from error


def _stamp(file: Path) -> tuple[str, Iterable[int] | None]:
    try:
        found = file.stat()
    except OSError:
        return str(file), None
    return str(file), (found.st_mtime_ns, found.st_size, found.st_ino)
