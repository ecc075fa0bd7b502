"""libvirt's hook at a real libvirt: what it refuses by whichever way a VM is started, and what it lets pass."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from deploy.labkit import hosts as labkit_hosts
from deploy.labkit.errors import CommandFailed
from deploy.labkit.hosts import START_HOOK
from deploy.labkit.processes import wait_until
from services.node_agent.hypervisor.start_hook import hook_problem, install, reload_libvirtd, unseen_problem
from services.node_agent.state.given_away import GivenAway, GivenAwayVm
from services.node_agent.state.guest_ends import ENDED, GuestEnds
from tests.support.transfer_pair import DOMAIN, make_agreement
from tests.support.two_hosts import TwoHosts, two_hosts

pytestmark = pytest.mark.lab

AGREEMENT = make_agreement(Path("/x.raw"), domain_xml=DOMAIN % "/a.raw")


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    """Two hosts, for this module."""
    with two_hosts("hook") as made:
        yield made


class Departed:
    """A VM that is defined and off at alpha, and has been given away."""

    def __init__(self, hosts: TwoHosts) -> None:
        self.hosts = hosts
        record, xml = hosts.guest(workload="idle", memory_mib=128)
        self.uuid = UUID(record.uuid)
        self.definition = hosts.folder / f"{record.uuid}.xml"
        self.definition.write_text(xml)
        self.virsh("define", str(self.definition))
        self.given_away = GivenAway(hosts.lab.plan.node_state_dir("alpha") / "given-away")
        agreement = AGREEMENT.model_copy(update={"vm_uuid": self.uuid})
        self.given_away.store(GivenAwayVm.by(agreement, since="2026-01-01T00:00:00+00:00", reason="x"))

    def virsh(self, *arguments: str) -> str:
        """At alpha."""
        return self.hosts.lab.virsh("alpha", *arguments)

    def refused(self) -> str:
        """Why it is not started."""
        with pytest.raises(CommandFailed) as failed:
            self.virsh("start", str(self.uuid))
        return str(failed.value)

    def starts(self) -> bool:
        """Whether it is started; it is off again then."""
        try:
            self.virsh("start", str(self.uuid))
        except CommandFailed:
            return False
        self.virsh("destroy", str(self.uuid))
        return True

    def kill_qemu(self) -> None:
        """Its process."""
        pid_file = self.hosts.lab.plan.host_run_dir("alpha") / "libvirt" / "qemu" / f"g{str(self.uuid)[:8]}.pid"
        os.kill(int(pid_file.read_text()), signal.SIGKILL)

    def why_it_ended(self) -> str:
        """What the hook has written down."""
        file = self.given_away.directory / f"{self.uuid}{ENDED}"
        wait_until(lambda: bool(file.read_text()), what="the hook", timeout_s=20)
        return file.read_text().strip()

    def state(self) -> str:
        """libvirt's word."""
        return self.virsh("domstate", str(self.uuid)).strip()


@pytest.fixture
def departed(hosts: TwoHosts) -> Iterator[Departed]:
    made = Departed(hosts)
    yield made
    made.given_away.take_back(made.uuid, AGREEMENT.port_id)
    hosts.remove(made.uuid)


def test_the_labs_hosts_have_the_hook(hosts: TwoHosts) -> None:
    """As the node agent looks for it."""
    plan = hosts.lab.plan
    for provider in plan.providers:
        hook = plan.host_dir(provider) / "etc-libvirt" / START_HOOK
        assert hook_problem(hook, plan.node_state_dir(provider) / "given-away") is None
        assert unseen_problem(hook, plan.host_run_dir(provider)) is None


def test_a_vm_that_left_is_not_started_by_hand(departed: Departed) -> None:
    """With the reason in libvirt's error; also not from a definition that somebody restored."""
    said = departed.refused()
    assert str(AGREEMENT.port_id) in said
    assert "provider beta" in said
    departed.virsh("undefine", str(departed.uuid))
    departed.virsh("define", str(departed.definition))
    assert "epoch 2" in departed.refused()
    with pytest.raises(CommandFailed, match="gave it away"):
        departed.virsh("create", str(departed.definition))
    assert departed.state() == "shut off"


def test_a_vm_that_left_is_not_started_with_its_host(departed: Departed) -> None:
    """Autostart is on, as after a restored configuration; libvirtd's log says why it did not happen."""
    departed.virsh("autostart", str(departed.uuid))
    departed.hosts.restart_libvirtd("alpha", as_at_boot=True)
    log, said = departed.hosts.lab.log_file("libvirtd-alpha"), f"Failed to autostart VM 'g{str(departed.uuid)[:8]}'"
    wait_until(lambda: said in log.read_text(), what="autostart", timeout_s=20)
    assert "gave it away" in log.read_text()
    assert departed.state() == "shut off"


def test_a_vm_that_is_back_is_started(departed: Departed) -> None:
    """While it arrives, and when the ledger gave it back; a libvirtd that restarts then leaves it running."""
    with departed.given_away.admitted(departed.uuid):
        departed.virsh("start", str(departed.uuid))
    departed.virsh("destroy", str(departed.uuid))
    departed.refused()
    departed.given_away.take_back(departed.uuid, AGREEMENT.port_id)
    departed.virsh("start", str(departed.uuid))
    assert departed.state() == "running"


def test_a_vm_that_runs_is_not_ended_by_the_fence(departed: Departed) -> None:
    """Its outcome is not known yet: a restart of libvirtd must find it as it was."""
    with departed.given_away.admitted(departed.uuid):
        departed.virsh("start", str(departed.uuid))
    departed.hosts.restart_libvirtd("alpha")
    assert departed.state() == "running"


def test_the_first_hook_is_known_after_a_reload(departed: Departed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A libvirtd that started without hooks does not see one that comes; a reload is enough."""
    plan = departed.hosts.lab.plan
    hook = plan.host_dir("alpha") / "etc-libvirt" / START_HOOK
    with monkeypatch.context() as without_hook:
        without_hook.setattr(labkit_hosts, "install", lambda *_: None)
        shutil.rmtree(hook.parent)
        departed.hosts.restart_libvirtd("alpha")
    assert departed.starts()
    time.sleep(3)  # a process's start is known to a second
    install(hook, departed.given_away.directory)
    assert "reload libvirtd" in (unseen_problem(hook, plan.host_run_dir("alpha")) or "")
    assert reload_libvirtd(hook, plan.host_run_dir("alpha")) == ("libvirtd",)
    assert unseen_problem(hook, plan.host_run_dir("alpha")) is None
    wait_until(lambda: not departed.starts(), what="the reload", timeout_s=20)


@pytest.mark.parametrize(
    ("end", "reason", "by_itself"),
    [
        (("destroy",), "destroyed", False),
        (("qemu-monitor-command", "--hmp", "quit"), "shutdown", True),
        ((), "crashed", True),
    ],
)
def test_libvirt_tells_why_a_guest_ended(
    departed: Departed,
    end: tuple[str, ...],
    reason: str,
    by_itself: bool,  # noqa: FBT001  # a row's value
) -> None:
    """libvirtd ended it, or it ended by itself: it was switched off, or its QEMU was killed."""
    departed.given_away.take_back(departed.uuid, AGREEMENT.port_id)
    ends, name = GuestEnds(departed.given_away.directory), str(departed.uuid)
    departed.virsh("start", name)
    ends.watch(departed.uuid)
    if end:
        departed.virsh(end[0], name, *end[1:])
    else:
        departed.kill_qemu()
    assert departed.why_it_ended() == reason
    assert ends.ended_by_itself(departed.uuid) is by_itself
    ends.forget(departed.uuid)


def test_what_ended_while_libvirtd_was_away_ended_by_itself(departed: Departed) -> None:
    """libvirtd finds no process when it is back, and tells the hook then."""
    departed.given_away.take_back(departed.uuid, AGREEMENT.port_id)
    ends = GuestEnds(departed.given_away.directory)
    departed.virsh("start", str(departed.uuid))
    ends.watch(departed.uuid)
    os.kill(departed.hosts.lab.process("libvirtd-alpha").pid, signal.SIGKILL)
    departed.kill_qemu()
    departed.hosts.restart_libvirtd("alpha")
    assert departed.why_it_ended() in {"crashed", "unknown"}
    assert ends.ended_by_itself(departed.uuid)
    ends.forget(departed.uuid)
