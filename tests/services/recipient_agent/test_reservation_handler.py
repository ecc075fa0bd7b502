"""Room is held for a quote that was taken, and released when it is not needed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from services.recipient_agent.capacity import GIB, Quota
from services.recipient_agent.network_map import NetworkMap
from services.recipient_agent.testing import (
    MAC,
    VM_UUID,
    XML,
    make_capacity,
    make_identity,
    make_places,
    make_platform,
    make_summary,
    make_terms,
)
from shared.messages import Message
from shared.messages.network import CardAddress, CardNetwork, NetworkMode, NetworkTerms, NodeNetwork, VmNetwork
from shared.messages.porting import (
    OpenInbound,
    PortingFixed,
    QuoteDeclined,
    QuoteOffered,
    ReleaseReservation,
    ReservationRefused,
    Reserved,
    Side,
    TransferFailed,
    VmProvisioned,
)
from shared.messages.service_change import PortCancelled, PortFailed, PortLimits, PortPhase
from shared.messages.vm import Nic
from shared.parties import BROKER
from tests.support.recipient_world import NODE, OTHER, PORT, PROVISION, World, arrived


async def test_a_reservation_asked_for_again_is_the_same(running: World) -> None:
    """In every phase, the broker gets the XML that was issued."""
    await running.to_reserved()
    await running.reserve()
    await running.say(BROKER, PortingFixed(port_id=PORT, agreement=running.agreement()))
    await running.reserve()

    reserved = running.heard(BROKER, Reserved)
    assert len({each.domain_xml for each in reserved}) == 1
    assert len(reserved) == 3
    assert running.reservations() == 1


async def test_a_fixed_reservation_is_not_changed(running: World) -> None:
    """Another XML for the same port is refused."""
    await running.to_fixed()
    await running.reserve(identity=make_identity(XML.replace("<os>", "<title>another</title><os>")))

    assert [r.code for r in running.heard(BROKER, ReservationRefused)[0].refusals] == ["port_under_way"]


async def test_a_reservation_needs_a_quote_that_was_made_and_holds(running: World) -> None:
    """Unknown, changed and expired quotes are refused, each by its own code."""
    await running.beat()
    await running.quote()
    quote = running.heard(BROKER, QuoteOffered)[0].quote
    await running.reserve(UUID(int=8))
    await running.reserve(quote=quote.model_copy(update={"price_per_month": quote.price_per_month / 2}))
    await running.pass_time(601)
    await running.beat()
    await running.reserve()

    codes = [[r.code for r in refused.refusals] for refused in running.heard(BROKER, ReservationRefused)]
    assert codes == [["quote_unknown"], ["quote_differs"], ["quote_expired"]]
    assert running.reservations() == 0


async def test_the_xml_is_checked_before_anything_is_held(running: World) -> None:
    """A VM that reaches into this host is refused."""
    await running.beat()
    await running.quote()
    await running.reserve(identity=make_identity(XML.replace("<os>", "<os><dtb>/dev/sda</dtb>")))

    assert [r.code for r in running.heard(BROKER, ReservationRefused)[0].refusals] == ["vm_blocked"]
    assert running.reservations() == 0


async def test_the_last_room_is_given_once(running: World) -> None:
    """A reservation takes its room away from later quotes; its own quote it does not disturb; released, it is free."""
    await running.beat(capacity=make_capacity(memory_free_bytes=GIB + GIB // 4))
    await running.quote()
    await running.reserve()
    other: dict[str, Any] = {"uuid": UUID(int=2), "name": "web-2", "nics": ()}
    await running.quote(UUID(int=8), **other)
    await running.quote(PORT)
    await running.say(BROKER, ReleaseReservation(port_id=PORT, reason="not chosen"))
    await running.quote(UUID(int=8), **other)

    assert [r.code for r in running.heard(BROKER, QuoteDeclined)[0].refusals] == ["memory_short"]
    assert [offer.port_id.int for offer in running.heard(BROKER, QuoteOffered)] == [7, 7, 8]


async def test_a_reservation_ends_by_itself(running: World) -> None:
    """Until the porting is fixed it is held for a while only."""
    await running.to_reserved()
    await running.pass_time(299)
    assert running.reservations() == 1
    await running.pass_time(1)
    assert running.reservations() == 0
    await running.say(BROKER, OpenInbound(port_id=PORT, agreement=running.agreement()))

    (failed,) = running.heard(BROKER, TransferFailed)
    assert (failed.code, failed.side, failed.guest_running) == ("not_reserved", Side.INBOUND, False)
    assert "expired" in failed.detail


async def test_a_fixed_reservation_holds_until_long_after_its_deadline(running: World) -> None:
    """An hour for the port, an hour of grace; then, if no node knows of it, it is free."""
    await running.to_fixed()
    await running.pass_time(7199)
    assert running.reservations() == 1
    await running.pass_time(1)
    assert running.reservations() == 0


async def test_a_reservation_that_a_node_still_carries_out_is_not_released_by_a_clock(running: World) -> None:
    """The heartbeat says that the port's transfer is there."""
    await running.to_open()
    await running.beat(ports=(PORT,))
    await running.pass_time(7200)

    assert running.reservations() == 1


@pytest.mark.parametrize(
    "end",
    [
        PortFailed(port_id=PORT, phase=PortPhase.TRANSFERRING, code="x", detail="y", vm_runs_at="alpha"),
        PortCancelled(port_id=PORT, phase=PortPhase.TRANSFERRING),
        ReleaseReservation(port_id=PORT, reason="x"),
    ],
)
async def test_an_ended_port_frees_its_room(running: World, end: Message) -> None:
    """And the same VM may come another time."""
    await running.to_open()
    await running.say(BROKER, end)
    assert running.reservations() == 0
    await running.quote(UUID(int=8))

    assert [offer.port_id.int for offer in running.heard(BROKER, QuoteOffered)] == [7, 8]


async def test_a_port_that_failed_after_the_vm_arrived_keeps_its_room(running: World) -> None:
    """The VM runs here, so its room is not free."""
    await running.to_open()
    failed = PortFailed(port_id=PORT, phase=PortPhase.FINISHING, code="x", detail="y", vm_runs_at="beta")
    await running.say(BROKER, failed)

    assert running.reservations() == 1


async def test_a_quota_counts_what_came_and_is_still_here(world: World) -> None:
    """One VM per tenant: a second is refused while the first is here, and welcome when it has left again."""
    world.terms = make_terms(quota_per_tenant=Quota(vms=1))
    other: dict[str, Any] = {"uuid": UUID(int=2), "name": "web-2", "nics": ()}
    async with world.agent():
        await world.to_open()
        await world.beat(vms=(arrived(),))
        await world.say(BROKER, PROVISION)
        await world.say(NODE, VmProvisioned(port_id=PORT))
        await world.quote(UUID(int=8), **other)
        await world.quote(UUID(int=9), tenant="globex", **other)
        await world.clock.advance(1)
        await world.beat(vms=())
        await world.quote(UUID(int=8), **other)

    assert [r.code for r in world.heard(BROKER, QuoteDeclined)[0].refusals] == ["quota_tenant"]
    assert [offer.port_id.int for offer in world.heard(BROKER, QuoteOffered)] == [7, 9, 8]


async def test_a_reservation_survives_a_restart_and_still_expires(world: World) -> None:
    """It holds room in the new process, until its own time."""
    async with world.agent():
        await world.to_reserved()
    async with world.agent():
        assert world.reservations() == 1
        await world.pass_time(300)
        assert world.reservations() == 0


async def test_a_quote_that_comes_back_on_the_brokers_clock_is_the_same(running: World) -> None:
    """Until when it holds is ours to know; all else must be as it was offered."""
    await running.beat()
    await running.quote()
    quote = running.heard(BROKER, QuoteOffered)[0].quote
    await running.reserve(quote=quote.model_copy(update={"valid_until": quote.valid_until - timedelta(minutes=10)}))
    assert len(running.heard(BROKER, Reserved)) == 1


async def test_the_vm_becomes_what_the_quote_said(running: World) -> None:
    """The quoted node is ill now; on the other one the card would go to another bridge, which was never quoted."""
    places_of = running.terms.places_of
    assert isinstance(places_of, dict)
    places_of["beta-2"] = make_places(bridges=NetworkMap({"br-donor": "vmbr9"}))
    tight = make_capacity(memory_free_bytes=2 * GIB)
    await running.beat()
    await running.beat(OTHER, platform=make_platform(bridges=("vmbr9",)), capacity=tight)
    await running.quote()
    await running.beat(healthy=False)
    await running.reserve()

    (refused,) = running.heard(BROKER, ReservationRefused)
    assert [refusal.code for refusal in refused.refusals] == ["quote_outdated"]
    assert "bridge br-donor becomes bridge vmbr9" in refused.refusals[0].evidence


MEDIUM = (
    "<disk type='file' device='cdrom'><source file='/library/tools.iso'/>"
    "<target dev='sda' bus='sata'/><readonly/></disk></devices>"
)


@pytest.mark.parametrize(("eject", "disks"), [((), ["vda", "sda"]), (("sda",), ["vda"])])
async def test_a_medium_has_room_reserved_unless_it_stays_behind(
    running: World, eject: tuple[str, ...], disks: list[str]
) -> None:
    """What the tenant ejects is no disk here."""
    identity = make_identity(XML.replace("</devices>", MEDIUM))
    await running.beat()
    await running.quote(eject=eject, **dict(identity.vm))
    await running.reserve(identity=identity, limits=PortLimits(eject=eject))

    (reserved,) = running.heard(BROKER, Reserved)
    assert [disk.target for disk in reserved.disks] == disks


KNOWN = VmNetwork(
    cards=(CardNetwork(mac=MAC, addresses=(CardAddress(address="192.0.2.7"), CardAddress(address="2001:db8::7"))),),
    modes=tuple(NetworkMode),
    ends_after_s=60,
)
TRANSLATES = make_platform(
    network=NodeNetwork(modes=(NetworkMode.TRANSLATE,), care_of=("198.51.100.0/30", "2001:db8:1::/126"))
)


async def test_a_plan_is_reserved_and_fixed(running: World) -> None:
    """The quote's terms, the card on a bridge of its own, and an agreement without the plan is another one."""
    await running.beat(platform=TRANSLATES)
    await running.quote(network=KNOWN)
    await running.reserve(identity=make_identity(network=KNOWN))

    (offered,) = running.heard(BROKER, QuoteOffered)
    (reserved,) = running.heard(BROKER, Reserved)
    assert offered.quote.network == NetworkTerms(carry=NetworkMode.TRANSLATE, ends_after_s=60)
    assert reserved.network is not None
    assert reserved.network.terms == offered.quote.network
    (card,) = reserved.network.cards
    assert [pair.real for pair in card.care_of] == ["198.51.100.1", "2001:db8:1::1"]
    assert f'<source bridge="{card.bridge}"/>' in reserved.domain_xml
    await running.say(BROKER, PortingFixed(port_id=PORT, agreement=running.agreement(network=None)))
    await running.say(BROKER, OpenInbound(port_id=PORT, agreement=running.agreement(network=None)))
    (failed,) = running.heard(BROKER, TransferFailed)
    assert failed.code == "agreement_differs"
    await running.say(BROKER, PortingFixed(port_id=PORT, agreement=running.agreement()))
    await running.say(BROKER, OpenInbound(port_id=PORT, agreement=running.agreement()))
    (told,) = running.heard(NODE, OpenInbound)
    assert told.agreement.network == reserved.network


async def test_no_care_of_address_is_given_twice(running: World) -> None:
    """Each VM's own is taken while its reservation holds, and free afterwards."""
    await running.beat(platform=TRANSLATES)
    for number in (7, 8, 9):
        card = KNOWN.cards[0].model_copy(
            update={"mac": f"52:54:00:00:00:0{number}", "addresses": (CardAddress(address=f"192.0.2.{number}"),)}
        )
        facts: dict[str, Any] = {
            "uuid": UUID(int=number),
            "name": f"web-{number}",
            "nics": (Nic(mac=card.mac, model="virtio", bridge="br-donor"),),
            "network": KNOWN.model_copy(update={"cards": (card,)}),
        }
        xml = XML.replace(str(VM_UUID), str(UUID(int=number))).replace("web-1", f"web-{number}").replace(MAC, card.mac)
        await running.quote(UUID(int=number), network_mode=NetworkMode.TRANSLATE, **facts)
        if number < 9:
            identity = make_identity(xml, **facts)
            limits = PortLimits(network_mode=NetworkMode.TRANSLATE)
            await running.reserve(UUID(int=number), identity=identity, limits=limits)

    reals = [r.network.cards[0].care_of[0].real for r in running.heard(BROKER, Reserved) if r.network]
    assert reals == ["198.51.100.1", "198.51.100.2"]
    (declined,) = running.heard(BROKER, QuoteDeclined)
    assert [r.code for r in declined.refusals] == ["network_mode_impossible"]
    await running.say(BROKER, ReleaseReservation(port_id=UUID(int=7), reason="not chosen"))
    await running.quote(UUID(int=9), network_mode=NetworkMode.TRANSLATE, **facts)
    assert running.heard(BROKER, QuoteOffered)[-1].port_id == UUID(int=9)


async def test_terms_that_changed_since_the_quote_are_refused(running: World) -> None:
    """The donor asks more now, or the node can do less."""
    await running.beat(platform=TRANSLATES)
    await running.quote(network=KNOWN)
    await running.reserve(identity=make_identity(network=KNOWN.model_copy(update={"ends_after_s": 30})))
    await running.beat(platform=make_platform())
    await running.reserve(identity=make_identity(network=KNOWN))

    codes = [[r.code for r in refused.refusals] for refused in running.heard(BROKER, ReservationRefused)]
    assert codes == [["quote_outdated"], ["quote_outdated"]]


async def test_an_address_that_is_here_already_is_refused_before_anything_moves(running: World) -> None:
    """Whether another VM of the provider has it, or one that is coming."""
    await running.beat(platform=TRANSLATES, vms=(make_summary(addresses=("192.0.2.7",)),))
    await running.quote(network=KNOWN)
    await running.beat(platform=TRANSLATES)
    await running.quote(network=KNOWN)
    await running.reserve(identity=make_identity(network=KNOWN))
    other: dict[str, Any] = {"uuid": UUID(int=2), "name": "web-2", "nics": ()}
    await running.quote(UUID(int=8), network=KNOWN, **other)

    codes = [[r.code for r in declined.refusals] for declined in running.heard(BROKER, QuoteDeclined)]
    assert codes == [["address_collision"], ["address_collision", "address_collision"]]
