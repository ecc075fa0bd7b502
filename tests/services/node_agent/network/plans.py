"""A plan for tests: one card with an address of each family, extended from alpha to beta."""

from __future__ import annotations

from uuid import UUID

from shared.messages.network import (
    CardAddress,
    CardNetwork,
    CardPlan,
    CareOf,
    FirewallRule,
    NetworkGateway,
    NetworkMode,
    NetworkPlan,
    NetworkTerms,
)
from shared.messages.porting import ServiceChangeAgreement
from tests.support.scripted_broker import agreement_of

PORT = UUID("12345678-9abc-def0-1234-56789abcdef0")
BRIDGE = "vmp123456789a0"
CARE_OF = (
    CareOf(address="10.81.1.10", real="10.82.2.1"),
    CareOf(address="fd00:81:1::10", real="fd00:82:2::1"),
)
GUEST_MAC = "52:54:00:00:00:10"
GATEWAY_MAC = "02:00:00:00:00:01"


def card(*, firewall: tuple[FirewallRule, ...] = ()) -> CardNetwork:
    """The card."""
    return CardNetwork(
        mac=GUEST_MAC,
        addresses=(CardAddress(address="10.81.1.10"), CardAddress(address="fd00:81:1::10")),
        on_link=("10.81.1.0/24", "fd00:81:1::/64"),
        gateways=(
            NetworkGateway(address="10.81.1.1", mac=GATEWAY_MAC),
            NetworkGateway(address="fd00:81:1::1", mac=GATEWAY_MAC),
        ),
        firewall=firewall,
    )


def plan(
    carry: NetworkMode = NetworkMode.EXTEND, *, announce: bool = False, firewall: tuple[FirewallRule, ...] = ()
) -> NetworkPlan:
    """The plan."""
    terms = NetworkTerms.model_validate({"carry": carry, "then_announce": announce})
    joined = carry is NetworkMode.JOINED
    return NetworkPlan(
        terms=terms,
        cards=(
            CardPlan(
                card=card(firewall=firewall),
                donor_bridge="vmbr0",
                bridge="vmbr0" if joined else BRIDGE,
                care_of=CARE_OF if carry in {NetworkMode.TRANSLATE, NetworkMode.ANCHOR} else (),
            ),
        ),
    )


def agreement(network: NetworkPlan | None) -> ServiceChangeAgreement:
    """An agreement with this plan."""
    return agreement_of(PORT).model_copy(update={"network": network})
