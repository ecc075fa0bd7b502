"""A running VM's network cards as its host has them: devices, the guest's own MACs, and its agent. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from shared.domain.parsing import DomainSource, attribute_of, mac_of, parse

_AGENT: Final = "org.qemu.guest_agent.0"


class LiveCard(NamedTuple):
    """A card. `guest_mac` is one that the guest has set itself, as far as libvirt tells (11.2 or newer)."""

    mac: str
    guest_mac: str | None
    device: str | None


def live_cards(xml: DomainSource) -> tuple[LiveCard, ...]:
    """All cards, in their order. Raises `DomainXmlError`."""
    found = []
    for nic in parse(xml).root.findall("devices/interface"):
        mac = mac_of(nic)
        current = (attribute_of(nic, "mac", "currentAddress") or mac).lower()
        found.append(LiveCard(mac, current if current != mac else None, attribute_of(nic, "target", "dev")))
    return tuple(found)


def taps_of(xml: DomainSource) -> dict[str, str]:
    """The host's device of each card that has one, by the card's MAC. Raises `DomainXmlError`."""
    return {card.mac: card.device for card in live_cards(xml) if card.device is not None}


def has_agent(xml: DomainSource) -> bool:
    """Whether the guest's agent is connected now. Raises `DomainXmlError`."""
    targets = parse(xml).root.findall("devices/channel/target")
    return any(each.get("name") == _AGENT and each.get("state") == "connected" for each in targets)
