"""What a quote says of the VM's addresses: which are kept, how, how long, for how much, and what happens then. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from services.recipient_agent.network_map import card, is_users
from services.recipient_agent.network_terms import NetworkChoice, routable
from shared.messages.network import CardNetwork, NetworkMode, NetworkTerms
from shared.messages.quote_lines import Part, QuoteLine
from shared.messages.vm import VmDescription

TAKEN_AS_ONE = "the address works here only if the providers have joined their networks"
SHOWN = 8
"""Addresses of one card that are told by name."""


@dataclass(frozen=True, slots=True)
class NetworkLines:
    """Lines about addresses that are kept, and about those for which nobody can say it."""

    kept: tuple[QuoteLine, ...] = ()
    unsure: tuple[QuoteLine, ...] = ()


def network_lines(vm: VmDescription, choice: NetworkChoice) -> NetworkLines:
    """One line for each card that has addresses of its own; one for all where the networks are taken as one."""
    nics = [(index, nic) for index, nic in enumerate(vm.nics) if not is_users(nic)]
    if not nics:
        return NetworkLines()
    if choice.terms is None:
        return NetworkLines(unsure=(QuoteLine(part=Part.NETWORK, text=TAKEN_AS_ONE),))
    cards = vm.network.cards if vm.network is not None else ()
    lines = []
    for index, nic in nics:
        identity = cards[index] if index < len(cards) else CardNetwork(mac=nic.mac)
        away = vm.network is not None and vm.network.away
        text = f"{card(nic)}: {_addresses(identity)} {_how(choice.terms, identity, away=away)}"
        lines.append(QuoteLine(part=Part.NETWORK, text=text))
    codes: dict[str, list[str]] = {}
    for finding in choice.unproven:
        codes.setdefault(finding.prefix, []).append(finding.code)
    for prefix, missing in list(codes.items())[:SHOWN]:
        text = f"{prefix} is not announced from here: {', '.join(missing)}"
        lines.append(QuoteLine(part=Part.NETWORK, text=text))
    return NetworkLines(kept=tuple(lines))


def _addresses(identity: CardNetwork) -> str:
    known = routable(identity)
    if not known:
        return "its addresses are kept"
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f"{', '.join(known[:SHOWN])}{more} {'is' if len(known) == 1 else 'are'} kept"


def _how(terms: NetworkTerms, identity: CardNetwork, *, away: bool) -> str:
    match terms.carry:
        case NetworkMode.JOINED if away and identity.segment:
            return f"by its own segment {identity.segment}, to which it comes back"
        case NetworkMode.JOINED:
            on = f", both on segment {identity.segment}" if identity.segment else ", as the tenant says"
            return f"by the joined networks of the providers{on}"
        case NetworkMode.ANCHOR:
            return "by the gateways of their neutral prefix, at every provider that takes part"
        case NetworkMode.EXTEND:
            return "by an extension of the donor's network to this VM" + _terms(terms)
        case NetworkMode.TRANSLATE:
            return "by translation at the donor's gateway" + _terms(terms)


def _terms(terms: NetworkTerms) -> str:
    until = ", for as long as both providers take part"
    if terms.ends_after_s is not None:
        until = f", for {_duration(terms.ends_after_s)} after the port"
    price = f", for {terms.price} in all" if terms.price else ", free of charge"
    if terms.then_announce:
        return f"{until}{price}; meanwhile announced from here, and then without the donor"
    if terms.ends_after_s is None:
        return f"{until}{price}"
    return f"{until}{price}; then the addresses no longer lead here"


def _duration(seconds: float) -> str:
    for unit_s, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit_s and seconds % unit_s == 0:
            return f"{seconds / unit_s:g} {name}"
    return f"{seconds:g} s"
