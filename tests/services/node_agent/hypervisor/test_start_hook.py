"""libvirt's hook against starts: what it refuses, how it is installed, and what the agent says of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.node_agent.hypervisor.start_hook import (
    SOURCE,
    StartHook,
    hook_problem,
    hook_text,
    install,
    reload_libvirtd,
    unseen_problem,
)
from services.node_agent.metrics import NodeMetrics
from services.node_agent.state.given_away import GivenAway, GivenAwayVm
from services.node_agent.state.guest_ends import GuestEnds
from tests.support.transfer_pair import DOMAIN, VM, make_agreement

ROOT = Path(__file__).parents[4]
AGREEMENT = make_agreement(Path("/x.raw"), domain_xml=DOMAIN % "/a.raw")
XML = f"<domain type='kvm' id='7'>\n  <name>web</name>\n  <uuid>{VM}</uuid>\n  <memory/>\n</domain>\n"


class Hooked:
    """An installed hook, and the directory that it looks at."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = folder / "run"
        self.run_dir.mkdir()
        self.given_away = GivenAway(folder / "state dir" / "given-away")
        self.hook = folder / "hooks" / "qemu.d" / "vmport"
        install(self.hook, self.given_away.directory)

    def give_away(self) -> None:
        """The VM leaves."""
        self.given_away.store(GivenAwayVm.by(AGREEMENT, since="2026-01-01T00:00:00+00:00", reason="x"))

    def call(self, *arguments: str, xml: str = XML) -> subprocess.CompletedProcess[str]:
        """As libvirtd does."""
        command = [str(self.hook), "web", *arguments]
        return subprocess.run(command, input=xml, capture_output=True, text=True, check=False, env={}, timeout=10)


@pytest.fixture
def hooked(tmp_path: Path) -> Hooked:
    return Hooked(tmp_path)


@pytest.mark.parametrize("operation", ["prepare", "start"])
def test_a_vm_that_was_given_away_is_not_started(hooked: Hooked, operation: str) -> None:
    """The reason names the port, where the VM went and what an operator can do. Nothing is printed as XML."""
    hooked.give_away()
    refused = hooked.call(operation, "begin", "-")
    assert refused.returncode == 1
    assert refused.stdout == ""
    for fact in (
        str(AGREEMENT.port_id),
        "beta",
        "beta-1",
        "epoch 2",
        "2026-01-01",
        str(hooked.given_away.directory / str(VM)),
    ):
        assert fact in refused.stderr


@pytest.mark.parametrize("operation", ["reconnect", "migrate", "restore", "started", "stopped", "release"])
def test_nothing_else_is_refused(hooked: Hooked, operation: str) -> None:
    """A refused reconnect would make libvirtd kill a VM that runs; the others start nothing by themselves."""
    hooked.give_away()
    assert hooked.call(operation, "begin", "-").returncode == 0


def test_other_vms_are_started(hooked: Hooked) -> None:
    """Before any VM left there is not even a directory."""
    assert hooked.call("prepare", "begin", "-").returncode == 0
    hooked.give_away()
    other = XML.replace(str(VM), "22222222-2222-3333-4444-555555555501")
    assert hooked.call("prepare", "begin", "-", xml=other).returncode == 0


def test_a_vm_that_comes_back_by_a_port_is_let_in(hooked: Hooked) -> None:
    """Meanwhile only: if the port fails the VM is still elsewhere."""
    hooked.give_away()
    with hooked.given_away.admitted(VM):
        assert hooked.call("prepare", "begin", "-").returncode == 0
    assert hooked.call("prepare", "begin", "-").returncode == 1


def test_a_vm_that_was_given_back_is_started(hooked: Hooked) -> None:
    """By the ledger, or by its return."""
    hooked.give_away()
    hooked.given_away.take_back(VM, AGREEMENT.port_id)
    assert hooked.call("start", "begin", "-").returncode == 0


def test_a_damaged_file_refuses(hooked: Hooked) -> None:
    """What is known is that the VM left."""
    hooked.give_away()
    (hooked.given_away.directory / str(VM)).write_bytes(b"\xff\0=")
    refused = hooked.call("start", "begin", "-")
    assert refused.returncode == 1
    assert "port unknown" in refused.stderr


@pytest.mark.parametrize("xml", ["", "<domain/>\n", XML.replace(str(VM), "../../x")])
def test_a_vm_without_a_uuid_is_not_started(hooked: Hooked, xml: str) -> None:
    """Unknown is not "no"."""
    assert hooked.call("start", "begin", "-", xml=xml).returncode == 1


def test_why_an_arriving_guest_ended_is_written_down(hooked: Hooked) -> None:
    """One line for each end, also where the VM was given away before; of no other VM, and never a refusal."""
    ends, file = GuestEnds(hooked.given_away.directory), hooked.given_away.directory / f"{VM}.ended"
    hooked.give_away()
    assert hooked.call("release", "end", "crashed").returncode == 0
    assert not file.exists()
    ends.watch(VM)
    for reason in ("failed", "crashed"):
        assert hooked.call("release", "end", reason).returncode == 0
    assert file.read_text() == "failed\ncrashed\n"
    assert ends.ended_by_itself(VM)
    assert hooked.call("release", "end", "crashed", xml="<domain/>").returncode == 0
    assert hooked.call("stopped", "end", "-").returncode == 0
    assert file.read_text() == "failed\ncrashed\n"


def test_it_is_installed_once_and_then_kept_current(hooked: Hooked) -> None:
    """Executable; an update keeps the time since when libvirtd knows of it."""
    where = hooked.given_away.directory
    assert hook_problem(hooked.hook, where) is None
    os.utime(hooked.hook, (1000, 1000))
    hooked.hook.write_text("#!/bin/sh\n")
    os.utime(hooked.hook, (1000, 1000))
    assert "not the hook of this release" in (hook_problem(hooked.hook, where) or "")
    install(hooked.hook, where)
    assert hook_problem(hooked.hook, where) is None
    assert hooked.hook.stat().st_mtime == 1000
    hooked.hook.chmod(0o644)
    assert "not executable" in (hook_problem(hooked.hook, where) or "")
    hooked.hook.unlink()
    assert "not installed" in (hook_problem(hooked.hook, where) or "")


def test_a_path_that_no_shell_takes_is_refused() -> None:
    """Nothing of a setting becomes a command."""
    for path in ("relative", "/a'b", "/a\nb"):
        with pytest.raises(ValueError, match="absolute path"):
            hook_text(Path(path))


@pytest.fixture
def libvirtd(hooked: Hooked, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has the daemon's name and pid file, and that ends by SIGHUP."""
    program = tmp_path / "libvirtd"
    shutil.copy("/bin/sleep", program)
    # Where the tests run under nohup, SIGHUP would be ignored there, too.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    process = subprocess.Popen([program, "60"])
    signal.signal(signal.SIGHUP, before)
    (hooked.run_dir / "libvirtd.pid").write_text(f"{process.pid}\n")
    yield process
    process.kill()
    process.wait(timeout=10)


def test_a_libvirtd_that_started_before_the_hook_does_not_know_it(
    hooked: Hooked, libvirtd: subprocess.Popen[bytes]
) -> None:
    """By its pid file; a reload makes it look, and nothing is missing then."""
    os.utime(hooked.hook, (2_000_000_000, 2_000_000_000))
    assert "reload libvirtd" in (unseen_problem(hooked.hook, hooked.run_dir) or "")
    assert reload_libvirtd(hooked.hook, hooked.run_dir) == ("libvirtd",)
    assert libvirtd.wait(timeout=10) == -signal.SIGHUP
    assert hooked.hook.stat().st_mtime < 2_000_000_000


def test_a_hook_that_was_there_before_libvirtd_is_known(hooked: Hooked, libvirtd: subprocess.Popen[bytes]) -> None:
    """Nothing is to be done; the daemon is let be."""
    os.utime(hooked.hook, (1000, 1000))
    assert unseen_problem(hooked.hook, hooked.run_dir) is None
    assert libvirtd.poll() is None


def test_a_process_of_another_name_is_not_told_anything(hooked: Hooked) -> None:
    """A pid file of a daemon that is gone may name anybody; without one nothing is said."""
    os.utime(hooked.hook, (2_000_000_000, 2_000_000_000))
    assert unseen_problem(hooked.hook, hooked.run_dir) is None
    (hooked.run_dir / "libvirtd.pid").write_text(f"{os.getpid()}\n")
    assert unseen_problem(hooked.hook, hooked.run_dir) is None
    assert reload_libvirtd(hooked.hook, hooked.run_dir) == ()


@pytest.mark.parametrize("required", [False, True])
def test_a_missing_hook_is_counted_and_told_where_it_is_required(hooked: Hooked, *, required: bool) -> None:
    """A problem keeps the node out of ports, so it is one only where the operator wants that."""
    registry = CollectorRegistry()
    watched = StartHook(
        hooked.hook,
        hooked.given_away.directory,
        run_dir=hooked.run_dir,
        required=required,
        metrics=NodeMetrics(registry),
    )
    assert watched.problems() == ()
    assert registry.get_sample_value("vmport_node_start_hook") == 1
    hooked.hook.unlink()
    assert bool(watched.problems()) is required
    assert registry.get_sample_value("vmport_node_start_hook") == 0


def test_the_copy_for_operators_is_the_same() -> None:
    """deploy/libvirt/hooks/qemu, for hosts whose state directory is the default."""
    shipped = ROOT / "deploy/libvirt/hooks/qemu"
    assert shipped.read_text() == SOURCE.read_text()
    assert shipped.stat().st_mode & 0o111 == 0o111
