"""Sample messages of tenants, donors and recipients about one VM, and a conversation with the saga that reads like a
script.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from services.broker.saga import (
    NO_ANCHOR,
    NO_RULES,
    Alarm,
    Anchor,
    CloseLanes,
    CommitEpoch,
    DeadlinePassed,
    Decision,
    Effect,
    Event,
    Heard,
    KeepExtension,
    LanesOpened,
    Moment,
    OpenLanes,
    Owner,
    PortRules,
    RecordEnd,
    RuleBroken,
    SagaState,
    Send,
    Settled,
    Timing,
    WakeUp,
    begin,
    step,
)
from shared.messages import Message, Refusal
from shared.messages.approval import DonorApproved
from shared.messages.network import (
    CardAddress,
    CardNetwork,
    CardPlan,
    CareOf,
    NetworkMode,
    NetworkPlan,
    NetworkTerms,
    VmNetwork,
)
from shared.messages.nodes import CapacityReported, InventoryReported, OwnedVm
from shared.messages.porting import (
    GuestPaused,
    InboundFinished,
    InboundOpened,
    OutboundFinished,
    OutboundStarted,
    QuoteOffered,
    RequestSwitchover,
    Reserved,
    ReservedDisk,
    Side,
    TransferAborted,
    TransferFailed,
    VmDisconnected,
    VmProvisioned,
)
from shared.messages.service_change import (
    PortLimits,
    PortPhase,
    PortProgressed,
    PortRequested,
    Quote,
    StreamProgress,
    TransferPhase,
)
from shared.messages.switchover import CopyState
from shared.messages.vm import (
    Disk,
    Firmware,
    HypervisorVersions,
    IdentityBundle,
    Nic,
    VmDescription,
    VmState,
    VmSummary,
)
from shared.parties import Party, donor, node, recipient, tenant
from shared.testing import make_lane_endpoint

M = TypeVar("M", bound=Message)
E = TypeVar("E", Alarm, CloseLanes, CommitEpoch, KeepExtension, OpenLanes, RecordEnd, RuleBroken)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PORT = UUID("00000000-0000-4000-8000-000000000001")
VM = UUID("00000000-0000-4000-8000-0000000000aa")
ACME = tenant("acme")
ALPHA = donor("alpha")
BETA = recipient("beta")
GAMMA = recipient("gamma")
ALPHA_NODE = node("alpha", "alpha-1")
BETA_NODE = node("beta", "beta-1")
LONG = "x" * 10_000
"""More than any message holds."""
XML = "<domain type='qemu'><name>web</name></domain>"


def request(recipient: str = "beta", *, port_id: UUID = PORT, dry_run: bool = False, **limits: Any) -> PortRequested:
    """The tenant's request."""
    return PortRequested(
        port_id=port_id,
        vm_uuid=VM,
        donor="alpha",
        recipient=recipient,
        limits=PortLimits(**limits),
        dry_run=dry_run,
    )


def description(uuid: UUID = VM, name: str = "web") -> VmDescription:
    """A small VM."""
    return VmDescription(
        uuid=uuid,
        name=name,
        state=VmState.RUNNING,
        memory_bytes=512 << 20,
        vcpus=1,
        architecture="x86_64",
        machine="pc-q35-10.0",
        cpu_model="qemu64",
        domain_type="qemu",
        firmware=Firmware.BIOS,
        disks=(Disk(target="vda", bus="virtio", format="raw", virtual_size_bytes=1 << 28, allocated_bytes=1 << 27),),
        nics=(Nic(mac="52:54:00:00:00:01", model="virtio", bridge="vmbr0"),),
        autostart=True,
        persistent=True,
    )


def identity(uuid: UUID = VM) -> IdentityBundle:
    """What the donor's node read."""
    return IdentityBundle(
        vm=description(uuid),
        domain_xml=XML,
        domain_xml_sha256=hashlib.sha256(XML.encode()).hexdigest(),
        versions=HypervisorVersions(qemu=(10, 0, 2), libvirt=(11, 3, 0)),
        node="alpha-1",
        lane=make_lane_endpoint(),
    )


NETWORK = VmNetwork(
    cards=(
        CardNetwork(
            mac="52:54:00:00:00:01",
            addresses=(CardAddress(address="192.0.2.7"), CardAddress(address="2001:db8::7")),
            segment="alpha-tenants",
        ),
    ),
    modes=tuple(NetworkMode),
    findings=("52:54:00:00:00:01: 192.0.2.7 is declared, and not seen",),
)
"""What the donor's node knows of the VM's addresses."""
GATEWAYS = ("node.exchange.gw-1", "node.exchange.gw-2")
ANCHOR = Anchor(prefixes=("192.0.2.0/24", "2001:db8::/32"), gateways=GATEWAYS)


def networked_identity() -> IdentityBundle:
    """As `identity`, with what is known of the addresses."""
    told = identity()
    return told.model_copy(update={"vm": told.vm.model_copy(update={"network": NETWORK})})


def plan(carry: str, *, bridge: str = "vmp00000000000", **terms: Any) -> NetworkPlan:
    """What a recipient reserves for these addresses."""
    (card,) = NETWORK.cards
    reals = {"192.0.2.7": "198.51.100.7", "2001:db8::7": "2001:db8:1::7"}
    care_of = tuple(CareOf(address=address, real=real) for address, real in reals.items())
    planned = CardPlan(
        card=card,
        donor_bridge="vmbr0",
        bridge=bridge,
        care_of=care_of if carry in {"translate", "anchor"} else (),
    )
    return NetworkPlan(terms=NetworkTerms.model_validate({"carry": carry, **terms}), cards=(planned,))


def quote(provider: str = "beta", *, price: str = "9.00", currency: str = "EUR", **changes: Any) -> Quote:
    """An offer."""
    facts: dict[str, Any] = {
        "promised_total_s": 60.0,
        "promised_downtime_ms": 500,
        "valid_until": NOW + timedelta(minutes=10),
        **changes,
    }
    return Quote(provider=provider, price_per_month=Decimal(price), currency=currency, instance_type="small", **facts)


def refusal(code: str = "no_capacity") -> Refusal:
    """Somebody's reason."""
    return Refusal(code=code, rule="there is room", evidence="there is none")


def reserved(provider: str = "beta", **changes: Any) -> Reserved:
    """A reservation."""
    facts: dict[str, Any] = {"reserved_until": NOW + timedelta(minutes=10), **changes}
    disk = ReservedDisk(target="vda", path="/images/vda.raw", format="raw", virtual_size_bytes=1 << 28)
    return Reserved(
        port_id=PORT, node=f"{provider}-1", lane=make_lane_endpoint(), domain_xml=XML, disks=(disk,), **facts
    )


def outbound_finished() -> OutboundFinished:
    """The donor's figures."""
    return OutboundFinished(
        port_id=PORT,
        downtime_ms=120,
        hypervisor_downtime_ms=90,
        outage_ms=150,
        total_ms=20_000,
        memory_bytes=500,
        disk_bytes=600,
        wire_bytes=700,
    )


def transfer_failed(side: Side, *, guest_running: bool, detail: str = "gone", **facts: bool) -> TransferFailed:
    """One side gives up."""
    return TransferFailed(
        port_id=PORT, side=side, code="lane_lost", detail=detail, guest_running=guest_running, **facts
    )


def transfer_aborted(side: Side, *, guest_running: bool | None = None) -> TransferAborted:
    """One side is stopped and clean."""
    running = side is Side.OUTBOUND if guest_running is None else guest_running
    return TransferAborted(port_id=PORT, side=side, guest_running=running)


def request_switchover(epoch: int = 2) -> RequestSwitchover:
    """The recipient's node asks for the VM."""
    return RequestSwitchover(port_id=PORT, vm_uuid=VM, epoch=epoch)


def guest_paused(epoch: int = 2) -> GuestPaused:
    """The donor's node has sent everything."""
    return GuestPaused(port_id=PORT, vm_uuid=VM, epoch=epoch)


def progress(percent: int, *, port_id: UUID = PORT) -> PortProgressed:
    """The donor's node reports."""
    part = StreamProgress(total_bytes=100, processed_bytes=percent, remaining_bytes=100 - percent)
    return PortProgressed(
        port_id=port_id,
        phase=TransferPhase.MEMORY,
        percent=percent,
        memory=part,
        disk=part,
        rate_bytes_per_s=1000,
    )


def summary(uuid: UUID = VM, name: str = "web") -> VmSummary:
    """A VM in an inventory."""
    return VmSummary(uuid=uuid, name=name, state=VmState.RUNNING, memory_bytes=512 << 20, vcpus=1, disk_bytes=1 << 28)


def inventory(at: datetime, *uuids: UUID, owner: str = "acme", provider: str = "alpha") -> InventoryReported:
    """A provider's inventory."""
    vms = tuple(OwnedVm(vm=summary(uuid), tenant=owner, node=f"{provider}-1") for uuid in uuids)
    return InventoryReported(at=at, vms=vms)


def capacity(at: datetime) -> CapacityReported:
    """A provider's capacity."""
    return CapacityReported(at=at, nodes_healthy=1, nodes=1, memory_free_bytes=1 << 34, disk_free_bytes=1 << 40)


def told(effect: Effect) -> str:
    """An effect in a few words."""
    match effect:
        case Send():
            return f"{effect.to} <- {type(effect.message).__name__}"
        case CommitEpoch():
            return f"commit epoch {effect.epoch} to {effect.owner}"
        case OpenLanes():
            return "open lanes and extension" if effect.extended else "open lanes"
        case CloseLanes():
            return "close lanes but the extension" if effect.keep_extension else "close lanes"
        case KeepExtension():
            return "keep extension"
        case RecordEnd():
            return f"end: {effect.outcome} {effect.code}"
        case Alarm():
            return f"alarm: {effect.code}"
        case RuleBroken():
            return f"{effect.how}: {effect.rule}"


@dataclass
class Conversation:
    """A conversation with a port's saga. Each call is one event; `expect` compares the result."""

    state: SagaState
    now: datetime = NOW
    timing: Timing = field(default_factory=Timing)
    last: Decision | None = None

    @classmethod
    def begin(
        cls,
        asked: PortRequested,
        candidates: tuple[str, ...] = ("beta",),
        *,
        anchor: Anchor = NO_ANCHOR,
        rules: PortRules = NO_RULES,
    ) -> Conversation:
        """A verified request."""
        decision = begin(
            asked,
            tenant_name="acme",
            vm_name="web",
            epoch=1,
            candidates=candidates,
            now=NOW,
            timing=Timing(),
            anchor=anchor,
            rules=rules,
        )
        return cls(decision.state, last=decision)

    def _take(self, event: Event) -> Conversation:
        self.last = step(self.state, event, self.now, self.timing)
        # What is not in the JSON would be forgotten by a restart; so each step starts from it.
        self.state = SagaState.model_validate_json(self.last.state.model_dump_json())
        assert self.state == self.last.state
        return self

    def hear(self, sender: Party, message: Message) -> Conversation:
        """Somebody says something."""
        return self._take(Heard(sender, message))

    def lanes_opened(self) -> Conversation:
        """The relay's queues are declared."""
        return self._take(LanesOpened())

    def pass_time(self, duration: timedelta) -> Conversation:
        """Time goes by, and nothing happens."""
        self.now += duration
        return self

    def deadline(self, last_heard: datetime | None = None) -> Conversation:
        """Nothing happens until the phase's deadline."""
        assert self.state.deadline is not None
        self.now = max(self.now, self.state.deadline)
        return self._take(DeadlinePassed(last_heard))

    def settle(self, owner: str, evidence: str = "looked at both hosts") -> Conversation:
        """An operator decides."""
        return self._take(Settled(owner=Owner(owner), by="root@broker-1", evidence=evidence))

    def wake(self) -> Conversation:
        """Nothing happens until the phase's own time."""
        assert self.state.wake_at is not None
        self.now = max(self.now, self.state.wake_at)
        return self._take(WakeUp())

    def expect(self, phase: PortPhase, *effects: str) -> Conversation:
        """The phase, and all effects in order."""
        assert self.last is not None
        assert [phase.value, *effects] == [self.state.phase.value, *map(told, self.last.effects)]
        return self

    def sent(self, kind: type[M], to: Party | None = None) -> M:
        """The one message of this type among the last effects; with ``to``, the one to that party."""
        assert self.last is not None
        found = [
            effect.message
            for effect in self.last.effects
            if isinstance(effect, Send) and isinstance(effect.message, kind) and to in {None, effect.to}
        ]
        assert len(found) == 1
        return found[0]

    def pauses_s(self, count: int) -> list[float]:
        """How long the port waits before each of the next questions; all of them are asked."""
        found = []
        for _ in range(count):
            assert self.state.wake_at is not None
            found.append((self.state.wake_at - self.now).total_seconds())
            self.wake()
        return found

    def effect(self, kind: type[E]) -> E:
        """The one effect of this type among the last ones."""
        assert self.last is not None
        (found,) = [effect for effect in self.last.effects if isinstance(effect, kind)]
        return found

    @property
    def moment(self) -> Moment:
        """The port as it is now, as a handler gets it."""
        return Moment(self.state, self.now, self.timing)

    # Shortcuts along the good path

    def fixed_with(self, planned: NetworkPlan | None, *, quoted: NetworkPlan | None = None) -> Conversation:
        """Up to the answer to the reservation, whose plan is not what was quoted where `quoted` is given."""
        offered = quoted or planned
        terms = offered.terms if offered is not None else None
        self.hear(ALPHA, DonorApproved(port_id=PORT, identity=networked_identity()))
        self.hear(BETA, QuoteOffered(port_id=PORT, quote=quote(network=terms)))
        return self.hear(BETA, reserved(network=planned))

    def fixed(self) -> Conversation:
        """Up to the fixed porting."""
        self.hear(ALPHA, DonorApproved(port_id=PORT, identity=identity()))
        self.hear(BETA, QuoteOffered(port_id=PORT, quote=quote()))
        return self.hear(BETA, reserved())

    def transferring(self, planned: NetworkPlan | None = None) -> Conversation:
        """Up to the transfer."""
        (self.fixed_with(planned) if planned else self.fixed()).lanes_opened()
        self.hear(BETA, InboundOpened(port_id=PORT))
        return self.hear(ALPHA, OutboundStarted(port_id=PORT)).expect(PortPhase.TRANSFERRING)

    def switching(self, planned: NetworkPlan | None = None) -> Conversation:
        """Up to the commit."""
        return self.transferring(planned).hear(ALPHA_NODE, guest_paused()).hear(BETA_NODE, request_switchover())

    def asking_for_the_copy(self, **facts: Any) -> Conversation:
        """After the commit, the recipient says that no guest runs there, and none did."""
        return self.switching().hear(BETA, transfer_failed(Side.INBOUND, guest_running=False, **facts))

    def given_back(self, **facts: Any) -> Conversation:
        """And the donor's node has not let it go."""
        return self.asking_for_the_copy(**facts).hear(ALPHA_NODE, CopyState(port_id=PORT, let_go=False))

    def finishing(self, planned: NetworkPlan | None = None) -> Conversation:
        """Up to the arrival."""
        self.switching(planned).hear(BETA, InboundFinished(port_id=PORT, epoch=2))
        return self.hear(ALPHA, outbound_finished())

    def completed(self, planned: NetworkPlan | None = None) -> Conversation:
        """To the good end."""
        self.finishing(planned).hear(BETA, VmProvisioned(port_id=PORT))
        return self.hear(ALPHA, VmDisconnected(port_id=PORT))
