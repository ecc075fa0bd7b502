"""A running VM's cards: only those with a device on the host are taps; a MAC of the guest's own is told."""

import pytest

from shared.domain import has_agent, live_cards, taps_of

XML = """<domain type='kvm'><devices>
<interface type='bridge'><mac address='52:54:00:00:00:10' currentAddress='52:54:00:AA:00:10'/><target dev='vnet3'/>
</interface>
<interface type='user'><mac address='52:54:00:00:00:11'/></interface>
<interface type='user'><mac address='52:54:00:00:00:12' currentAddress='52:54:00:00:00:12'/></interface>
%s</devices></domain>"""


def test_taps_of_cards() -> None:
    assert taps_of(XML % "") == {"52:54:00:00:00:10": "vnet3"}


def test_a_mac_that_the_guest_has_set() -> None:
    assert [card.guest_mac for card in live_cards(XML % "")] == ["52:54:00:aa:00:10", None, None]


@pytest.mark.parametrize(("state", "connected"), [("connected", True), ("disconnected", False)])
def test_the_agent_is_connected(state: str, *, connected: bool) -> None:
    channel = f"<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='{state}'/></channel>"
    assert has_agent(XML % channel) is connected
    assert not has_agent(XML % "")
