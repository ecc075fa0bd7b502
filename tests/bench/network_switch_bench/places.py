"""The networks of a routed lab without guests and services, and where the VM has been agreed to be found in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from deploy.labkit import addressing, network, routed_network, routing
from deploy.labkit.lab import Lab
from deploy.labkit.plan import GUEST_BRIDGE, LabPlan
from deploy.labkit.state import LabState, save
from services.node_agent.network.plan import BRIDGE_PREFIX, device_name, host_prefix
from shared.messages.network import (
    CardAddress,
    CardNetwork,
    CardPlan,
    CareOf,
    NetworkGateway,
    NetworkMode,
    NetworkPlan,
    NetworkTerms,
)
from shared.messages.porting import ServiceChangeAgreement
from tests.support.lane_credentials import Pair
from tests.support.scripted_broker import agreement_of

DONOR, RECIPIENT = "alpha", "beta"
MODES = (NetworkMode.EXTEND, NetworkMode.TRANSLATE, NetworkMode.ANNOUNCE, NetworkMode.ANCHOR)
GUEST_MAC = "52:54:00:00:00:10"
GUEST_NUMBER = 10
LANE_PORT = 7700
"""Where the recipient listens for the extension's lane; in its own namespace."""


@dataclass(frozen=True)
class Places:
    """One lab's networks; `mode` decides what they look like."""

    plan: LabPlan

    @property
    def guest(self) -> addressing.Station:
        """The VM's addresses."""
        return addressing.guest(self.plan, DONOR, GUEST_NUMBER)

    def bridge(self, port_id: UUID) -> str:
        """The card's own bridge at the recipient."""
        return device_name(BRIDGE_PREFIX, port_id, 0)

    @property
    def care_of(self) -> tuple[CareOf, ...]:
        """To where at the recipient the VM's addresses are translated."""
        there = addressing.site(self.plan, RECIPIENT)
        return (
            CareOf(address=self.guest.address, real=str(there.care_of4[1])),
            CareOf(address=self.guest.address6, real=str(there.care_of6[1])),
        )

    def agreement(self, port_id: UUID, credentials: Pair) -> ServiceChangeAgreement:
        """A port of the VM, as donor and recipient would have fixed it."""
        listens = (f"{self.plan.wan_address(RECIPIENT)}:{LANE_PORT}",)
        donor, recipient = credentials.donor.keys.endpoint, credentials.recipient.keys.endpoint
        return agreement_of(port_id).model_copy(
            update={
                "network": self._network_plan(port_id),
                "donor_lane": donor,
                "recipient_lane": recipient.model_copy(update={"direct": listens}),
            }
        )

    def _network_plan(self, port_id: UUID) -> NetworkPlan:
        mode = self.plan.network
        announced = mode is NetworkMode.ANNOUNCE
        carry = NetworkMode.EXTEND if announced else mode
        here = addressing.site(self.plan, DONOR)
        card = CardNetwork(
            mac=GUEST_MAC,
            addresses=(CardAddress(address=self.guest.address), CardAddress(address=self.guest.address6)),
            on_link=tuple(host_prefix(each) for each in (self.guest.address, self.guest.address6))
            if mode is NetworkMode.ANCHOR
            else (str(here.network4), str(here.network6)),
            gateways=tuple(
                NetworkGateway(address=each, mac=here.gateway_mac) for each in (here.gateway4, here.gateway6)
            ),
        )
        translated = carry in {NetworkMode.TRANSLATE, NetworkMode.ANCHOR}
        planned = CardPlan(
            card=card,
            donor_bridge=GUEST_BRIDGE,
            bridge=self.bridge(port_id),
            care_of=self.care_of if translated else (),
        )
        return NetworkPlan(terms=NetworkTerms(carry=carry, then_announce=announced), cards=(planned,))


@contextmanager
def places(name: str, mode: NetworkMode) -> Iterator[Places]:
    """Make a lab's networks with their routing daemons, routed; all of it is gone afterwards. Raises `LabError`."""
    lab = Lab(name)
    lab.down()
    plan = LabPlan(name, network=mode)
    state = LabState(providers=plan.providers, network=mode.value)
    try:
        network.ensure_namespaces(plan)
        save(plan.state_file, state)
        routed_network.ensure_sysctls(plan)
        network.ensure_wan(plan)
        for host in plan.wan_hosts:
            network.ensure_uplink(plan, state, host)
        routed_network.ensure(plan)
        for process, record in routing.start(plan, state):
            state.processes[process] = record
            save(plan.state_file, state)
        routing.wait_until_ready(plan, state)
        made = Places(plan)
        routed_network.welcome(plan, DONOR, made.guest)
        yield made
    finally:
        Lab(name).down()
