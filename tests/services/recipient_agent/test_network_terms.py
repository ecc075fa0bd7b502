"""How a VM keeps its addresses: mode, terms, plan, and who cannot."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from services.recipient_agent.network_map import CardPlace, NetworkMap, NetworkRule
from services.recipient_agent.network_terms import (
    ExtensionTerms,
    NetworkAsk,
    NetworkChoice,
    NetworkWish,
    choose_network,
    network_plan,
    own_bridge,
)
from services.recipient_agent.prefix_proof import Code, Finding
from services.recipient_agent.testing import MAC, make_platform, make_vm
from shared.messages.network import CardAddress, CardNetwork, NetworkMode, NetworkTerms, NodeNetwork, VmNetwork
from shared.messages.vm import Nic, Vlan, VmDescription

M = NetworkMode
PORT = UUID("12345678-9abc-4def-8123-456789abcdef")
ALL = tuple(NetworkMode)
USER = NetworkRule(kind="user", to_user=True)
POOLS = ("198.51.100.128/30", "2001:db8:1::/126")
ADDRESSES = ("192.0.2.7", "2001:db8::7")
NEUTRAL = ("192.0.2.0/24", "2001:db8::/32")


def card(*addresses: str, mac: str = MAC, **changes: Any) -> CardNetwork:
    """A card's identity."""
    return CardNetwork(mac=mac, addresses=tuple(CardAddress(address=each) for each in addresses), **changes)


def vm(
    *cards: CardNetwork, modes: tuple[NetworkMode, ...] = ALL, nics: tuple[Nic, ...] = (), **network: Any
) -> VmDescription:
    """A VM whose donor can do all."""
    known = VmNetwork(cards=cards or (card(*ADDRESSES),), modes=modes, **network)
    return make_vm(network=known, **({"nics": nics} if nics else {}))


def chosen(
    described: VmDescription,
    wanted: Any = "auto",
    *,
    network_map: NetworkMap | None = None,
    anchor: tuple[str, ...] = (),
    ours: ExtensionTerms | None = None,
    taken: tuple[str, ...] = (),
    currency: str = "EUR",
    unproven: tuple[Finding, ...] = (),
    **node: Any,
) -> NetworkChoice:
    """On a node that can do all."""
    host = NodeNetwork(**{"modes": ALL, "care_of": POOLS, **node})
    wish = NetworkWish(PORT, wanted, anchor)
    ask = NetworkAsk(wish, ours or ExtensionTerms(), currency, frozenset(taken), unproven)
    platform = make_platform(network=host)
    return choose_network(described, platform, network_map or NetworkMap({"br-donor": "vmbr0"}), ask, node="beta-1")


def why(choice: NetworkChoice) -> str:
    """The one refusal's evidence."""
    (refusal,) = choice.refusals
    assert refusal.code == "network_mode_impossible"
    return refusal.evidence


@pytest.mark.parametrize(
    ("donor", "node", "carry", "announced"),
    [
        (ALL, ALL, M.EXTEND, True),
        (ALL, (M.JOINED, M.EXTEND), M.EXTEND, False),
        ((M.JOINED, M.EXTEND), ALL, M.EXTEND, False),
        (ALL, (M.TRANSLATE, M.ANNOUNCE), M.TRANSLATE, True),
        (ALL, (M.ANCHOR, M.ANNOUNCE), M.ANCHOR, False),
    ],
)
def test_the_first_that_both_sides_can_do(
    donor: tuple[NetworkMode, ...], node: tuple[NetworkMode, ...], carry: NetworkMode, *, announced: bool
) -> None:
    """What the donor helps with is announced afterwards, if both can."""
    choice = chosen(vm(modes=donor), modes=node, anchor=NEUTRAL if carry is M.ANCHOR else ())
    assert choice.terms == NetworkTerms.model_validate({"carry": carry, "then_announce": announced})
    assert choice.refusals == ()


def test_one_segment_is_joined() -> None:
    """The card goes where the network map says, and no donor's help is needed."""
    choice = chosen(vm(card(*ADDRESSES, segment="lan")), segments={"vmbr0": "lan"})
    assert choice.terms == NetworkTerms(carry=M.JOINED)
    assert [str(each) for each in choice.cards] == ["bridge vmbr0"]


def test_a_segment_is_more_than_a_bridges_name() -> None:
    """A VM that comes home is on a bridge whose name nobody knows here."""
    home = Nic(mac=MAC, model="virtio", bridge="vmp0123456789a0")
    described = vm(card(*ADDRESSES, segment="lan"), nics=(home,))
    choice = chosen(described, network_map=NetworkMap(), segments={"br9": "lan", "vmbr0": "lan"})
    assert choice.terms == NetworkTerms(carry=M.JOINED)
    assert choice.cards == (CardPlace(home, bridge="vmbr0"),)


AT_HOME = card(*ADDRESSES, segment="lan")


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("segment", ["lan", ""])
def test_a_neutral_address_is_anchored_whatever_else_could_be_done(segment: str, *, away: bool) -> None:
    """There and back: nobody but its gateways would be told where it is."""
    described = vm(card(*ADDRESSES, segment=segment), away=away)
    choice = chosen(described, anchor=NEUTRAL, segments={"vmbr0": "lan"})
    assert choice.terms == NetworkTerms(carry=M.ANCHOR)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"anchor": NEUTRAL[:1]}, "192.0.2.7 is in a neutral prefix, but the broker cannot: 2001:db8::7 is in no"),
        ({"anchor": NEUTRAL, "modes": (M.JOINED, M.EXTEND)}, "node beta-1 cannot: it offers joined, extend"),
        ({"anchor": NEUTRAL, "care_of": ()}, "has no care-of address left for 192.0.2.7"),
    ],
)
def test_a_neutral_address_that_cannot_be_anchored_is_refused(changes: dict[str, Any], says: str) -> None:
    """Unless a mode is asked for by name."""
    described = vm(AT_HOME)
    assert says in why(chosen(described, **changes, segments={"vmbr0": "lan"}))
    assert chosen(described, M.JOINED, anchor=NEUTRAL, segments={"vmbr0": "lan"}).refusals == ()


@pytest.mark.parametrize("helped_by", ["", "beta"])
@pytest.mark.parametrize("wanted", ["auto", M.JOINED])
def test_a_vm_comes_home_to_its_segment_whatever_the_nodes_take_part_in(wanted: Any, helped_by: str) -> None:
    """Nobody has joined networks for that; a VM that is at its donor's own network is no such one."""
    described = vm(AT_HOME, modes=(M.EXTEND,), away=True, helped_by=helped_by)
    choice = chosen(described, wanted, modes=(M.EXTEND,), segments={"vmbr0": "lan"})
    assert choice.terms == NetworkTerms(carry=M.JOINED)
    assert [str(each) for each in choice.cards] == ["bridge vmbr0"]
    native = chosen(vm(AT_HOME, modes=(M.EXTEND,)), wanted, modes=(M.EXTEND,), segments={"vmbr0": "lan"})
    assert native.terms is None or native.terms.carry is M.EXTEND


@pytest.mark.parametrize("wanted", ["auto", M.EXTEND, M.TRANSLATE, M.ANNOUNCE])
def test_a_vm_whose_addresses_need_the_help_of_another_donor_is_not_ported_on(wanted: Any) -> None:
    """That help ends with the port, and nobody would find the VM; the refusal says what to do."""
    described = vm(AT_HOME, away=True, helped_by="alpha")
    (refusal,) = chosen(described, wanted, segments={"vmbr0": "gammas"}).refusals
    assert refusal.code == "network_chain"
    assert "port the VM home to alpha" in refusal.evidence
    free = vm(AT_HOME, away=True)
    assert chosen(free, wanted, segments={"vmbr0": "gammas"}).refusals == ()


def test_a_vm_that_needs_help_is_not_taken_where_nothing_can_be_done() -> None:
    """Taken as one, it would not be found."""
    described = vm(AT_HOME, away=True, helped_by="alpha")
    (refusal,) = chosen(described, modes=(M.JOINED,)).refusals
    assert refusal.code == "network_chain"


def test_a_neutral_address_is_ported_on_whoever_helped_before() -> None:
    """Its gateways switch; the former donor is not needed."""
    described = vm(AT_HOME, away=True, helped_by="alpha")
    assert chosen(described, anchor=NEUTRAL).terms == NetworkTerms(carry=M.ANCHOR)


def test_a_rule_of_the_operator_is_more_than_a_segment() -> None:
    """It says where the card goes, which is another segment."""
    rule = NetworkRule(bridge="br-donor", to_bridge="vmbr0")
    described = vm(card(*ADDRESSES, segment="lan"), modes=(M.JOINED,))
    choice = chosen(described, network_map=NetworkMap(rules=(rule,)), segments={"br9": "lan", "vmbr0": "dmz"})
    assert choice.terms is None
    assert [str(each) for each in choice.cards] == ["bridge vmbr0"]


@pytest.mark.parametrize(
    "described",
    [
        vm(modes=(M.JOINED,)),
        make_vm(),
        vm(card(*ADDRESSES, mac="52:54:00:00:00:77")),
        vm(card()),
        vm(card("fe80::5054:ff:fe00:1")),
        vm(nics=(Nic(mac=MAC, model="virtio", bridge="", kind="user"),)),
    ],
    ids=["donor cannot", "nothing told", "other cards", "no address", "link-local", "user network"],
)
def test_where_nothing_can_be_done_networks_are_taken_as_one(described: VmDescription) -> None:
    """As they always were; nothing is refused."""
    choice = chosen(described, network_map=NetworkMap({"br-donor": "vmbr0"}, rules=(USER,)))
    assert (choice.terms, choice.refusals) == (None, ())
    assert network_plan(described, choice) is None
    assert len(choice.cards) == 1


@pytest.mark.parametrize(
    ("wanted", "changes", "says"),
    [
        (M.EXTEND, {"modes": (M.JOINED,)}, "extend: node beta-1 cannot: it offers joined"),
        (M.TRANSLATE, {"care_of": ("198.51.100.128/30",)}, "no care-of address left for 2001:db8::7"),
        (M.TRANSLATE, {"taken": ("198.51.100.129", "198.51.100.130")}, "no care-of address left for 192.0.2.7"),
        (M.ANCHOR, {}, "anchor: the broker cannot: 192.0.2.7 is in no neutral prefix"),
        (M.ANCHOR, {"anchor": ("192.0.2.0/24",)}, "2001:db8::7 is in no neutral prefix"),
        (M.ANNOUNCE, {"modes": (M.EXTEND,)}, "announce: node beta-1 cannot"),
        (M.ANNOUNCE, {"modes": (M.ANNOUNCE, M.JOINED)}, "nothing carries the traffic until then"),
        (M.JOINED, {"segments": {"vmbr0": "dmz"}}, "is on segment lan, node beta-1 has dmz"),
    ],
)
def test_a_mode_that_was_asked_for_is_had_or_refused(wanted: NetworkMode, changes: dict[str, Any], says: str) -> None:
    """The refusal names the side that cannot."""
    described = vm(card(*ADDRESSES, segment="lan"))
    assert says in why(chosen(described, wanted, **changes))


@pytest.mark.parametrize(
    ("described", "says"),
    [
        (vm(modes=(M.JOINED,)), "the donor cannot: its node offers joined"),
        (make_vm(), "the donor cannot: it tells nothing of the VM's addresses"),
        (vm(card()), f"the donor cannot: it knows no address of network card {MAC}"),
        (vm(nics=(Nic(mac=MAC, model="virtio", bridge="", kind="direct"),)), "is on no bridge there"),
        (vm(price=Decimal("5.00"), currency="CHF"), "the donor asks CHF, this provider EUR"),
        (vm(nics=(Nic(mac=MAC, model="virtio", bridge="", kind="user"),)), "no network card with addresses of its own"),
    ],
)
def test_what_the_donor_cannot_is_refused_by_name(described: VmDescription, says: str) -> None:
    """Of an extension."""
    assert says in why(chosen(described, M.EXTEND))


def test_the_tenants_word_joins_what_has_no_name() -> None:
    """As it was before segments had names; a donor that tells nothing is no hindrance."""
    for described in (make_vm(), vm(), vm(card(*ADDRESSES, segment="lan"))):
        choice = chosen(described, M.JOINED)
        assert choice.terms == NetworkTerms(carry=M.JOINED)
        assert [str(each) for each in choice.cards] == ["bridge vmbr0"]


@pytest.mark.parametrize(
    ("node", "segments", "carry"),
    [
        (ALL, {}, M.EXTEND),
        ((M.ANNOUNCE, M.TRANSLATE, M.JOINED), {}, M.TRANSLATE),
        (ALL, {"vmbr0": "lan"}, M.EXTEND),
    ],
)
def test_what_is_announced_is_carried_first(
    node: tuple[NetworkMode, ...], segments: dict[str, str], carry: NetworkMode
) -> None:
    """By an extension, or by a translation; never on a bridge of others."""
    choice = chosen(vm(card(*ADDRESSES, segment="lan")), M.ANNOUNCE, modes=node, segments=segments)
    assert choice.terms == NetworkTerms.model_validate({"carry": carry, "then_announce": True})


@pytest.mark.parametrize(
    ("donors", "ours", "ends_s", "price"),
    [
        ({}, {}, None, None),
        ({"ends_after_s": 60.0}, {}, 60.0, None),
        ({"ends_after_s": 60.0}, {"extension_s": 30.0}, 30.0, None),
        ({"price": Decimal("5.00")}, {"extension_price": Decimal("1.50")}, None, Decimal("6.50")),
    ],
)
def test_terms_are_both_sides_together(
    donors: dict[str, Any], ours: dict[str, Any], ends_s: float | None, price: Decimal | None
) -> None:
    """The shorter time, and the sum of the prices."""
    terms = chosen(vm(**donors), M.EXTEND, ours=ExtensionTerms(**ours)).terms
    assert terms == NetworkTerms(carry=M.EXTEND, ends_after_s=ends_s, price=price)


def test_each_card_is_alone_on_a_bridge_of_the_ports() -> None:
    """VLAN tags and rules of the network map end there; a card of the user network goes by the map."""
    nics = (
        Nic(mac=MAC, model="virtio", bridge="br-donor", vlan=Vlan(tags=(7,)), isolated=True),
        Nic(mac="52:54:00:00:00:02", model="virtio", bridge="", kind="user"),
    )
    described = vm(card(*ADDRESSES), card(mac="52:54:00:00:00:02"), nics=nics)
    rule = NetworkRule(bridge="br-donor", to_bridge="x")
    choice = chosen(described, network_map=NetworkMap(rules=(rule, USER)))
    assert choice.cards == (CardPlace(nics[0], bridge="vmp123456789a0", own=True), CardPlace(nics[1]))
    assert (choice.cards[0].isolated, choice.refusals) == (False, ())
    assert len(own_bridge(PORT, 63)) == 15
    (refusal,) = chosen(described, network_map=NetworkMap(rules=(rule,))).refusals
    assert refusal.code == "network_unmapped"


def test_the_plan_has_bridges_and_care_of_addresses() -> None:
    """None is given twice, neither within a VM nor to two ports; of each family from its own pool."""
    described = vm(card(*ADDRESSES, "192.0.2.8"))
    choice = chosen(described, M.TRANSLATE, taken=("2001:db8:1::1",))
    plan = network_plan(described, choice)
    assert plan is not None
    (planned,) = plan.cards
    assert (planned.donor_bridge, planned.bridge) == ("br-donor", own_bridge(PORT, 0))
    assert described.network is not None
    assert planned.card == described.network.cards[0]
    assert [(pair.address, pair.real) for pair in planned.care_of] == [
        ("192.0.2.7", "198.51.100.129"),
        ("2001:db8::7", "2001:db8:1::2"),
        ("192.0.2.8", "198.51.100.130"),
    ]


def test_a_joined_plan_names_both_bridges() -> None:
    """So that the nodes know where to announce."""
    described = vm(card(*ADDRESSES, segment="lan"))
    plan = network_plan(described, chosen(described, segments={"vmbr0": "lan"}))
    assert plan is not None
    assert (plan.cards[0].donor_bridge, plan.cards[0].bridge, plan.cards[0].care_of) == ("br-donor", "vmbr0", ())


def test_a_name_that_is_no_device_is_not_planned() -> None:
    """A donor's bridge may have any name in its XML; the tenant's word makes it joined all the same."""
    long = Nic(mac=MAC, model="virtio", bridge="a-very-long-bridge-name")
    described = vm(nics=(long,))
    plan = network_plan(described, chosen(described, M.JOINED, network_map=NetworkMap(default="vmbr0")))
    assert plan is not None
    assert plan.cards[0].donor_bridge == ""


MISSING = (
    Finding(Code.NO_ROA_FOR_RECIPIENT, "192.0.2.0/24", "no ROA covers it for AS65002"),
    Finding(Code.IRR_MISSING, "192.0.2.0/24", "the IRR has no route object for AS65002"),
)


def test_by_itself_nothing_unproven_is_announced() -> None:
    """The addresses are kept with the donor's help alone, and the choice says why."""
    choice = chosen(vm(), unproven=MISSING)
    assert choice.terms == NetworkTerms(carry=M.EXTEND, then_announce=False)
    assert (choice.refusals, choice.unproven) == ((), MISSING)
    assert chosen(vm(), "extend", unproven=MISSING).unproven == ()


def test_where_nobody_could_announce_no_proof_is_missed() -> None:
    """The node cannot, whatever is proven."""
    assert chosen(vm(), unproven=MISSING, modes=(M.EXTEND,)).unproven == ()


def test_announced_by_name_is_refused_with_each_finding() -> None:
    """By its own code."""
    refusals = chosen(vm(), M.ANNOUNCE, unproven=MISSING).refusals
    assert [(each.code, each.evidence) for each in refusals] == [
        ("no_roa_for_recipient", "192.0.2.0/24: no ROA covers it for AS65002"),
        ("irr_missing", "192.0.2.0/24: the IRR has no route object for AS65002"),
    ]
    assert chosen(vm(), M.ANNOUNCE).refusals == ()
