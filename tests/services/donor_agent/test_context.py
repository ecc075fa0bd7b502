"""What the donor agent's handlers know at a moment."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

from prometheus_client import CollectorRegistry

from services.donor_agent.context import DonorContext
from services.donor_agent.metrics import DonorMetrics
from services.donor_agent.policy_file import PolicyFile
from services.donor_agent.settings import DonorSection, NetworkSection
from services.donor_agent.testing import NOW, SUMMARY, VM, make_heartbeat
from shared.messages.vm import VmState
from tests.support.donor_world import POLICY, World

CONCURRENT = "max_concurrent_ports = 2"


def make_context(folder: Path) -> tuple[DonorContext, list[str], Path]:
    """Over a policy file; and what it said when the policy changed."""
    path, changes = folder / "policy.toml", list[str]()
    path.write_text(POLICY)
    settings, metrics = DonorSection(policy_file=path), DonorMetrics(CollectorRegistry())
    context = DonorContext(
        PolicyFile.open(path),
        settings,
        metrics,
        network=NetworkSection(),
        on_policy_change=lambda: changes.append("changed"),
    )
    return context, changes, path


def test_a_policy_that_was_written_a_moment_ago_holds(tmp_path: Path) -> None:
    """The file is read before each judgement, and a change is told once."""
    context, changes, path = make_context(tmp_path)
    assert (context.read_policy().max_concurrent_ports, changes) == (2, [])
    path.write_text(POLICY.replace(CONCURRENT, f"{CONCURRENT}00"))
    assert [context.read_policy().max_concurrent_ports for _ in range(2)] == [200, 200]
    assert changes == ["changed"]
    assert context.policy.max_concurrent_ports == 200


def test_a_vm_runs_where_a_node_says_so(tmp_path: Path) -> None:
    """A VM that is paused, or that no node lists, does not run here."""
    context, _, _ = make_context(tmp_path)
    assert not context.runs(VM, NOW)
    context.inventory = context.inventory.heard("alpha-1", make_heartbeat(), NOW)
    assert context.runs(VM, NOW)
    paused = SUMMARY.model_copy(update={"state": VmState.PAUSED})
    context.inventory = context.inventory.heard("alpha-1", make_heartbeat(vms=(paused,)), NOW)
    assert not context.runs(VM, NOW)
    assert not context.runs(uuid4(), NOW)


async def test_a_request_holds_what_is_known(running: World) -> None:
    """Where the VM is, and which other ports are under way; not the port itself."""
    await running.to_moving()
    context = running.service._context
    async with running.store.transaction() as tx:
        other = await context.request(tx, UUID(int=8), tenant="acme", vm_uuid=VM, recipient=None)
        itself = await context.request(tx, UUID(int=7), tenant="acme", vm_uuid=VM, recipient="beta")
    assert (other.ports_under_way, other.vm_under_way) == (1, UUID(int=7))
    assert (itself.ports_under_way, itself.vm_under_way, itself.recipient) == (0, None, "beta")
    assert itself.located is not None
    assert itself.located.node == "alpha-1"
