"""Which devices of its host a running VM's network cards are. Pure."""

from __future__ import annotations

from shared.domain.parsing import DomainSource, attribute_of, mac_of, parse


def taps_of(xml: DomainSource) -> dict[str, str]:
    """The host's device of each card that has one, by the card's MAC. Raises `DomainXmlError`."""
    found = ((mac_of(nic), attribute_of(nic, "target", "dev")) for nic in parse(xml).root.findall("devices/interface"))
    return {mac: device for mac, device in found if device is not None}
