"""The operator's list of VMs' addresses: a TOML file, checked every few seconds, so that it may change at any time.

    [cards."52:54:00:12:34:56"]                     # by the card's MAC, as the VM's definition has it
    addresses = ["192.0.2.7", "2001:db8::7"]
    on_link = ["192.0.2.0/24", "2001:db8::/64"]     # prefixes of its segment
    gateways = [{ address = "192.0.2.1", mac = "02:00:00:00:00:01" }]
    holder = "acme"                                 # who holds the addresses
    announced_by = "alpha"                          # who announces them now

Optional, too: `mtu`, `segment` (where it is not its bridge's), and `firewall`, a list of rules such as
`{ direction = "in", action = "accept", protocol = "tcp", first_port = 443, last_port = 443 }`.

A file that cannot be used changes nothing: what was read last stays, and each description of a VM names the problem.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from services.node_agent.network.sources import DeclaredCard
from shared.config_phrases import in_words
from shared.errors import VmportError
from shared.logs import get_logger
from shared.messages.network import MacAddress

log = get_logger(__name__)

CHECK_EVERY_S = 2.0


class AddressesText(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cards: dict[MacAddress, DeclaredCard] = {}

    @model_validator(mode="after")
    def _each_address_once(self) -> Self:
        owners: dict[str, str] = {}
        for mac, card in self.cards.items():
            for address in card.addresses:
                if owners.setdefault(address, mac) != mac:
                    raise ValueError(f"{address} is given to both {owners[address]} and {mac}")
        return self


class AddressesError(VmportError):
    """The file as it stands cannot be used. The text says where it is wrong."""

    code = "bad_addresses_file"


def read_addresses(path: Path) -> AddressesText:
    """What the file says now; raises `AddressesError`."""
    try:
        return AddressesText.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise AddressesError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise AddressesError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        findings = error.errors(include_input=False, include_url=False)[:5]
        raise AddressesError("; ".join(f"{path}: {_where(each)}{_in_words(each)}" for each in findings)) from error


def _where(finding: ErrorDetails) -> str:
    location = ".".join(str(part) for part in finding["loc"] if part != "[key]")
    return f"{location}: " if location else ""


def _in_words(finding: ErrorDetails) -> str:
    return in_words(finding, others={"extra_forbidden": "is no key of a list of addresses"})


class AddressesFile:
    """What the file says, as of its last good state. `path` None: there is no list."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._cards: Mapping[str, DeclaredCard] = MappingProxyType({})
        self._seen: tuple[int, int, int] | None = None
        self._known = False
        self.problem: str | None = None
        """Why the file as it stands is not used; None: it is, or there is none."""

    @property
    def cards(self) -> Mapping[str, DeclaredCard]:
        """Cards by MAC."""
        return self._cards

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self.check()
            await asyncio.sleep(CHECK_EVERY_S)

    def check(self) -> None:
        """Read the file, if it has changed."""
        if self._path is None:
            return
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        except OSError:
            seen = None
        if self._known and seen == self._seen:
            return
        self._known, self._seen = True, seen
        try:
            self._cards = MappingProxyType(dict(read_addresses(self._path).cards))
        except AddressesError as error:
            self.problem = str(error)
            log.warning("addresses file invalid, addresses unchanged", file=str(self._path), reason=str(error))
            return
        self.problem = None
        log.info("declared addresses read", file=str(self._path), cards=len(self._cards))
