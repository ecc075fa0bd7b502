"""Whether a tenant may take a VM away: facts in, refusals out. Pure; it asks nobody and keeps nothing.

Rules, in the order in which they are judged:

1. Who asks comes first. A VM that the asking tenant does not own is refused with that alone: what binds another
   tenant's VM is nobody else's business.
2. Then everything that binds the VM is named at once, so that the tenant can settle it in one go: dues, minimum stay,
   contract, legal hold, change of owner, partners, ports under way, and whether the VM runs on a node that answers.
3. What only the live VM can tell (`live_refusals`) is judged after its node has read it.
4. An agreement is carried out only if it is what was approved (`agreement_refusals`), under the policy of that day.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from hashlib import sha256
from uuid import UUID

from services.donor_agent.policy import Policy
from services.donor_agent.port_record import Phase
from shared.domain import DomainXmlError, guest_abi_differences
from shared.ejecting import REMOVABLE, without_media
from shared.messages.base import Refusal
from shared.messages.porting import ServiceChangeAgreement
from shared.messages.rule_facts import MAX_STATED, DonorFacts, Ground, StatedDue
from shared.messages.vm import IdentityBundle, VmDescription, VmState, VmSummary
from shared.rules.conditions import ContractExit, CoolOff, Dues, LegalHold, MinimumStay, OwnerChange
from shared.rules.demands import void_code

_NOT_RUNNING = "not_running:"
"""How a node's own word begins for what the VM's state says already."""


@dataclass(frozen=True, slots=True)
class Located:
    """A VM on one of this provider's nodes, as last heard."""

    vm: VmSummary
    node: str
    silent_s: float
    """How long the node has not been heard."""
    problems: tuple[str, ...] = ()
    """What the node says is wrong with itself; empty when it is healthy."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, and what this agent knows at that moment."""

    tenant: str
    vm_uuid: UUID
    now: datetime
    located: Located | None
    node_silent_after_s: float
    recipient: str | None = None
    """Where the VM is to go, if that is known yet."""
    ports_under_way: int = 0
    """Other ports that are fixed or moving at this provider."""
    vm_under_way: UUID | None = None
    """Another port of this very VM that is fixed or moving."""
    asked_start: datetime | None = None
    """When the VM is to leave, as it was asked for just now; None: the notice was judged before."""
    told: Mapping[str, str] = field(default_factory=dict)
    """What the tenant tells, by the field's name."""
    void: frozenset[str] = frozenset()
    """Codes of refusals that a rule has voided for this port (`void_code`)."""


@dataclass(frozen=True, slots=True)
class Approved:
    """What was approved for one port; an agreement must equal it."""

    port_id: UUID
    tenant: str
    vm_uuid: UUID
    provider: str
    identity: IdentityBundle


def records_refusals(policy: Policy, request: Request) -> tuple[Refusal, ...]:
    """What the provider's records and its inventory say against the port; empty when nothing does."""
    located = request.located
    if located is None:
        return (
            Refusal(
                code="unknown_vm",
                rule="A VM can leave only from the provider that serves it.",
                evidence=f"no node of this provider has reported a VM {request.vm_uuid}",
            ),
        )
    ownership = tuple(_ownership(policy, request, located.vm))
    if ownership:
        return ownership
    stated, today = facts_of(policy, request, located.vm), request.now.date()
    demanded = (
        *_dues(policy, stated, today),
        *_stay(stated, today),
        *_contract(stated, today),
        *_holds(policy, stated, today),
        *partner_refusals(policy, request.recipient),
        *_notice(policy, request),
        *_fields(policy, request),
    )
    return (
        *(refusal for refusal in demanded if void_code(refusal) not in request.void),
        *_under_way(policy, request),
        *_where_it_runs(located, request.node_silent_after_s),
        *_readable(located.vm),
    )


def stated_facts(policy: Policy, request: Request) -> DonorFacts | None:
    """What the provider states of this VM, for the rules; None where the tenant does not own it."""
    if request.located is None or any(_ownership(policy, request, request.located.vm)):
        return None
    return facts_of(policy, request, request.located.vm)


def facts_of(policy: Policy, request: Request, vm: VmSummary) -> DonorFacts:
    """What the provider's records say of a VM of this tenant, what it demands, and what it charges."""
    account = policy.accounts[request.tenant]
    entries = policy.rules_for(request.tenant, vm.uuid, vm.name)
    days = policy.minimum_stay_days if account.minimum_stay_days is None else account.minimum_stay_days
    starts = (each.contract_start for each in entries if each.contract_start is not None)
    return DonorFacts(
        service=account.service,
        contract_start=max(starts, default=account.contract_start),
        contract_end=account.contract_end,
        early_exit=account.early_exit,
        minimum_stay_days=days,
        notice_days=policy.notice_days,
        dues=tuple(StatedDue(**dict(each)) for each in account.dues[:MAX_STATED]),
        legal_holds=_distinct(account.legal_hold, *(each.legal_hold for each in entries)),
        owner_changes=_distinct(account.owner_change, *(each.owner_change for each in entries)),
        identity_changed_on=account.identity_changed_on,
        demands=policy.demands,
        charges=policy.charges,
    )


def live_refusals(vm: VmDescription, *, vm_uuid: UUID, eject: Iterable[str] = ()) -> tuple[Refusal, ...]:
    """What the live VM itself says against a port, as its node has just read it. `eject` are the drives whose media the
    tenant leaves behind.
    """
    found = []
    vm = without_media(vm, eject)
    media = {line: disk.target for disk in vm.disks if disk.device in REMOVABLE for line in disk.medium_blockers}
    if vm.uuid != vm_uuid:
        found.append(
            Refusal(
                code="wrong_vm",
                rule="The node must describe the VM that it was asked about.",
                evidence=f"asked about {vm_uuid}, described {vm.uuid}",
            )
        )
    if vm.state is not VmState.RUNNING:
        found.append(_not_running(vm.name, vm.state))
    found += [
        Refusal(
            code="vm_blocked",
            rule="A VM moves live only if all of it can be moved: no part may be bound to its host.",
            evidence=f"{blocker}; it can stay behind: --eject {media[blocker]}" if blocker in media else blocker,
        )
        for blocker in vm.blockers
        if vm.state is VmState.RUNNING or not blocker.startswith(_NOT_RUNNING)
    ]
    return tuple(found)


def partner_refusals(policy: Policy, recipient: str | None) -> tuple[Refusal, ...]:
    """Whether the policy lets VMs leave to this recipient; none is known before a quote is chosen."""
    if recipient is None or policy.allows_recipient(recipient):
        return ()
    return (
        Refusal(
            code="partner_not_allowed",
            rule=f"VMs leave this provider only to its partners: {', '.join(policy.partners)}.",
            evidence=f"the recipient is {recipient}",
        ),
    )


def agreement_refusals(approved: Approved, agreement: ServiceChangeAgreement) -> tuple[Refusal, ...]:
    """Where an agreement is not what was approved; empty when it is."""
    expected: dict[str, tuple[object, object]] = {
        "port_id": (approved.port_id, agreement.port_id),
        "tenant": (approved.tenant, agreement.tenant),
        "vm_uuid": (approved.vm_uuid, agreement.vm_uuid),
        "vm_name": (approved.identity.vm.name, agreement.vm_name),
        "donor": (approved.provider, agreement.donor),
        "donor_node": (approved.identity.node, agreement.donor_node),
        "donor_lane": (approved.identity.lane, agreement.donor_lane),
        "domain_xml_sha256": (sha256(agreement.domain_xml.encode()).hexdigest(), agreement.domain_xml_sha256),
    }
    found = [
        f"{name}: approved {mine}, agreement says {theirs}"
        for name, (mine, theirs) in expected.items()
        if mine != theirs
    ]
    if agreement.recipient == approved.provider:
        found.append(f"recipient: {agreement.recipient} is the donor itself")
    found += _disk_differences(approved, agreement)
    try:
        found += guest_abi_differences(approved.identity.domain_xml, agreement.domain_xml)
    except DomainXmlError as error:
        found.append(str(error))
    return tuple(
        Refusal(
            code="agreement_differs",
            rule="The donor carries out only what it approved: same VM, tenant, node and guest ABI.",
            evidence=evidence,
        )
        for evidence in found
    )


def not_read(code: str, detail: str) -> Refusal:
    """The node has looked at the VM and could not read it; `code` is the node's."""
    return Refusal(code=code, rule="The VM's node must be able to read the live VM.", evidence=detail)


def not_described(node: str, within_s: float) -> Refusal:
    """The node did not answer in time."""
    return Refusal(
        code="node_unreachable",
        rule=f"The VM's node must describe the VM within {within_s:g} s.",
        evidence=f"node {node} did not answer in time",
    )


def not_approved(phase: Phase | None) -> Refusal:
    """What is asked for was never approved. ``phase`` is the port's here; None where it is unknown."""
    return Refusal(
        code="not_approved",
        rule="The donor carries out only what it approved.",
        evidence="approval was never requested for this port" if phase is None else f"the port is {phase.value} here",
    )


def _disk_differences(approved: Approved, agreement: ServiceChangeAgreement) -> list[str]:
    vm = without_media(approved.identity.vm, agreement.limits.eject)
    mine = {disk.target: (disk.virtual_size_bytes, disk.file_bytes) for disk in vm.disks if not disk.empty}
    theirs = {disk.target: (disk.virtual_size_bytes, disk.file_bytes) for disk in agreement.disks}
    found = (
        f"disks: approved {mine}, agreement says {theirs} (target: bytes of the disk, and of a read-only one's file)"
    )
    return [] if mine == theirs else [found]


def _ownership(policy: Policy, request: Request, vm: VmSummary) -> Iterator[Refusal]:
    owners = policy.owners(vm.uuid, vm.name)
    if request.tenant not in owners:
        yield Refusal(
            code="not_owner",
            rule="Only the owner of a VM may take it away.",
            evidence=f"by this provider's records VM {vm.uuid} is not owned by {request.tenant}",
        )
    elif len(owners) > 1:
        yield Refusal(
            code="owner_unclear",
            rule="A VM has one owner.",
            evidence=f"name patterns of {len(owners)} accounts match {vm.name!r}; the provider must name it by uuid",
        )


def _dues(policy: Policy, stated: DonorFacts, today: date) -> Iterator[Refusal]:
    for evidence in Dues(which=policy.dues_block).broken(stated, today):
        yield Refusal(code=Ground.DUES, rule=f"A VM leaves when no invoice is {policy.dues_block}.", evidence=evidence)


def _stay(stated: DonorFacts, today: date) -> Iterator[Refusal]:
    days = stated.minimum_stay_days
    for evidence in MinimumStay(days=days).broken(stated, today):
        yield Refusal(
            code=Ground.MINIMUM_STAY,
            rule=f"A VM stays at least {days} days from the start of its contract.",
            evidence=evidence,
        )


def _contract(stated: DonorFacts, today: date) -> Iterator[Refusal]:
    end = stated.contract_end
    if end is not None and today > end:
        yield Refusal(
            code=Ground.CONTRACT_ENDED,
            rule="A VM is ported while its contract runs; afterwards the provider has to settle it first.",
            evidence=f"the contract ended on {end}",
        )
    for evidence in ContractExit().broken(stated, today):
        yield Refusal(code=Ground.CONTRACT_RUNNING, rule="This contract has no exit before its end.", evidence=evidence)


def _holds(policy: Policy, stated: DonorFacts, today: date) -> Iterator[Refusal]:
    for evidence in LegalHold().broken(stated, today):
        yield Refusal(code=Ground.LEGAL_HOLD, rule="A VM under legal hold stays where it is.", evidence=evidence)
    for evidence in OwnerChange().broken(stated, today):
        yield Refusal(code=Ground.OWNER_CHANGE, rule="A VM does not leave while its owner changes.", evidence=evidence)
    for evidence in CoolOff(days=policy.identity_bar_days).broken(stated, today):
        yield Refusal(
            code=Ground.IDENTITY_CHANGED,
            rule=f"A VM does not leave in the {policy.identity_bar_days} days after its owner's identity was replaced.",
            evidence=evidence,
        )


def _distinct(*reasons: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reason for reason in reasons if reason is not None))[:MAX_STATED]


def _notice(policy: Policy, request: Request) -> Iterator[Refusal]:
    earliest = request.now + timedelta(days=policy.notice_days)
    if request.asked_start is not None and policy.notice_days and request.asked_start < earliest:
        yield Refusal(
            code=Ground.NOTICE,
            rule=f"A VM leaves at the earliest {policy.notice_days} days after the request.",
            evidence=f"asked for {request.asked_start.isoformat()}; the earliest is {earliest.isoformat()}",
        )


def _fields(policy: Policy, request: Request) -> Iterator[Refusal]:
    for name in policy.demands:
        if not request.told.get(name):
            yield Refusal(
                code=Ground.FIELD_MISSING,
                rule=f"The tenant tells {', '.join(policy.demands)} with its request.",
                evidence=f"{name}: not told; --tell {name}=VALUE",
            )


def _under_way(policy: Policy, request: Request) -> Iterator[Refusal]:
    if request.vm_under_way is not None:
        yield Refusal(
            code="port_under_way",
            rule="One VM is in one port at a time.",
            evidence=f"port {request.vm_under_way} of this VM is under way",
        )
    if request.ports_under_way >= policy.max_concurrent_ports:
        yield Refusal(
            code="too_many_ports",
            rule=f"At most {policy.max_concurrent_ports} ports leave this provider at once.",
            evidence=f"{request.ports_under_way} are under way",
        )


def _where_it_runs(located: Located, silent_after_s: float) -> Iterator[Refusal]:
    if located.silent_s > silent_after_s:
        yield Refusal(
            code="node_unreachable",
            rule=f"The VM's node must have been heard within {silent_after_s:g} s.",
            evidence=f"node {located.node} has been silent for {located.silent_s:.0f} s",
        )
    elif located.problems:
        yield Refusal(
            code="node_unhealthy",
            rule="The VM's node must be healthy.",
            evidence=f"node {located.node}: {'; '.join(located.problems)}",
        )
    if located.vm.state is not VmState.RUNNING:
        yield _not_running(located.vm.name, located.vm.state)


def _readable(vm: VmSummary) -> Iterator[Refusal]:
    if vm.problem:
        yield Refusal(
            code="vm_unreadable",
            rule="The VM's node must be able to read the VM.",
            evidence=f"{vm.name}: {vm.problem}",
        )


def _not_running(name: str, state: VmState) -> Refusal:
    return Refusal(
        code="vm_not_running",
        rule="Only a running VM is ported live.",
        evidence=f"{name} is {state.value.replace('_', ' ')}; start it and ask again",
    )
