"""The lab of a chaos run, and the actions of which faults are made: kill, stop, cut, fill, reboot, and start again.

Starts services again as systemd would (`Restart=` with `RestartSec=2`). Which fault does what is in `faults`.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deploy.labkit import hosts, network, processes, rabbit, small_disks
from deploy.labkit.lab import Lab, LabOptions
from deploy.labkit.services import Service, services
from deploy.labkit.state import ProcessRecord
from shared.messages.network import NetworkMode

RESTART_S = 2.0
"""RestartSec of the units in deploy/systemd."""
REBOOT_S = 4.0
LINK = "60mbit"
"""Slow enough that disks and memory take seconds."""

_FAST = {"VMPORT_LOG__FORMAT": "json"}
_OVERRIDES: Mapping[str, Mapping[str, str]] = {
    "broker": _FAST,
    "gateway": _FAST,
    "donor": {**_FAST, "VMPORT_DONOR__REPORT_EVERY_S": "1"},
    "recipient": {**_FAST, "VMPORT_RECIPIENT__REPORT_EVERY_S": "1"},
    # Nothing of a guest is of use to the next one, and the state folder is small.
    "node": {
        **_FAST,
        "VMPORT_NODE__HEARTBEAT_S": "1",
        "VMPORT_NODE__PROGRESS_S": "0.2",
        "VMPORT_NODE__KEEP_CONTENTS_S": "0",
    },
}


@dataclass
class Site:
    """A lab with a donor and a recipient, and the processes that are stopped at the moment."""

    lab: Lab
    donor: str = "alpha"
    recipient: str = "beta"
    network: NetworkMode = NetworkMode.JOINED
    """How ports keep their guests' addresses."""
    held: dict[str, ProcessRecord] = field(default_factory=dict)

    # ---- the lab ----

    def up(self) -> None:
        """Bring everything up."""
        self.lab.up(LabOptions(link=LINK, services=False, small_disks=True, network=self.network))
        self.lab.start_services(_OVERRIDES)
        self.lab.guest_build()

    def start(self, name: str) -> None:
        """Start one of vmport's processes, if it does not run, and wait until it is ready."""
        self.lab.start_service(name, _OVERRIDES[self.lab.service(name).role])

    @property
    def is_joined(self) -> bool:
        """Whether the providers have one network."""
        return self.network is NetworkMode.JOINED

    @property
    def port_options(self) -> tuple[str, ...]:
        """What a tenant says of the network when asking for a port."""
        return () if self.is_joined else ("--network-mode", self.network.value)

    def agents_of(self, provider: str) -> list[Service]:
        """The provider's own processes of vmport."""
        return [service for service in services(self.lab.plan) if service.host == provider]

    # ---- processes ----

    def kill(self, name: str) -> None:
        """SIGKILL."""
        processes.send_signal(self.lab.process(name), signal.SIGKILL)

    def kill_libvirtd(self, provider: str) -> None:
        """SIGKILL libvirtd itself; its reaper ends with it, and QEMUs go on."""
        daemons = [pid for pid, command in self.lab.host_processes(provider).items() if command == "libvirtd"]
        for pid in daemons:
            os.kill(pid, signal.SIGKILL)
        reaper = self.lab.process(f"libvirtd-{provider}")
        processes.wait_until(lambda: not processes.is_alive(reaper), what="end of libvirtd", timeout_s=10)

    def hold(self, name: str) -> None:
        """SIGSTOP, until `release`."""
        record = self.lab.process(name)
        processes.send_signal(record, signal.SIGSTOP)
        self.held[name] = record

    def release(self, names: Iterable[str] | None = None) -> None:
        """SIGCONT what `hold` stopped: these, or all."""
        for name in list(self.held) if names is None else names:
            if name in self.held:
                processes.send_signal(self.held.pop(name), signal.SIGCONT)

    def qemus(self, vm_uuid: str) -> dict[str, list[int]]:
        """The guest's QEMU processes, by provider."""
        found: dict[str, list[int]] = {}
        for provider in (self.donor, self.recipient):
            listed = self.lab.host_processes(provider).items()
            found[provider] = [pid for pid, command in listed if "qemu-system" in command and vm_uuid in command]
        return found

    def reboot(self, provider: str) -> None:
        """All processes of the host end at once and /run is empty; it stays down until `boot`."""
        holder = self.lab.process(f"holder-{provider}").pid
        for pid in self.lab.host_processes(provider):
            if pid != holder:
                os.kill(pid, signal.SIGKILL)
        processes.wait_until(
            lambda: set(self.lab.host_processes(provider)) <= {holder}, what=f"end of {provider}", timeout_s=10
        )
        for entry in self.lab.plan.host_run_dir(provider).iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        hosts.new_boot(self.lab.plan, provider)

    def boot(self, provider: str) -> None:
        """libvirtd starts (with its autostart), then the provider's agents."""
        self.lab.start_libvirtd(provider)
        for service in self.agents_of(provider):
            self.start(service.name)

    def stop_rabbitmq(self) -> None:
        """End RabbitMQ in order, as a restart does."""
        processes.end([self.lab.process(rabbit.RABBITMQ)], grace_s=30)

    # ---- links and disks ----

    def cut(self, provider: str) -> None:
        """Everything that the host sends and gets is lost."""
        network.cut_uplink(self.lab.plan, provider)

    def join(self, provider: str) -> None:
        """Undo `cut`."""
        network.join_uplink(self.lab.plan, provider)

    def images(self, provider: str) -> Path:
        """The provider's image folder."""
        return small_disks.image_folder(self.lab.plan, provider)

    def state(self, provider: str) -> Path:
        """The state folder of the provider's node agent."""
        return small_disks.state_folder(self.lab.plan, provider)

    def pause(self, seconds: float) -> None:
        """Let a fault last."""
        time.sleep(seconds)
