"""Verification of requests: one case per refusal, and the order of the candidates."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from services.broker.rules import Facts, KnownVm, Limits, candidates, verify
from tests.support.broker_samples import NOW, VM, request

KNOWN = KnownVm(uuid=VM, name="web", provider="alpha", node="alpha-1", tenant="acme", epoch=3)
FACTS = Facts(vm=KNOWN, providers=frozenset({"alpha", "beta", "gamma"}))
LIMITS = Limits()


def codes(facts: Facts = FACTS, *, to: str = "beta", tenant: str = "acme", **limits: Any) -> list[str]:
    """The refusals' codes."""
    return [refusal.code for refusal in verify(request(to, **limits), tenant, facts, LIMITS, NOW)]


def test_good_request_passes() -> None:
    """A request that breaks no rule has no refusals."""
    assert codes() == []
    assert codes(to="best") == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"vm": None}, "vm_unknown"),
        ({"vm": replace(KNOWN, tenant="globex")}, "not_owner"),
        ({"vm": replace(KNOWN, provider="gamma")}, "wrong_donor"),
        ({"claimed_by": "gamma"}, "ownership_conflict"),
        ({"port_under_way": uuid4()}, "port_under_way"),
        ({"providers": frozenset({"alpha"})}, "recipient_unknown"),
        ({"active_ports_of_tenant": 50}, "too_many_ports"),
    ],
)
def test_facts_that_refuse(facts: dict[str, Any], expected: str) -> None:
    """Each rule about what the ledger knows has its own code."""
    assert codes(replace(FACTS, **facts)) == [expected]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"window_start": NOW - timedelta(minutes=5)}, "window_in_past"),
        ({"window_start": NOW + timedelta(days=91)}, "window_too_far"),
        ({"deadline": NOW + timedelta(seconds=29)}, "deadline_too_short"),
        (
            {"window_start": NOW + timedelta(hours=1), "deadline": NOW + timedelta(hours=1, seconds=5)},
            "deadline_too_short",
        ),
    ],
)
def test_times_that_refuse(limits: dict[str, Any], expected: str) -> None:
    """Each rule about times has its own code."""
    assert codes(**limits) == [expected]


def test_late_message_still_means_now() -> None:
    """A window that started just before the request arrived is not in the past."""
    assert codes(window_start=NOW - timedelta(seconds=30)) == []


def test_same_provider() -> None:
    """A VM is not ported to where it is."""
    assert codes(to="alpha") == ["same_provider"]


def test_nobody_to_ask() -> None:
    """Silent providers are not asked, and without any other there is nobody to ask."""
    assert codes(replace(FACTS, silent=frozenset({"beta", "gamma"})), to="best") == ["no_recipient"]
    assert codes(replace(FACTS, silent=frozenset({"beta"})), to="beta") == [], "who is named is asked all the same"


def test_unknown_recipient_names_the_known_ones() -> None:
    """The tenant sees which names would do."""
    (refusal,) = verify(request("delta"), "acme", FACTS, LIMITS, NOW)
    assert refusal.evidence == "unknown provider 'delta'; known: alpha, beta, gamma"


def test_all_broken_rules_are_named() -> None:
    """The tenant learns all at once."""
    facts = replace(FACTS, port_under_way=uuid4(), claimed_by="gamma")
    assert codes(facts, to="nowhere") == ["ownership_conflict", "port_under_way", "recipient_unknown"]


def test_strangers_learn_nothing() -> None:
    """A refusal to somebody else's VM names neither its owner, its name nor its provider."""
    (refusal,) = verify(request(), "globex", FACTS, LIMITS, NOW)
    assert not {"acme", "web", "alpha"} & set(refusal.evidence.replace(",", " ").split())


def test_dry_run_beside_a_port() -> None:
    """Asking for offers is allowed while the VM is being ported."""
    facts = replace(FACTS, port_under_way=uuid4())
    assert verify(request(dry_run=True), "acme", facts, LIMITS, NOW) == ()


def test_candidates() -> None:
    """The named one, or everybody else who is heard, by name."""
    assert candidates(request("gamma"), FACTS) == ("gamma",)
    assert candidates(request("best"), FACTS) == ("beta", "gamma")
    assert candidates(request("best"), replace(FACTS, silent=frozenset({"beta"}))) == ("gamma",)
