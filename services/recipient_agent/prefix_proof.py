"""Whether this provider may announce a VM's addresses: what the prepared proofs say of each public prefix. Pure.

A proof takes days or weeks to get, so it is prepared, and looked at when a quote is made; no step of a port waits for
one. Private addresses, and prefixes that partners use among themselves, need none.

What has to be there for a public prefix: the holder's signed authorisation for donor's and recipient's AS; ROAs for
both, since both announce it for a while; a route object of the recipient's, from which transit providers make their
filters. The prefix is that of the authorisation, else the card's segment: one of at most /24 (IPv6: /48), since longer
ones are not carried on the Internet.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from services.recipient_agent.prefix_records import Network, Roa, Roas
from shared.messages.network import CardNetwork, VmNetwork, is_routable
from shared.prefix_authorisation import Authorisation

LONGEST = {4: 24, 6: 48}
"""Prefix lengths that are carried on the Internet, by family."""
_PRIVATE = tuple(map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))


class Code(StrEnum):
    """What is missing; stable names."""

    NO_ROA_FOR_RECIPIENT = "no_roa_for_recipient"
    NO_ROA_FOR_DONOR = "no_roa_for_donor"
    """Once there is a ROA of the recipient's, the donor's announcement is invalid without one of its own."""
    MAXLENGTH_TOO_SHORT = "maxlength_too_short"
    ROA_EXPIRES = "roa_expires"
    ROAS_OUTDATED = "roas_outdated"
    IRR_MISSING = "irr_missing"
    COVERING_ROUTE_ONLY = "covering_route_only"
    """There is a route object, but of a larger prefix."""
    PREFIX_LONGER_THAN_24 = "prefix_longer_than_24"
    """IPv6: longer than /48."""
    AUTHORISATION_MISSING = "authorisation_missing"
    AUTHORISATION_EXPIRED = "authorisation_expired"
    AUTHORISATION_NOT_SIGNED = "authorisation_not_signed"
    ASN_UNKNOWN = "asn_unknown"
    PROOF_UNREADABLE = "proof_unreadable"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is missing for one prefix."""

    code: Code
    prefix: str
    detail: str

    def __str__(self) -> str:
        return f"{self.prefix}: {self.code}: {self.detail}"


@dataclass(frozen=True, slots=True)
class CheckedAuthorisation:
    """What a holder allows, and whether the key that is known of this holder has signed it."""

    authorisation: Authorisation
    is_signed: bool

    @property
    def network(self) -> Network:
        """Its prefix."""
        return ipaddress.ip_network(self.authorisation.prefix)


@dataclass(frozen=True, slots=True)
class Proofs:
    """All that is known. `provider` is this one; `unreadable` are files, with what is wrong."""

    provider: str
    as_numbers: Mapping[str, int] = field(default_factory=dict)
    internal: tuple[str, ...] = ()
    roas: Roas = field(default_factory=Roas)
    routes: Mapping[Network, frozenset[int]] = field(default_factory=dict)
    authorisations: tuple[CheckedAuthorisation, ...] = ()
    unreadable: tuple[str, ...] = ()
    margin: timedelta = timedelta(hours=1)
    """A ROA that ends sooner is no proof."""
    roas_hold: timedelta = timedelta(days=1)
    """How old the validator's output may be."""


def unproven(network: VmNetwork | None, proofs: Proofs, now: datetime) -> tuple[Finding, ...]:
    """What is missing before all of a VM's public addresses may be announced here; nothing: they may."""
    found: dict[Finding, None] = {}
    for card in network.cards if network is not None else ():
        for each in card.addresses:
            if is_routable(each.address) and not is_exempt(each.address, proofs):
                found |= dict.fromkeys(_of_address(ipaddress.ip_network(each.address), card, proofs, now))
    return tuple(found)


def is_exempt(address: str, proofs: Proofs) -> bool:
    """Whether an address needs no proof: it is private, or in a prefix that is internal to partners."""
    network = ipaddress.ip_network(address)
    return any(_is_in(network, each) for each in (*_PRIVATE, *map(ipaddress.ip_network, proofs.internal)))


def _of_address(address: Network, card: CardNetwork, proofs: Proofs, now: datetime) -> Iterator[Finding]:
    donor_as, our_as = proofs.as_numbers.get(card.announced_by), proofs.as_numbers.get(proofs.provider)
    allowed = [
        each
        for each in proofs.authorisations
        if _is_in(address, each.network)
        and (each.authorisation.donor_as, each.authorisation.recipient_as) == (donor_as, our_as)
        and card.holder in {"", each.authorisation.holder}
    ]
    segments = (ipaddress.ip_network(each) for each in card.on_link)
    candidates = [each.network for each in allowed] or [each for each in segments if _is_in(address, each)] or [address]
    prefix = max(candidates, key=lambda each: each.prefixlen)
    yield from (Finding(Code.PROOF_UNREADABLE, str(prefix), each) for each in proofs.unreadable)
    if prefix.prefixlen > LONGEST[prefix.version]:
        yield Finding(
            Code.PREFIX_LONGER_THAN_24, str(prefix), f"the Internet carries at most /{LONGEST[prefix.version]}"
        )
    yield from _of_authorisation(prefix, [each for each in allowed if each.network == prefix], now)
    unknown = [
        name or "its announcer"
        for name, known in ((card.announced_by, donor_as), (proofs.provider, our_as))
        if not known
    ]
    if unknown:
        yield Finding(Code.ASN_UNKNOWN, str(prefix), f"no AS number is known of {' and '.join(unknown)}")
    if our_as:
        yield from _of_roas(prefix, our_as, proofs, now, none=Code.NO_ROA_FOR_RECIPIENT)
        yield from _of_routes(prefix, our_as, proofs)
    if donor_as:
        yield from _of_roas(prefix, donor_as, proofs, now, none=Code.NO_ROA_FOR_DONOR)


def _of_authorisation(prefix: Network, found: list[CheckedAuthorisation], now: datetime) -> Iterator[Finding]:
    if any(each.is_signed and each.authorisation.is_in_force(now) for each in found):
        return
    if not found:
        yield Finding(Code.AUTHORISATION_MISSING, str(prefix), "its holder has not allowed both AS")
    elif not (signed := [each.authorisation for each in found if each.is_signed]):
        yield Finding(Code.AUTHORISATION_NOT_SIGNED, str(prefix), "not by a key that is known of its holder")
    else:
        newest = max(signed, key=lambda each: each.not_after)
        told = f"{newest.not_before.isoformat()} to {newest.not_after.isoformat()}"
        yield Finding(Code.AUTHORISATION_EXPIRED, str(prefix), f"it holds from {told}")


def _of_roas(prefix: Network, asn: int, proofs: Proofs, now: datetime, *, none: Code) -> Iterator[Finding]:
    made_at = proofs.roas.made_at
    if made_at is not None and now - made_at > proofs.roas_hold:
        yield Finding(Code.ROAS_OUTDATED, str(prefix), f"the ROAs are of {made_at.isoformat()}")
    covering = [each for each in _covering(proofs.roas.by_prefix, prefix) if each.asn == asn]
    long_enough = [each for each in covering if each.max_length >= prefix.prefixlen]
    if not covering:
        yield Finding(none, str(prefix), f"no ROA covers it for AS{asn}")
    elif not long_enough:
        longest = max(each.max_length for each in covering)
        yield Finding(Code.MAXLENGTH_TOO_SHORT, str(prefix), f"AS{asn} may announce at most /{longest}")
    elif not any(each.expires is None or each.expires - now >= proofs.margin for each in long_enough):
        last = max(each.expires for each in long_enough if each.expires is not None)
        yield Finding(Code.ROA_EXPIRES, str(prefix), f"that for AS{asn} at {last.isoformat()}")


def _of_routes(prefix: Network, asn: int, proofs: Proofs) -> Iterator[Finding]:
    if asn in proofs.routes.get(prefix, frozenset()):
        return
    covering = [each for each in _shorter(prefix) if asn in proofs.routes.get(each, frozenset())]
    if covering:
        detail = f"the IRR has {covering[0]} for AS{asn}, not the prefix itself"
        yield Finding(Code.COVERING_ROUTE_ONLY, str(prefix), detail)
    else:
        yield Finding(Code.IRR_MISSING, str(prefix), f"the IRR has no route object for AS{asn}")


def _covering(roas: Mapping[Network, tuple[Roa, ...]], prefix: Network) -> Iterator[Roa]:
    for each in _shorter(prefix):
        yield from roas.get(each, ())


def _shorter(prefix: Network) -> Iterable[Network]:
    """The prefix and all that cover it, longest first."""
    return (prefix.supernet(new_prefix=length) for length in range(prefix.prefixlen, -1, -1))


def _is_in(inner: Network, outer: Network) -> bool:
    return (
        inner.version == outer.version
        and inner.prefixlen >= outer.prefixlen
        and inner.supernet(new_prefix=outer.prefixlen) == outer
    )
