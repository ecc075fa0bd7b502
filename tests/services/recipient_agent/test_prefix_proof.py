"""What is missing before a public prefix may be announced, at every boundary."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Any

import pytest

from services.recipient_agent.prefix_proof import CheckedAuthorisation, Code, Proofs, is_exempt, unproven
from services.recipient_agent.prefix_records import Network, Roa, Roas
from shared.messages.network import CardAddress, CardNetwork, VmNetwork
from tests.support.prefix_samples import DONOR_AS, NOW, OUR_AS, PREFIX, authorisation

NET = ipaddress.ip_network(PREFIX)
HOUR = timedelta(hours=1)


def roas(*entries: Roa, **more: Any) -> Roas:
    by_prefix: dict[Network, tuple[Roa, ...]] = {}
    for each in entries:
        by_prefix[each.prefix] = (*by_prefix.get(each.prefix, ()), each)
    return Roas(by_prefix, **more)


def proofs(prefix: str = PREFIX, **changes: Any) -> Proofs:
    """All that is needed for a prefix."""
    net = ipaddress.ip_network(prefix)
    facts: dict[str, Any] = {
        "provider": "beta",
        "as_numbers": {"alpha": DONOR_AS, "beta": OUR_AS},
        "roas": roas(*(Roa(net, each, net.prefixlen) for each in (DONOR_AS, OUR_AS))),
        "routes": {net: frozenset({OUR_AS})},
        "authorisations": (CheckedAuthorisation(authorisation(prefix=prefix), is_signed=True),),
        **changes,
    }
    return Proofs(**facts)


def network(*addresses: str, **card: Any) -> VmNetwork:
    """A VM's only card."""
    told = tuple(CardAddress(address=each) for each in addresses)
    facts: dict[str, Any] = {"mac": "52:54:00:00:00:01", "announced_by": "alpha", "holder": "acme", **card}
    return VmNetwork(cards=(CardNetwork(addresses=told, **facts),))


def codes(known: Proofs, *addresses: str, **card: Any) -> list[Code]:
    """What is missing."""
    return [each.code for each in unproven(network(*(addresses or ("198.51.100.7",)), **card), known, NOW)]


def test_nothing_is_missing() -> None:
    """One address of the prefix, or several."""
    assert codes(proofs()) == []
    assert codes(proofs(), "198.51.100.7", "198.51.100.8", "fe80::1", "10.0.0.1") == []
    assert unproven(None, proofs(), NOW) == ()


def test_all_that_is_missing_is_named_at_once() -> None:
    """An operator who has prepared nothing."""
    bare = Proofs("beta", as_numbers={"alpha": DONOR_AS, "beta": OUR_AS})
    found = unproven(network("198.51.100.7", on_link=(PREFIX,)), bare, NOW)
    assert [each.code for each in found] == [
        Code.AUTHORISATION_MISSING,
        Code.NO_ROA_FOR_RECIPIENT,
        Code.IRR_MISSING,
        Code.NO_ROA_FOR_DONOR,
    ]
    assert {each.prefix for each in found} == {PREFIX}
    assert Code.PREFIX_LONGER_THAN_24 in codes(bare, on_link=())
    assert str(found[1]) == f"{PREFIX}: no_roa_for_recipient: no ROA covers it for AS65002"


@pytest.mark.parametrize(
    ("address", "exempt"),
    [
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("172.15.255.255", False),
        ("172.16.0.0", True),
        ("172.31.255.255", True),
        ("172.32.0.0", False),
        ("192.168.255.255", True),
        ("192.169.0.0", False),
        ("100.64.0.1", False),
        ("fbff::1", False),
        ("fc00::1", True),
        ("fdff::1", True),
        ("fe00::1", False),
        ("203.0.113.255", True),
        ("203.0.114.0", False),
        ("2001:db8:ffff::1", True),
        ("2001:db9::1", False),
    ],
)
def test_private_and_internal_prefixes_need_no_proof(address: str, *, exempt: bool) -> None:
    """To the last address of each."""
    known = Proofs("beta", internal=("203.0.113.0/24", "2001:db8::/32"))
    assert is_exempt(address, known) is exempt
    assert (codes(known, address) == []) is exempt


@pytest.mark.parametrize(
    ("prefix", "address", "too_long"),
    [
        ("198.51.100.0/24", "198.51.100.7", False),
        ("198.51.100.0/25", "198.51.100.7", True),
        ("2001:db8::/48", "2001:db8::7", False),
        ("2001:db8::/49", "2001:db8::7", True),
    ],
)
def test_what_the_internet_carries(prefix: str, address: str, *, too_long: bool) -> None:
    """At most /24 and /48."""
    assert codes(proofs(prefix), address) == ([Code.PREFIX_LONGER_THAN_24] if too_long else [])


@pytest.mark.parametrize(
    ("entries", "missing"),
    [
        ([Roa(NET, OUR_AS, 24)], []),
        ([Roa(NET.supernet(new_prefix=16), OUR_AS, 24)], []),
        ([Roa(NET.supernet(new_prefix=16), OUR_AS, 23)], [Code.MAXLENGTH_TOO_SHORT]),
        ([Roa(NET.supernet(new_prefix=16), OUR_AS, 16), Roa(NET, OUR_AS, 24)], []),
        ([Roa(ipaddress.ip_network("198.51.101.0/24"), OUR_AS, 24)], [Code.NO_ROA_FOR_RECIPIENT]),
        ([Roa(ipaddress.ip_network("198.51.100.0/25"), OUR_AS, 25)], [Code.NO_ROA_FOR_RECIPIENT]),
        ([Roa(NET, 65_003, 24), Roa(NET, 0, 24)], [Code.NO_ROA_FOR_RECIPIENT]),
        ([], [Code.NO_ROA_FOR_RECIPIENT]),
        ([Roa(NET, OUR_AS, 24, NOW + HOUR)], []),
        ([Roa(NET, OUR_AS, 24, NOW + HOUR - timedelta(seconds=1))], [Code.ROA_EXPIRES]),
        ([Roa(NET, OUR_AS, 24, NOW - HOUR)], [Code.ROA_EXPIRES]),
        ([Roa(NET, OUR_AS, 24, NOW - HOUR), Roa(NET, OUR_AS, 24, NOW + 2 * HOUR)], []),
    ],
)
def test_roas_of_the_recipient(entries: list[Roa], missing: list[Code]) -> None:
    """Covering, long enough, and for long enough."""
    assert codes(proofs(roas=roas(Roa(NET, DONOR_AS, 24), *entries))) == missing


def test_the_donor_needs_a_roa_as_well() -> None:
    """Else the recipient's makes the donor's announcement invalid while both announce."""
    assert codes(proofs(roas=roas(Roa(NET, OUR_AS, 24)))) == [Code.NO_ROA_FOR_DONOR]


def test_old_roas_are_no_proof() -> None:
    """A validator that has stopped."""
    entries = (Roa(NET, OUR_AS, 24), Roa(NET, DONOR_AS, 24))
    day = timedelta(days=1)
    assert codes(proofs(roas=roas(*entries, made_at=NOW - day))) == []
    assert set(codes(proofs(roas=roas(*entries, made_at=NOW - day - timedelta(seconds=1))))) == {Code.ROAS_OUTDATED}


@pytest.mark.parametrize(
    ("routes", "missing"),
    [
        ({NET: frozenset({OUR_AS, 1})}, []),
        ({NET: frozenset({DONOR_AS})}, [Code.IRR_MISSING]),
        ({NET.supernet(): frozenset({OUR_AS})}, [Code.COVERING_ROUTE_ONLY]),
        ({ipaddress.ip_network("0.0.0.0/0"): frozenset({OUR_AS})}, [Code.COVERING_ROUTE_ONLY]),
        ({ipaddress.ip_network("198.51.100.0/25"): frozenset({OUR_AS})}, [Code.IRR_MISSING]),
        ({}, [Code.IRR_MISSING]),
    ],
)
def test_route_objects(routes: dict[Network, frozenset[int]], missing: list[Code]) -> None:
    """Filters are made of exactly these."""
    assert codes(proofs(routes=routes)) == missing


@pytest.mark.parametrize(
    ("changes", "signed", "missing"),
    [
        ({}, False, Code.AUTHORISATION_NOT_SIGNED),
        ({"not_after": NOW}, True, Code.AUTHORISATION_EXPIRED),
        ({"not_after": NOW + timedelta(seconds=1)}, True, None),
        ({"not_before": NOW}, True, None),
        ({"not_before": NOW + timedelta(seconds=1)}, True, Code.AUTHORISATION_EXPIRED),
        ({"recipient_as": 65_003}, True, Code.AUTHORISATION_MISSING),
        ({"donor_as": 65_003}, True, Code.AUTHORISATION_MISSING),
        ({"holder": "globex"}, True, Code.AUTHORISATION_MISSING),
        ({"prefix": "198.51.101.0/24"}, True, Code.AUTHORISATION_MISSING),
    ],
)
def test_the_holders_word(changes: dict[str, Any], missing: Code | None, *, signed: bool) -> None:
    """By a key that is known, now, for both AS, of this holder and prefix."""
    told = CheckedAuthorisation(authorisation(**changes), is_signed=signed)
    found = codes(proofs(authorisations=(told,)), on_link=(PREFIX,))
    assert found == ([] if missing is None else [missing])


def test_one_good_authorisation_is_enough() -> None:
    """An older or a forged one beside it does no harm."""
    bad = CheckedAuthorisation(authorisation(), is_signed=False)
    old = CheckedAuthorisation(authorisation(not_after=NOW - HOUR), is_signed=True)
    good = CheckedAuthorisation(authorisation(), is_signed=True)
    assert codes(proofs(authorisations=(bad, old, good))) == []


def test_who_announces_must_be_known() -> None:
    """Without the AS numbers nothing can be looked up."""
    for as_numbers, announced_by in (({"beta": OUR_AS}, "alpha"), ({"alpha": DONOR_AS}, "alpha"), ({}, "")):
        known = proofs(as_numbers=as_numbers)
        assert Code.ASN_UNKNOWN in codes(known, announced_by=announced_by)


def test_a_file_that_cannot_be_read_is_no_proof() -> None:
    """Though the others would do."""
    (found,) = unproven(network("198.51.100.7"), proofs(unreadable=("roas.json: no JSON",)), NOW)
    assert (found.code, found.detail) == (Code.PROOF_UNREADABLE, "roas.json: no JSON")
