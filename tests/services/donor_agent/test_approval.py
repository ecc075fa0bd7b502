"""Each rule of the donor's approval, alone and together."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.donor_agent.approval import (
    Approved,
    Located,
    Request,
    agreement_refusals,
    live_refusals,
    records_refusals,
    stated_facts,
)
from services.donor_agent.policy import Account, Invoice, OwnedVmRule, Policy
from services.donor_agent.testing import DESCRIPTION, NOW, PORT, SUMMARY, VM, XML, make_agreement, make_identity
from shared.messages.service_change import PortLimits
from shared.messages.vm import VmState


def account(**changes: Any) -> Account:
    """An account that may leave with its VM."""
    facts: dict[str, Any] = {"contract_start": date(2024, 1, 1), "vms": (OwnedVmRule(name="web-*"),)}
    return Account(**{**facts, **changes})


def policy(acme: Account | None = None, **changes: Any) -> Policy:
    """A policy with one account."""
    return Policy(accounts={"acme": acme or account()}, **changes)


def request(**changes: Any) -> Request:
    """A request against which nothing speaks."""
    facts: dict[str, Any] = {
        "tenant": "acme",
        "vm_uuid": VM,
        "now": NOW,
        "located": Located(SUMMARY, "alpha-1", 1.0),
        "node_silent_after_s": 30.0,
        "recipient": "beta",
    }
    return Request(**{**facts, **changes})


def overdue(days: int) -> Invoice:
    """An invoice whose due date is so many days ago."""
    return Invoice(invoice="17", amount=Decimal("9.90"), currency="EUR", due=NOW.date() - timedelta(days=days))


def located(**changes: Any) -> Located:
    """The VM, where it is."""
    return replace(Located(SUMMARY, "alpha-1", 1.0), **changes)


def codes(refusals: tuple[Any, ...]) -> list[str]:
    """The refusals' codes in order."""
    return [refusal.code for refusal in refusals]


def test_nothing_speaks_against_a_good_request() -> None:
    """A VM in order may leave."""
    assert records_refusals(policy(), request()) == ()


CASES: list[tuple[str, Policy, Request, str]] = [
    ("unknown_vm", policy(), request(located=None), str(VM)),
    ("not_owner", policy(), request(tenant="globex"), "globex"),
    ("not_owner", Policy(), request(), "acme"),
    (
        "owner_unclear",
        Policy(accounts={"acme": account(), "globex": account()}),
        request(),
        "web-1",
    ),
    ("dues_open", policy(account(dues=(overdue(1),))), request(), "9.90 EUR"),
    ("dues_open", policy(account(dues=(overdue(-5),)), dues_block="open"), request(), "17"),
    ("minimum_stay", policy(account(contract_start=date(2026, 2, 1))), request(), "2026-05-02"),
    ("minimum_stay", policy(account(minimum_stay_days=10**4)), request(), "2051"),
    (
        "minimum_stay",
        policy(account(vms=(OwnedVmRule(name="web-1", contract_start=date(2026, 2, 27)),))),
        request(),
        "2026-02-27",
    ),
    ("contract_ended", policy(account(contract_end=date(2026, 2, 28))), request(), "2026-02-28"),
    ("contract_running", policy(account(contract_end=date(2027, 1, 1), early_exit=False)), request(), "2027-01-01"),
    ("legal_hold", policy(account(legal_hold="court order 12")), request(), "court order 12"),
    (
        "legal_hold",
        policy(account(vms=(OwnedVmRule(uuid=VM, legal_hold="evidence"),))),
        request(),
        "evidence",
    ),
    ("owner_change_under_way", policy(account(owner_change="sale to globex")), request(), "sale to globex"),
    (
        "owner_change_under_way",
        policy(account(vms=(OwnedVmRule(uuid=VM, owner_change="gift"),))),
        request(),
        "gift",
    ),
    ("partner_not_allowed", policy(partners=("gamma",)), request(), "beta"),
    ("port_under_way", policy(), request(vm_under_way=PORT), str(PORT)),
    ("too_many_ports", policy(max_concurrent_ports=2), request(ports_under_way=2), "2"),
    ("too_many_ports", policy(max_concurrent_ports=0), request(), "0"),
    ("node_unreachable", policy(), request(located=located(silent_s=31.0)), "alpha-1"),
    ("node_unhealthy", policy(), request(located=located(problems=("libvirt is down",))), "libvirt is down"),
    (
        "vm_not_running",
        policy(),
        request(located=located(vm=SUMMARY.model_copy(update={"state": VmState.SHUT_OFF}))),
        "shut off",
    ),
]


@pytest.mark.parametrize(
    ("code", "rules", "asked", "evidence"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_each_rule_refuses_alone(code: str, rules: Policy, asked: Request, evidence: str) -> None:
    """One broken rule is one refusal, with its code and what was found."""
    refusals = records_refusals(rules, asked)

    assert codes(refusals) == [code]
    assert evidence in refusals[0].evidence
    assert refusals[0].rule


ALLOWED: list[tuple[Policy, Request]] = [
    (policy(account(dues=(overdue(0),))), request()),
    (policy(account(dues=(overdue(-5),))), request()),
    (policy(account(contract_start=NOW.date() - timedelta(days=90))), request()),
    (policy(account(contract_start=NOW.date(), minimum_stay_days=0)), request()),
    (policy(account(contract_end=NOW.date())), request()),
    (policy(partners=("gamma",)), request(recipient=None)),
    (policy(max_concurrent_ports=2), request(ports_under_way=1)),
    (policy(), request(located=located(silent_s=30.0))),
]


def test_a_vm_that_its_node_cannot_read_is_refused_with_the_reason() -> None:
    """Before the node is asked to describe it."""
    broken = SUMMARY.model_copy(update={"problem": "domain_xml: 1200000 bytes"})
    (refusal,) = records_refusals(policy(), request(located=located(vm=broken)))
    assert refusal.code == "vm_unreadable"
    assert "1200000 bytes" in refusal.evidence


@pytest.mark.parametrize(("rules", "asked"), ALLOWED)
def test_the_edge_of_each_rule_is_allowed(rules: Policy, asked: Request) -> None:
    """A limit that is just kept refuses nothing."""
    assert records_refusals(rules, asked) == ()


def test_all_findings_are_named_at_once() -> None:
    """The tenant can settle everything in one go."""
    bound = account(dues=(overdue(1), overdue(2)), legal_hold="a", owner_change="b", contract_start=NOW.date())

    found = codes(records_refusals(policy(bound), request(ports_under_way=9)))

    assert found == [
        "dues_open",
        "dues_open",
        "minimum_stay",
        "legal_hold",
        "owner_change_under_way",
        "too_many_ports",
    ]


def test_a_stranger_learns_nothing_about_the_owner() -> None:
    """Who does not own a VM hears that, and none of its dues or holds."""
    bound = account(dues=(overdue(1),), legal_hold="secret")

    refusals = records_refusals(policy(bound), request(tenant="globex"))

    assert codes(refusals) == ["not_owner"]
    assert "acme" not in refusals[0].evidence
    assert "secret" not in refusals[0].evidence


@given(days=st.integers(0, 36_500), age=st.integers(-400, 40_000))
def test_minimum_stay_is_exactly_a_count_of_days(days: int, age: int) -> None:
    """A VM may leave from day contract_start + minimum stay on, and not before."""
    try:
        start = NOW.date() - timedelta(days=age)
    except OverflowError:
        return

    refused = codes(records_refusals(policy(account(contract_start=start, minimum_stay_days=days)), request()))

    assert (refused == ["minimum_stay"]) == (age < days)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"state": VmState.PAUSED}, "vm_not_running"),
        ({"blockers": ("a host device (pci) is passed through",)}, "vm_blocked"),
        ({"uuid": uuid4()}, "wrong_vm"),
    ],
)
def test_the_live_vm_can_refuse(change: dict[str, Any], code: str) -> None:
    """What only the hypervisor knows is judged too."""
    assert live_refusals(DESCRIPTION, vm_uuid=VM) == ()
    assert codes(live_refusals(DESCRIPTION.model_copy(update=change), vm_uuid=VM)) == [code]


def test_each_blocker_is_a_refusal() -> None:
    """Nothing that keeps a VM here is left out."""
    blocked = DESCRIPTION.model_copy(update={"blockers": ("one", "two")})

    assert [refusal.evidence for refusal in live_refusals(blocked, vm_uuid=VM)] == ["one", "two"]


def test_that_a_vm_does_not_run_is_said_once() -> None:
    """Its node says it, too."""
    off = DESCRIPTION.model_copy(update={"state": VmState.SHUT_OFF, "blockers": ("not_running: the VM is off", "two")})

    assert codes(live_refusals(off, vm_uuid=VM)) == ["vm_not_running", "vm_blocked"]


def test_a_medium_that_cannot_leave_may_stay_behind() -> None:
    """The tenant is told how, and is not refused for what it leaves behind."""
    drive = DESCRIPTION.disks[0].model_copy(
        update={"target": "sda", "device": "cdrom", "read_only": True, "medium_blockers": ("sda is in the network",)}
    )
    blocked = DESCRIPTION.model_copy(
        update={"disks": (*DESCRIPTION.disks, drive), "blockers": ("sda is in the network", "two")}
    )

    assert [refusal.evidence for refusal in live_refusals(blocked, vm_uuid=VM)] == [
        "sda is in the network; it can stay behind: --eject sda",
        "two",
    ]
    assert [refusal.evidence for refusal in live_refusals(blocked, vm_uuid=VM, eject=("sda",))] == ["two"]


MEDIUM_BYTES = 700_000
APPROVED = Approved(PORT, "acme", VM, "alpha", make_identity())


def test_an_equal_agreement_is_carried_out() -> None:
    """Host-side parts of the XML may differ, nothing else."""
    assert agreement_refusals(APPROVED, make_agreement()) == ()


def test_a_medium_is_part_of_the_agreement_unless_it_stays_behind() -> None:
    """With the size of its file; an ejected one is no disk of the agreement."""
    agreed = make_agreement()
    vda = APPROVED.identity.vm.disks[0]
    medium = vda.model_copy(update={"target": "sda", "device": "cdrom", "read_only": True, "file_bytes": MEDIUM_BYTES})
    vm = APPROVED.identity.vm.model_copy(update={"disks": (vda, medium)})
    approved = replace(APPROVED, identity=APPROVED.identity.model_copy(update={"vm": vm}))
    there = agreed.disks[0].model_copy(update={"target": "sda", "read_only": True, "file_bytes": MEDIUM_BYTES})

    assert agreement_refusals(approved, agreed.model_copy(update={"disks": (*agreed.disks, there)})) == ()
    assert codes(agreement_refusals(approved, agreed)) == ["agreement_differs"]
    shorter = there.model_copy(update={"file_bytes": 1})
    assert agreement_refusals(approved, agreed.model_copy(update={"disks": (*agreed.disks, shorter)}))
    ejected = agreed.model_copy(update={"limits": PortLimits(eject=("sda",))})
    assert agreement_refusals(approved, ejected) == ()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"port_id": uuid4()}, "port_id"),
        ({"tenant": "globex"}, "tenant"),
        ({"vm_uuid": uuid4()}, "vm_uuid"),
        ({"vm_name": "other"}, "vm_name"),
        ({"donor": "gamma"}, "donor"),
        ({"donor_node": "alpha-2"}, "donor_node"),
        ({"recipient": "alpha"}, "itself"),
        ({"domain_xml_sha256": "0" * 64}, "domain_xml_sha256"),
        ({"disks": ()}, "disks"),
        ({"domain_xml": XML.replace("52:54:00:00:00:01", "52:54:00:00:00:02")}, "mac"),
        ({"domain_xml": XML.replace("pc-q35-10.0", "pc-q35-9.2")}, "machine"),
        ({"domain_xml": "<nonsense/>"}, "nonsense"),
    ],
)
def test_an_agreement_that_differs_is_refused(change: dict[str, Any], names: str) -> None:
    """Whatever was changed after the approval is named."""
    refusals = agreement_refusals(APPROVED, make_agreement(**change))

    assert set(codes(refusals)) == {"agreement_differs"}
    assert any(names in refusal.evidence for refusal in refusals)


class TestDemands:
    """What the provider demands beyond the records: notice, fields, and a pause after a new proof of identity."""

    @pytest.mark.parametrize(("before_s", "found"), [(1, ["notice_too_short"]), (0, []), (-1, [])])
    def test_notice(self, before_s: int, found: list[str]) -> None:
        """To the second; it is judged when the port is asked for, and not again when it starts."""
        start = NOW + timedelta(days=14, seconds=-before_s)
        rules = policy(notice_days=14)
        assert codes(records_refusals(rules, request(asked_start=start))) == found
        assert codes(records_refusals(rules, request())) == []

    def test_fields(self) -> None:
        """One refusal for each that is missing, which says how to tell it."""
        rules = policy(demands=("account_number", "zip_code"))
        [missing] = records_refusals(rules, request(told={"account_number": "4711"}))
        assert (missing.code, missing.evidence) == ("field_missing", "zip_code: not told; --tell zip_code=VALUE")

    @pytest.mark.parametrize(("days", "found"), [(6, ["identity_changed"]), (7, [])])
    def test_identity(self, days: int, found: list[str]) -> None:
        """Seven days are over on the seventh."""
        acme = account(identity_changed_on=NOW.date() - timedelta(days=days))
        assert codes(records_refusals(policy(acme, identity_bar_days=7), request())) == found


class TestVoid:
    """Refusals that a rule has voided."""

    def test_are_left_out_and_others_stay(self) -> None:
        """One field of two, the stay, and never what is technical."""
        rules = policy(
            account(contract_start=NOW.date(), legal_hold="court order"), demands=("zip_code", "mothers_name")
        )
        asked = request(
            void=frozenset({"minimum_stay", "field_missing:mothers_name", "vm_not_running"}),
            located=located(vm=SUMMARY.model_copy(update={"state": VmState.PAUSED})),
        )
        assert codes(records_refusals(rules, asked)) == ["legal_hold", "field_missing", "vm_not_running"]


class TestStatedFacts:
    """What the broker is told for the rules."""

    def test_are_what_the_policy_says(self) -> None:
        """Of the VM where it differs from the account."""
        entry = OwnedVmRule(name="web-*", contract_start=date(2026, 2, 1), legal_hold="court order")
        acme = account(vms=(entry,), dues=(overdue(3),), minimum_stay_days=30, owner_change="sale")
        stated = stated_facts(policy(acme, notice_days=14, demands=("zip_code",)), request())
        assert stated is not None
        assert (stated.contract_start, stated.minimum_stay_days, stated.notice_days) == (date(2026, 2, 1), 30, 14)
        assert (stated.legal_holds, stated.owner_changes, stated.demands) == (
            ("court order",),
            ("sale",),
            ("zip_code",),
        )
        assert [due.invoice for due in stated.dues] == ["17"]

    @pytest.mark.parametrize("changes", [{"tenant": "globex"}, {"located": None}])
    def test_of_a_stranger_s_vm_are_not_told(self, changes: dict[str, Any]) -> None:
        """Nor of one that is not here."""
        assert stated_facts(policy(), request(**changes)) is None
