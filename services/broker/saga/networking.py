"""What the saga says and checks about the VM's addresses: the plan, the extension's lanes, the neutral gateways. Pure.

No phase waits for any of it. The plan is checked when it is reserved, and is part of the agreement. The lane of an
extension is opened with the port's, and closed at every end but COMPLETED: there `KeepExtension` hands it on. Gateways
of a neutral prefix are told in the very step that commits an epoch, so that they switch with the ownership.
"""

from __future__ import annotations

from collections.abc import Iterator

from services.broker.saga.decision import Moment
from services.broker.saga.effects import Effect, KeepExtension, Send
from shared.messages import Refusal
from shared.messages.addresses import ServeAddresses
from shared.messages.network import CardNetwork, CardPlan, NetworkMode, NetworkPlan, NetworkTerms
from shared.messages.porting import Reserved
from shared.messages.service_change import PortPhase
from shared.messages.vm import Nic
from shared.parties import Party

PLAN_DIFFERS = "network_differs"
_HELPED = frozenset({NetworkMode.EXTEND, NetworkMode.TRANSLATE})
_TRANSLATED = frozenset({NetworkMode.TRANSLATE, NetworkMode.ANCHOR})
_USERS = frozenset({"user", "passt"})


def plan_refusals(at: Moment, answer: Reserved) -> tuple[Refusal, ...]:
    """Where a reserved plan is not what was quoted, or is about other cards than the donor described."""
    return tuple(
        Refusal(code=PLAN_DIFFERS, rule="the VM's addresses are kept as the quote says", evidence=evidence)
        for evidence in _differences(at, answer.network)
    )


def _differences(at: Moment, plan: NetworkPlan | None) -> Iterator[str]:
    quoted, planned = at.chosen.network, plan.terms if plan is not None else None
    if quoted != planned:
        yield f"quoted {_in_words(quoted)}, reserved {_in_words(planned)}"
    if plan is None:
        return
    vm = at.identity.vm
    if len(plan.cards) != len(vm.nics):
        yield f"the plan has {len(plan.cards)} network cards, the VM {len(vm.nics)}"
        return
    told = vm.network.cards if vm.network is not None and len(vm.network.cards) == len(vm.nics) else None
    for index, (nic, card) in enumerate(zip(vm.nics, plan.cards, strict=True)):
        known = told[index] if told is not None else CardNetwork(mac=nic.mac)
        if card.card != known:
            yield f"network card {nic.mac} is not as the donor described it"
        yield from _of_card(plan.terms.carry, nic, card)


def _of_card(carry: NetworkMode, nic: Nic, card: CardPlan) -> Iterator[str]:
    if carry is NetworkMode.JOINED or nic.kind in _USERS:
        return
    if not card.bridge:
        yield f"network card {nic.mac} has no bridge of its own"
    own = {each.address for each in card.card.addresses}
    strange = [pair.address for pair in card.care_of if pair.address not in own]
    if strange:
        yield f"network card {nic.mac} has no address {', '.join(strange)}"
    if carry in _TRANSLATED and not card.care_of:
        yield f"network card {nic.mac} has no care-of address"


def _in_words(terms: NetworkTerms | None) -> str:
    return "nothing" if terms is None else terms.model_dump_json(exclude_none=True)


def is_extended(at: Moment) -> bool:
    """Whether the agreement has an extension, which needs a lane of its own."""
    plan = at.agreement.network
    return plan is not None and plan.terms.carry is NetworkMode.EXTEND


def kept_after(at: Moment, phase: PortPhase) -> tuple[KeepExtension, ...]:
    """The donor's help that outlives the port, when it ends in this phase: none but after COMPLETED."""
    agreed = at.state.agreement
    if phase is not PortPhase.COMPLETED or agreed is None or agreed.network is None:
        return ()
    terms = agreed.network.terms
    if terms.carry not in _HELPED:
        return ()
    kept = KeepExtension(
        vm_uuid=agreed.vm_uuid,
        epoch=at.state.epoch,
        ends=at.lane_ends,
        has_lanes=at.state.lanes_open and is_extended(at),
        ends_after_s=terms.ends_after_s,
    )
    return (kept,)


def serve_addresses(at: Moment) -> tuple[Effect, ...]:
    """Tell the gateways of the neutral prefixes who serves the VM by the epoch that this step commits.

    One that is given back to the donor is served as before the port: the gateways undo what they did for it.
    """
    plan, state = at.agreement.network, at.state
    if plan is None or plan.terms.carry is not NetworkMode.ANCHOR:
        return ()
    pairs = tuple(pair for card in plan.cards for pair in card.care_of) if state.committed else ()
    message = ServeAddresses(
        port_id=state.port_id, vm_uuid=at.agreement.vm_uuid, epoch=state.epoch, owner=state.owner, care_of=pairs
    )
    return tuple(Send(Party.parse(name), message) for name in state.gateways)
