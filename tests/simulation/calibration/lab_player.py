"""Takes the real libvirt and QEMU of a lab through a situation, and writes down what they showed."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import libvirt

from deploy.labkit.errors import LabError
from deploy.labkit.guest_domain import newest_machine
from deploy.labkit.lab import Lab
from deploy.labkit.processes import run, wait_until
from tests.chaos.site import Site
from tests.simulation.calibration.guest import IMAGE, IMAGE_BYTES, NAME, VM_UUID, boot_sector, domain_xml
from tests.simulation.calibration.links import ByteLink, DriverLink
from tests.simulation.calibration.situations import HOSTS, POWER_OFF, SITUATIONS, split
from tests.simulation.calibration.trace import NO_ANSWER, Moment, Trace
from tests.simulation.calibration.watch import HostWatch

RUN: Final = Path("/run/calibration")
"""In both hosts."""
QUIET_S: Final = 1.5
"""Nothing moves any more when nothing has for so long."""
SETTLES_WITHIN_S: Final = 60.0
STEP_WITHIN_S: Final = 60.0
BOOTS_WITHIN_S: Final = 120.0
HELD_S: Final = 35.0
"""Longer than libvirt's five keepalives at every fifth second."""
SHORT_WAIT_S: Final = 5.0
"""For a guest that ends itself after standing still for three seconds."""
POST_COPY_BYTES_PER_S: Final = 1 << 20
_ANSWERS: Final = {"kill_libvirtd": False, "start_libvirtd": True, "reboot": False, "boot": True}
"""Whether libvirtd answers after these."""
_BOOTED_NS: Final = 1_500_000_000
FLAGS: Final = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_NON_SHARED_DISK


class LabPlayer:
    """One situation in a lab; `play` once."""

    def __init__(self, lab: Lab, situation: str) -> None:
        self._lab = lab
        self._site = Site(lab)
        self._situation = situation
        self._ended: dict[str, str] = {}
        self._pending: set[str] = set()
        self._answers = dict.fromkeys(HOSTS, True)
        self._watches: dict[str, HostWatch] = {}
        self._links_made: tuple[DriverLink | ByteLink, ...] = ()

    def play(self) -> Trace:
        """Go through its steps."""
        try:
            self._prepare()
            moments = tuple(self._step(step) for step in SITUATIONS[self._situation])
            with_versions = libvirt.open(self._uri("alpha"))
            versions = (_version(with_versions.getLibVersion()), _version(with_versions.getVersion()))
            with_versions.close()
        finally:
            self._clear()
        return Trace(self._situation, moments, *versions)

    # ---- before and after

    def _prepare(self) -> None:
        for host in HOSTS:
            self._lab.start_libvirtd(host)
            self._in_host(host, RUN).mkdir()
            with self._in_host(host, Path(IMAGE)).open("wb") as image:
                if host == "alpha":
                    image.write(boot_sector(powers_off=self._situation.endswith(POWER_OFF)))
                image.truncate(IMAGE_BYTES)
            pid_dir = self._lab.plan.host_run_dir(host) / "libvirt" / "qemu"
            self._watches[host] = HostWatch(self._uri(host), pid_dir)
        alpha, beta = (self._in_host(host, RUN) for host in HOSTS)
        self._driver = DriverLink(alpha / "driver", self._lab.plan.libvirt_socket("beta"))
        self._pages_link = ByteLink(alpha / "memory", beta / "memory")
        self._disks = ByteLink(alpha / "disks", beta / "disks")
        self._links_made = (self._driver, self._pages_link, self._disks)
        self._disks.flows.set()
        machine = newest_machine(run(["qemu-system-x86_64", "-machine", "help"]))
        definition = alpha / "vm.xml"
        definition.write_text(domain_xml(machine))
        self._lab.virsh("alpha", "define", str(definition))
        self._lab.virsh("alpha", "start", NAME)
        fence = self._watches["alpha"].fence
        wait_until(lambda: (fence.vcpu_time_ns(VM_UUID) or 0) >= _BOOTED_NS, what="boot", timeout_s=BOOTS_WITHIN_S)
        self._settle()
        for watch in self._watches.values():
            watch.take_events()

    def _clear(self) -> None:
        for link in self._links_made:
            link.close()
        for host, watch in self._watches.items():
            if (pid := watch.qemu_pid()) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._lab.start_libvirtd(host)
            self._wait_until_off(host)
            if NAME in self._names(host, "--all"):
                self._lab.virsh(host, "undefine", NAME)
            watch.close()
            shutil.rmtree(self._in_host(host, RUN), ignore_errors=True)
            self._in_host(host, Path(IMAGE)).unlink(missing_ok=True)

    def _wait_until_off(self, host: str) -> None:
        try:
            wait_until(partial(self._is_off, host), what="end of the guest", timeout_s=SHORT_WAIT_S)
        except LabError:
            # One that has just been started finds out that the process is gone.
            self._site.kill_libvirtd(host)
            self._lab.start_libvirtd(host)
            wait_until(partial(self._is_off, host), what="end of the guest", timeout_s=STEP_WITHIN_S)

    def _names(self, host: str, *options: str) -> list[str]:
        return self._lab.virsh(host, "list", "--name", *options).split()

    def _is_off(self, host: str) -> bool:
        return NAME not in self._names(host)

    def _in_host(self, host: str, path: Path) -> Path:
        return self._lab.host_path(host, str(path))

    def _uri(self, host: str) -> str:
        return self._lab.plan.libvirt_uri(host)

    # ---- a step

    def _step(self, step: str) -> Moment:
        verb, host = split(step)
        getattr(self, f"_{verb}")(*([host] if host else []))
        if verb in _ANSWERS:
            watch, self._answers[host] = self._watches[host], _ANSWERS[verb]
            wait_until(
                lambda: (watch.said[0] != NO_ANSWER) is _ANSWERS[verb], what=f"{verb} {host}", timeout_s=STEP_WITHIN_S
            )
        self._settle()
        if verb in {"start_libvirtd", "boot"}:
            self._watches[host].take_events()
        places = {name: self._watches[name].place() for name in HOSTS}
        calls, self._ended = dict(sorted(self._ended.items())), {}
        return Moment(step, places, calls)

    def _settle(self) -> None:
        """Until nothing moves any more."""
        until_s = time.monotonic() + SETTLES_WITHIN_S
        seen, since_s = self._seen(), time.monotonic()
        while time.monotonic() < until_s and time.monotonic() - since_s < QUIET_S:
            time.sleep(0.02)
            if (now := self._seen()) != seen or not self._all_answer():
                seen, since_s = now, time.monotonic()

    def _all_answer(self) -> bool:
        """A libvirtd that has just come back may be busy with its VM for a while."""
        return all((self._watches[host].said[0] != NO_ANSWER) or not answers for host, answers in self._answers.items())

    def _seen(self) -> object:
        return [(watch.said, watch.event_count) for watch in self._watches.values()], set(self._pending)

    def _call(self, name: str, host: str, work: Callable[[libvirt.virDomain], object], *, within_s: float) -> None:
        """A call on a connection of its own; one that takes longer ends in a later step."""

        def call() -> None:
            try:
                connection = libvirt.open(self._uri(host))
                work(connection.lookupByUUID(VM_UUID.bytes))
                result = "ok"
            except libvirt.libvirtError as error:
                result = f"error {error.get_error_code()}"
            self._ended[name] = result
            self._pending.discard(name)

        self._pending.add(name)
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(within_s)

    # ---- the verbs of a migration

    def _start(self) -> None:
        params = {
            libvirt.VIR_MIGRATE_PARAM_URI: f"unix://{RUN}/memory",
            libvirt.VIR_MIGRATE_PARAM_DISKS_URI: f"unix://{RUN}/disks",
            libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS: ["vda"],
        }
        driver = f"qemu+unix:///system?socket={RUN}/driver"
        flags = FLAGS | (libvirt.VIR_MIGRATE_POSTCOPY if "post_copy" in SITUATIONS[self._situation] else 0)
        self._call("migrate", "alpha", lambda domain: domain.migrateToURI3(driver, params, flags), within_s=0.0)
        assert self._pages_link.waits.wait(STEP_WITHIN_S), f"no memory comes: {self._ended}"

    def _memory(self) -> None:
        self._pages_link.flows.set()
        assert self._driver.wait_for_finish(STEP_WITHIN_S), f"no Finish comes: {self._ended}"

    def _gate(self) -> None:
        self._driver.to_gate()

    def _pass(self) -> None:
        self._driver.pass_finish(cancelled=False, within_s=SHORT_WAIT_S)

    def _cancel(self) -> None:
        self._driver.pass_finish(cancelled=True, within_s=SHORT_WAIT_S)

    def _answer(self) -> None:
        self._driver.answer()

    def _runs_there(self) -> None:
        self._driver.runs_there()

    def _refuse(self) -> None:
        self._driver.refuse()

    def _abort(self) -> None:
        self._call("abort", "alpha", lambda domain: domain.abortJob(), within_s=SHORT_WAIT_S)

    def _post_copy(self) -> None:
        time.sleep(QUIET_S)
        self._call("post_copy", "alpha", lambda domain: domain.migrateStartPostCopy(), within_s=SHORT_WAIT_S)
        self._pages_link.bytes_per_s = POST_COPY_BYTES_PER_S
        self._pages_link.flows.set()
        assert self._driver.wait_for_finish(STEP_WITHIN_S), f"no Finish comes: {self._ended}"

    def _pages(self) -> None:
        self._pages_link.bytes_per_s = None
        time.sleep(QUIET_S)

    def _links(self) -> None:
        self._pages_link.close("alpha")
        self._pages_link.close("beta")

    def _wait(self) -> None:
        time.sleep(SHORT_WAIT_S if self._situation.endswith(POWER_OFF) else HELD_S)

    def _node_dies(self, host: str) -> None:
        for link in self._links_made:
            link.close(host)

    # ---- the verbs of a host

    def _freeze(self, host: str) -> None:
        assert self._watches[host].fence.freeze(VM_UUID)

    def _thaw(self, host: str) -> None:
        assert self._watches[host].fence.thaw(VM_UUID)

    def _kill_frozen(self, host: str) -> None:
        assert self._watches[host].fence.kill_frozen(VM_UUID)

    def _kill_libvirtd(self, host: str) -> None:
        self._site.kill_libvirtd(host)

    def _start_libvirtd(self, host: str) -> None:
        self._lab.start_libvirtd(host)

    def _kill_qemu(self, host: str) -> None:
        pid = self._watches[host].qemu_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def _destroy(self, host: str) -> None:
        self._call("destroy", host, lambda domain: domain.destroy(), within_s=STEP_WITHIN_S)

    def _suspend(self, host: str) -> None:
        self._call("suspend", host, lambda domain: domain.suspend(), within_s=SHORT_WAIT_S)

    def _resume(self, host: str) -> None:
        self._call("resume", host, lambda domain: domain.resume(), within_s=SHORT_WAIT_S)

    def _autostart(self, host: str) -> None:
        self._call("autostart", host, lambda domain: domain.setAutostart(1), within_s=SHORT_WAIT_S)

    def _reboot(self, host: str) -> None:
        self._node_dies(host)
        self._site.reboot(host)

    def _boot(self, host: str) -> None:
        self._lab.start_libvirtd(host)


def _version(number: int) -> str:
    """libvirt's numbers: 11003000 is 11.3.0."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
