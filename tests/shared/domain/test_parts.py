"""What people call a device."""

from __future__ import annotations

import pytest
from lxml import etree

from shared.domain.parts import part_name


@pytest.mark.parametrize(
    ("xml", "name"),
    [
        ("<disk><target dev='vda'/></disk>", "disk vda"),
        ("<interface><mac address='52:54:00:00:00:01'/></interface>", "network card 52:54:00:00:00:01"),
        ("<serial><target port='1'/></serial>", "serial 1"),
        ("<console/>", "console"),
        ("<channel><target name='org.x.0'/></channel>", "channel org.x.0"),
        ("<controller type='usb' index='0'/>", "controller usb 0"),
        ("<rng/>", "rng"),
    ],
)
def test_a_device_has_a_name_that_its_owner_knows(xml: str, name: str) -> None:
    """A disk by its target, a card by its MAC, a port by its number."""
    element = etree.fromstring(xml)

    assert part_name(element, f"devices/{element.tag}") == name


def test_what_is_no_device_has_no_name() -> None:
    """It is known by its path."""
    assert part_name(etree.fromstring("<disk/>"), "os/disk") == ""
