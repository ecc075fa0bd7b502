"""A VM written for another host."""

from __future__ import annotations

import pytest

from shared.domain import DomainXmlError, HostPlaces, describe, guest_abi_differences, parse, rewrite_for_host
from tests.support.domain_samples import DOMAIN, MAC, PLACES


def test_rewriting_changes_the_host_and_not_the_guest() -> None:
    """Paths and bridges are the new host's; the guest sees no difference."""
    rewritten = rewrite_for_host(DOMAIN, PLACES)
    assert guest_abi_differences(DOMAIN, rewritten) == []
    facts = describe(rewritten)
    assert (facts.disks[0].source, facts.nics[0].bridge) == ("/srv/images/web-vda.qcow2", "br-beta")
    text = rewritten.to_text()
    for gone in ("alpha", "vnet3", "192.0.2.7", "cpuset='1'", "seclabel", "/dev/pts", "virtio-disk0"):
        assert gone not in text
    assert "/var/log/beta/web.log" in text


def test_rewriting_twice_changes_nothing() -> None:
    """A second rewrite with the same places gives the same text."""
    once = rewrite_for_host(DOMAIN, PLACES).to_text()
    assert once == rewrite_for_host(once, PLACES).to_text()


def test_rewriting_needs_a_place_for_everything() -> None:
    """A disk without a path, or a card without a bridge, is refused by name."""
    with pytest.raises(DomainXmlError, match="vda"):
        rewrite_for_host(DOMAIN, HostPlaces(bridges=PLACES.bridges))
    with pytest.raises(DomainXmlError, match=MAC):
        rewrite_for_host(DOMAIN, HostPlaces(disks=PLACES.disks))


def test_the_original_is_not_changed() -> None:
    """A domain that was read once is passed on to several readers."""
    original = parse(DOMAIN)
    before = original.to_text()
    rewrite_for_host(original, PLACES)
    assert original.to_text() == before


def test_the_result_is_what_its_text_says() -> None:
    """What is checked as a value is what the other side reads."""
    rewritten = rewrite_for_host(DOMAIN, PLACES)
    reread = parse(rewritten.to_text())
    assert describe(reread) == describe(rewritten)
    assert reread.to_text() == rewritten.to_text()


def test_the_template_of_uefi_variables_is_dropped() -> None:
    """It lies at the old host; the variables themselves come with the VM."""
    nvram = "<nvram template='/usr/share/OVMF/VARS.fd' templateFormat='raw'>/nvram/web.fd</nvram>"
    text = rewrite_for_host(DOMAIN.replace("</os>", f"{nvram}</os>"), PLACES).to_text()
    assert "<nvram>/nvram/web.fd</nvram>" in text
