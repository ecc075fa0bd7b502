"""ROAs and route objects as others write them."""

from __future__ import annotations

import ipaddress
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from services.recipient_agent import prefix_records
from services.recipient_agent.prefix_records import BadPrefixFile, Roa, parse_roas, parse_routes

NET = ipaddress.ip_network("198.51.100.0/24")
ROUTINATOR = {
    "metadata": {"generated": 1767312000, "generatedTime": "2026-01-02T00:00:00Z"},
    "roas": [
        {"asn": "AS65001", "prefix": "198.51.100.0/24", "maxLength": 24, "ta": "ripe"},
        {"asn": "AS65009", "prefix": "2001:db8::/32", "maxLength": 48, "ta": "ripe"},
    ],
}
RPKI_CLIENT = {
    "metadata": {"buildmachine": "rpki", "buildtime": "2026-01-02T00:00:00Z", "elapsedtime": 300},
    "roas": [{"asn": 65001, "prefix": "198.51.100.0/24", "maxLength": 24, "ta": "ripe", "expires": 1767398400}],
}
RPSL = b"""% a comment of the server
route:          198.51.100.0/24
descr:          Acme
                and more of it
+
origin:         AS65001 # the donor
mnt-by:         MAINT-ACME
source:         RIPE

person:         Somebody
nic-hdl:        SB1

route6: 2001:db8::/48
origin: as65002

route: 198.51.100.0/24
origin: AS65002
"""


def roas(*entries: Any) -> bytes:
    return json.dumps({"roas": list(entries)}).encode()


def entry(**changes: Any) -> dict[str, Any]:
    return {"asn": 65001, "prefix": "198.51.100.0/24", "maxLength": 24, "ta": "x", **changes}


@pytest.mark.parametrize(("document", "expires"), [(ROUTINATOR, None), (RPKI_CLIENT, datetime(2026, 1, 3, tzinfo=UTC))])
def test_both_validators_are_understood(document: dict[str, Any], expires: datetime | None) -> None:
    """Only the origins that are asked for are kept."""
    found = parse_roas(json.dumps(document).encode(), {65001})
    assert found.by_prefix == {NET: (Roa(NET, 65001, 24, expires),)}
    assert found.made_at == datetime(2026, 1, 2, tzinfo=UTC)


def test_the_shortest_entry() -> None:
    """No maxLength means the prefix itself, and nobody says when."""
    found = parse_roas(roas({"asn": "65001", "prefix": "198.51.100.0/24"}), {65001})
    assert (found.by_prefix, found.made_at) == ({NET: (Roa(NET, 65001, 24),)}, None)


DEEP = 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"5",
        b"[]",
        b'{"roas": {}}',
        b"[" * DEEP,
        b'{"roas": ' + b"[" * DEEP,
        b'{"roas": [' + b'{"a":' * DEEP,
        b'{"roas": [' + b"9" * 6000 + b"]}",
        roas(5),
        roas(entry(asn=-1)),
        roas(entry(asn=True)),
        roas(entry(asn="AS" + "9" * 30)),
        roas(entry(asn="AS٣")),
        roas(entry(asn=None)),
        roas(entry(prefix="198.51.100.1/24")),
        roas(entry(prefix=5)),
        roas(entry(prefix=None)),
        roas(entry(prefix={"prefix": {"prefix": {}}})),
        roas(entry(maxLength=23)),
        roas(entry(maxLength=33)),
        roas(entry(maxLength="24")),
        roas(entry(maxLength=24.0)),
        roas(entry(expires="soon")),
        roas(entry(expires=1e300)),
        roas(entry(expires=True)),
        b'{"roas": [], "metadata": {"generated": "now"}}',
        b'{"roas": [], "metadata": {"buildtime": "now"}}',
    ],
)
def test_hostile_roas_end_in_one_error(content: bytes) -> None:
    """No half of a file is believed."""
    with pytest.raises(BadPrefixFile):
        parse_roas(content, {65001})


def test_too_large_a_file_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither kind."""
    monkeypatch.setattr(prefix_records, "LARGEST_BYTES", 100)
    for parse in (parse_roas, parse_routes):
        with pytest.raises(BadPrefixFile, match="at most 100"):
            parse(b" " * 101, {65001})


def test_route_objects() -> None:
    """Both families; continuation lines, comments and other objects are passed over."""
    found = parse_routes(RPSL, {65001, 65002})
    assert found == {NET: {65001, 65002}, ipaddress.ip_network("2001:db8::/48"): {65002}}
    assert parse_routes(RPSL, {65002}) == {NET: {65002}, ipaddress.ip_network("2001:db8::/48"): {65002}}
    assert parse_routes(b"", {65001}) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"route: everything\norigin: AS1\n",
        b"route: 198.51.100.1/24\norigin: AS1\n",
        b"route: 198.51.100.0/24\n",
        b"route: 198.51.100.0/24\norigin: acme\n",
        b"route6: " + b"9" * 10_000 + b"\norigin: AS1\n",
        b"route: \xff/24\norigin: AS1\n",
    ],
)
def test_hostile_route_objects_end_in_one_error(content: bytes) -> None:
    """They are named, shortened."""
    with pytest.raises(BadPrefixFile) as caught:
        parse_routes(content, {1})
    assert len(str(caught.value)) < 250
