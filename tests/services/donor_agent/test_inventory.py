"""Where each VM runs, from heartbeats."""

from __future__ import annotations

from datetime import date, timedelta
from uuid import UUID, uuid4

from services.donor_agent.inventory import Inventory
from services.donor_agent.policy import Account, OwnedVmRule, Policy
from services.donor_agent.testing import NOW, SUMMARY, VM, make_heartbeat
from shared.messages.vm import VmState

POLICY = Policy(accounts={"acme": Account(contract_start=date(2024, 1, 1), vms=(OwnedVmRule(name="web-*"),))})
STOPPED = SUMMARY.model_copy(update={"state": VmState.SHUT_OFF})


def test_a_vm_is_where_its_node_says() -> None:
    """With how long ago the node was heard, by this agent's clock."""
    inventory = Inventory().heard("alpha-1", make_heartbeat(at=NOW + timedelta(days=3)), NOW)

    located = inventory.locate(VM, NOW + timedelta(seconds=5))

    assert located is not None
    assert (located.node, located.vm, located.silent_s, located.problems) == ("alpha-1", SUMMARY, 5.0, ())
    assert inventory.locate(uuid4(), NOW) is None


def test_where_it_runs_wins_then_who_was_heard_last() -> None:
    """A left-over definition on another node does not hide the running VM."""
    runs = make_heartbeat()
    stopped = make_heartbeat(vms=(STOPPED,))
    later = NOW + timedelta(seconds=9)

    both = Inventory().heard("alpha-1", runs, NOW).heard("alpha-2", stopped, later)
    moved = Inventory().heard("alpha-1", runs, NOW).heard("alpha-2", runs, later)

    assert [i.locate(VM, later).node for i in (both, moved)] == ["alpha-1", "alpha-2"]  # type: ignore[union-attr]  # it is there
    assert [[vm.node for vm in i.owned(POLICY)] for i in (both, moved)] == [["alpha-1"], ["alpha-2"]]


def test_an_older_heartbeat_is_no_news() -> None:
    """A message that comes late or twice does not turn time back."""
    later = NOW + timedelta(seconds=9)
    inventory = Inventory().heard("alpha-1", make_heartbeat(), NOW)

    late = make_heartbeat(at=NOW - timedelta(seconds=1), vms=())
    heard = inventory.heard("alpha-1", late, later).heard("alpha-1", late, later)

    assert (heard.nodes["alpha-1"].vms, heard.nodes["alpha-1"].heard_at) == ((SUMMARY,), NOW)


def test_a_clock_that_steps_back_silences_no_node() -> None:
    """A node whose clock was an hour ahead is heard again with its second heartbeat after it was put right."""
    inventory = Inventory().heard("alpha-1", make_heartbeat(at=NOW + timedelta(hours=1)), NOW)
    beats = [NOW + timedelta(seconds=30 * number) for number in (1, 2, 3)]
    for at in beats:
        inventory = inventory.heard("alpha-1", make_heartbeat(at=at, vms=(STOPPED,)), at)

        assert inventory.nodes["alpha-1"].heard_at == (NOW if at == beats[0] else at)
    assert inventory.nodes["alpha-1"].vms == (STOPPED,)


def test_an_unhealthy_node_has_a_problem_even_without_words() -> None:
    """Healthy means healthy."""
    silent = Inventory().heard("a", make_heartbeat(healthy=False), NOW)
    spoken = Inventory().heard("a", make_heartbeat(healthy=False, problems=("libvirt is down",)), NOW)

    assert silent.nodes["a"].problems
    assert spoken.nodes["a"].problems == ("libvirt is down",)


def test_a_vm_that_left_is_forgotten_at_once() -> None:
    """The next heartbeat is not waited for."""
    inventory = Inventory().heard("alpha-1", make_heartbeat(), NOW)

    assert inventory.forget("alpha-1", VM).locate(VM, NOW) is None
    assert inventory.forget("nobody", VM) == inventory


def test_only_vms_with_one_owner_are_reported() -> None:
    """A VM that nobody owns by the policy, or two accounts, is not offered to the broker."""
    stray = SUMMARY.model_copy(update={"uuid": UUID(int=1), "name": "stray"})
    inventory = Inventory().heard("alpha-1", make_heartbeat(vms=(SUMMARY, stray)), NOW)
    two = Policy(accounts={**POLICY.accounts, "globex": POLICY.accounts["acme"]})

    assert [(o.vm.uuid, o.tenant, o.node) for o in inventory.owned(POLICY)] == [(VM, "acme", "alpha-1")]
    assert inventory.owned(two) == ()
