"""Reads what others say of prefixes: validated ROA payloads as JSON, and route objects of an IRR as RPSL. Pure.

Only origins that somebody asks for are kept: a file of the whole Internet has half a million entries.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from shared.errors import VmportError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LARGEST_BYTES = 256 * 2**20
_LAST_AS = 2**32 - 1
_YEARS = (datetime(1970, 1, 1, tzinfo=UTC).timestamp(), datetime(9000, 1, 1, tzinfo=UTC).timestamp())


class BadPrefixFile(VmportError):
    """A file about prefixes cannot be used."""

    code = "bad_prefix_file"


@dataclass(frozen=True, slots=True)
class Roa:
    """A validated ROA payload: this AS may announce the prefix, and parts of it down to `max_length`."""

    prefix: Network
    asn: int
    max_length: int
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class Roas:
    """By prefix; `made_at` is when the validator wrote them, if it says so."""

    by_prefix: Mapping[Network, tuple[Roa, ...]] = field(default_factory=dict)
    made_at: datetime | None = None


def parse_roas(content: bytes, origins: Collection[int]) -> Roas:
    """As Routinator and rpki-client write them. Raises `BadPrefixFile`."""
    _not_too_large(content)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadPrefixFile(f"no JSON: {str(error)[:100]}") from error
    if not isinstance(document, dict) or not isinstance(document.get("roas"), list):
        raise BadPrefixFile("no list 'roas' in it")
    found: dict[Network, tuple[Roa, ...]] = {}
    for number, entry in enumerate(document["roas"], start=1):
        try:
            roa = _roa(entry)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise BadPrefixFile(f"roas, entry {number}: {type(error).__name__}: {str(error)[:100]}") from error
        if roa.asn in origins:
            found[roa.prefix] = (*found.get(roa.prefix, ()), roa)
    return Roas(found, _made_at(document.get("metadata")))


def _roa(entry: Any) -> Roa:
    if not isinstance(entry, dict):
        raise TypeError("not an object")
    prefix = _network(entry["prefix"])
    length = entry.get("maxLength", prefix.prefixlen)
    if (
        not isinstance(length, int)
        or isinstance(length, bool)
        or not prefix.prefixlen <= length <= prefix.max_prefixlen
    ):
        raise ValueError(f"maxLength {length!r}")
    expires = entry.get("expires")
    return Roa(prefix, as_number(entry["asn"]), length, None if expires is None else _time(expires))


def as_number(value: Any) -> int:
    """``65001``, ``"65001"`` or ``"AS65001"``; 0 means nobody (RFC 6483). Raises ValueError."""
    text = str(value).upper().removeprefix("AS") if isinstance(value, str | int) else ""
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _LAST_AS):
        raise ValueError(f"AS number {str(value)[:20]!r}")
    return int(text)


def _network(text: Any) -> Network:
    if not isinstance(text, str):
        raise TypeError("a prefix is a text")
    return ipaddress.ip_network(text)


def _time(value: Any) -> datetime:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _YEARS[0] <= value <= _YEARS[1]:
        raise ValueError(f"time {str(value)[:20]!r}")
    return datetime.fromtimestamp(value, UTC)


def _made_at(metadata: Any) -> datetime | None:
    """Routinator: ``generated``, seconds. rpki-client: ``buildtime``, ISO 8601."""
    if not isinstance(metadata, dict):
        return None
    try:
        if "generated" in metadata:
            return _time(metadata["generated"])
        made = datetime.fromisoformat(str(metadata["buildtime"])) if "buildtime" in metadata else None
    except (ValueError, OverflowError) as error:
        raise BadPrefixFile(f"metadata: {str(error)[:100]}") from error
    return made if made is None or made.tzinfo is not None else made.replace(tzinfo=UTC)


def parse_routes(content: bytes, origins: Collection[int]) -> Mapping[Network, frozenset[int]]:
    """Origins by prefix, of ``route`` and ``route6`` objects; other objects are passed over. Raises `BadPrefixFile`."""
    _not_too_large(content)
    found: dict[Network, frozenset[int]] = {}
    for attributes in _objects(content.decode("utf-8", "replace")):
        prefix_text = attributes.get("route") or attributes.get("route6")
        if prefix_text is None:
            continue
        try:
            prefix, origin = _network(prefix_text), as_number(attributes.get("origin"))
        except ValueError as error:
            raise BadPrefixFile(f"route object {prefix_text[:60]!r}: {str(error)[:100]}") from error
        if origin in origins:
            found[prefix] = found.get(prefix, frozenset()) | {origin}
    return found


def _objects(text: str) -> Iterator[dict[str, str]]:
    """The first value of each attribute, without comments; objects are parted by empty lines (RFC 2622)."""
    current: dict[str, str] = {}
    for line in (*text.splitlines(), ""):
        if not line.strip():
            if current:
                yield current
                current = {}
        elif line[0] not in " \t+#%":
            name, _, value = line.partition(":")
            current.setdefault(name.strip().lower(), value.partition("#")[0].strip())


def _not_too_large(content: bytes) -> None:
    if len(content) > LARGEST_BYTES:
        raise BadPrefixFile(f"it has {len(content)} bytes, at most {LARGEST_BYTES} are read")
