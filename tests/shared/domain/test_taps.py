"""Only cards that have a device on the host are told."""

from shared.domain import taps_of

XML = """<domain type='kvm'><devices>
<interface type='bridge'><mac address='52:54:00:00:00:10'/><target dev='vnet3'/></interface>
<interface type='user'><mac address='52:54:00:00:00:11'/></interface>
</devices></domain>"""


def test_taps_of_cards() -> None:
    assert taps_of(XML) == {"52:54:00:00:00:10": "vnet3"}
