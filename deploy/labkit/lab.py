"""`Lab`: the lab as one object, with up, down, guests, exec and counters. The command and the tests use only this."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from deploy.labkit import (
    guests,
    hosts,
    names,
    network,
    processes,
    rabbit,
    routed_network,
    routing,
    services,
    small_disks,
)
from deploy.labkit.errors import LabError, NotRemoved
from deploy.labkit.lab_base import need_root
from deploy.labkit.lab_guests import LabGuests
from deploy.labkit.network import LinkBytes
from deploy.labkit.plan import DEFAULT_PROVIDERS, HUB, TENANT, LabPlan
from deploy.labkit.services import Health, Service
from deploy.labkit.state import LabState, ProcessRecord
from shared.messages.network import NetworkMode

_GRACE_S = 6.0


@dataclass(frozen=True)
class LabOptions:
    """What `up` is to make. None keeps what a running lab has.

    A new lab: unshaped, no delay, alpha and beta, their networks joined.
    """

    providers: tuple[str, ...] | None = None
    link: str | None = None
    rtt: str | None = None
    network: NetworkMode | None = None
    """How guests keep their addresses: `joined` makes one network, every other mode routed ones."""
    services: bool = True
    """Whether vmport's own processes are started, too."""
    small_disks: bool = False
    """Whether image folders and nodes' state folders get small file systems of their own (a new lab only)."""


class Lab(LabGuests):
    """One lab on this machine, running or not. Needs root. Not for use by two threads at once."""

    def up(self, options: LabOptions = LabOptions()) -> None:
        """Bring up everything that is not up. Raises `LabError`; what was made until then stays, for `down`."""
        need_root()
        with self._locked():
            self._take_options(options)
            network.ensure_namespaces(self.plan)
            self._save()
            if self.plan.routed:
                routed_network.ensure_sysctls(self.plan)
            network.ensure_wan(self.plan)
            if options.small_disks:
                small_disks.mount(self.plan)
            self._start_daemons()
            for host in self.plan.wan_hosts:
                self._record(f"forwarder-{host}", network.ensure_uplink(self.plan, self._state, host))
            self._ensure_guest_network()
            if any(guest.vlan is not None for guest in self._state.guests.values()):
                self._ensure_switches()
            for provider in self.plan.providers:
                hosts.wait_for_libvirtd(self.plan, provider, self._state.processes[f"libvirtd-{provider}"])
            rabbit.wait_for_rabbitmq(self.plan, self._state.processes[rabbit.RABBITMQ])
            routing.wait_until_ready(self.plan, self._state)
            names.wait_until_ready(self.plan, self._state)
            if options.services:
                self._start_services(services.services(self.plan))

    def down(self) -> None:
        """Remove everything of this lab, recorded or found, and verify it. Raises `NotRemoved`."""
        need_root()
        with self._locked():
            # Whoever comes later may start more (libvirtd, a QEMU), so look until nothing is found.
            for _ in range(5):
                found = self._own_processes()
                if not found:
                    break
                processes.end(found, grace_s=_GRACE_S)
            network.remove_namespaces(self.plan.namespace_prefix)
            small_disks.unmount(self.plan)
            for folder in (self.plan.run_dir, self.plan.state_dir):
                shutil.rmtree(folder, ignore_errors=True)
            left = self._remaining()
        if left:
            raise NotRemoved(self.plan.name, left)
        self._state = LabState()
        self.plan.lock_file.unlink(missing_ok=True)
        for folder in (self.plan.run_dir.parent, self.plan.state_dir.parent):
            with suppress(OSError):  # another lab's things are in it, or it is gone
                folder.rmdir()

    @property
    def is_up(self) -> bool:
        """Whether every recorded process runs."""
        records = self._state.processes.values()
        return bool(records) and all(processes.is_alive(record) for record in records)

    def status(self) -> dict[str, Any]:
        """What runs: processes with their health, and guests with their places. JSON-ready."""
        known = {service.name: service for service in services.services(self.plan)}
        shown = []
        for name, (record, alive) in self.processes().items():
            health = services.health(self.plan, known[name]) if alive and name in known else None
            shown.append(
                {
                    "name": name,
                    "pid": record.pid,
                    "state": "ended" if not alive else "running" if health is None or health.ready else "unready",
                    "detail": self._detail(name, alive=alive) if health is None or health.ready else health.detail,
                }
            )
        places = [
            {**asdict(record), "places": [{"provider": place.provider, "state": place.state} for place in found]}
            for record, found in (self.guest_list() if self.is_up else [])
        ]
        link = {"network": self._state.network, "link": self._state.link, "rtt_ms": self._state.rtt_ms}
        return {"lab": self.plan.name, **link, "processes": shown, "guests": places}

    def _detail(self, name: str, *, alive: bool) -> str:
        return routing.session_summary(self.plan) if alive and name == f"bird-{HUB}" else ""

    def exec_argv(self, host: str, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` in a host, in the caller's working directory."""
        self._need_host(host)
        stay = ["sh", "-c", 'cd "$0" && exec "$@"', str(Path.cwd()), *command]
        return hosts.enter(self.plan, self._state, host, stay)

    def exec_environment(self, host: str) -> dict[str, str]:
        """The environment for a command in a host; in `tenant` it lets `vmport` speak as the lab's tenant."""
        self._need_host(host)
        environment = {**os.environ, "VMPORT_LAB": self.plan.name, "PYTHONPATH": str(services.CHECKOUT)}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}"
        if host == TENANT:
            environment["VMPORT_CONFIG"] = str(services.config_file(self.plan, "tenant"))
        return environment

    def exec(self, host: str, command: Sequence[str], *, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command in a host and return its end, whatever its code. Raises `subprocess.TimeoutExpired`."""
        return subprocess.run(
            self.exec_argv(host, command),
            env=self.exec_environment(host),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def host_processes(self, host: str) -> dict[int, str]:
        """Every process in a host, by pid, with its command line."""
        self._need_host(host)
        inode = processes.namespace_inode(self.plan.namespace_path(host))
        found = processes.processes_in([] if inode is None else [inode])
        return {pid: processes.command_line(pid) for pid in found}

    def peak_memory_mib(self) -> dict[str, float]:
        """The most memory that RabbitMQ and each of vmport's processes had resident since they were started.

        Or since `forget_peak_memory`.
        """
        found = {name: processes.peak_memory_mib(pid) for name, pid in self._pids().items()}
        return {name: peak for name, peak in found.items() if peak is not None}

    def forget_peak_memory(self) -> None:
        """Have `peak_memory_mib` count from now on."""
        for pid in self._pids().values():
            processes.forget_peak_memory(pid)

    def _pids(self) -> dict[str, int]:
        """RabbitMQ's Erlang machine, and each of vmport's processes."""
        pids = {service.name: self.process(service.name).pid for service in services.services(self.plan)}
        nodes = [pid for pid, command in self.host_processes(HUB).items() if "beam.smp" in command.split(" ", 1)[0]]
        if nodes:
            pids[rabbit.RABBITMQ] = nodes[0]
        return pids

    def read_link_bytes(self, host: str) -> LinkBytes:
        """Bytes that crossed the host's uplink, by the link's own counters."""
        self._need_host(host)
        return network.read_link_bytes(self.plan, host)

    def virsh(self, provider: str, *arguments: str) -> str:
        """Run virsh against a provider's libvirtd. Raises `CommandFailed`."""
        self._need_host(provider)
        return hosts.virsh(self.plan, provider, *arguments)

    def service(self, name: str) -> Service:
        """One of vmport's processes, e.g. `broker` or `node-alpha`. Raises `LabError` for an unknown name."""
        known = {service.name: service for service in services.services(self.plan)}
        try:
            return known[name]
        except KeyError:
            raise LabError(f"lab {self.plan.name} has no service {name!r}; it has {', '.join(known)}") from None

    def start_service(self, name: str, overrides: Mapping[str, str] | None = None) -> ProcessRecord:
        """Start one of vmport's processes if it does not run, and wait until it is ready. Raises `LabError`.

        `overrides` are `VMPORT_…` variables on top of its settings, until it is started again.
        """
        service = self.service(name)
        with self._locked():
            self._start_services([service], {service.role: overrides or {}})
        return self.process(name)

    def start_services(self, overrides: Mapping[str, Mapping[str, str]]) -> None:
        """Start all of vmport's processes together, and wait until they are ready. Raises `LabError`.

        `overrides` are as those of `start_service`, for each role: broker, donor, recipient, node.
        """
        with self._locked():
            self._start_services(services.services(self.plan), overrides)

    def stop_service(self, name: str, *, kill: bool = False) -> None:
        """End one of vmport's processes by SIGTERM, or at once by SIGKILL; its record stays until the next start."""
        record = self.process(self.service(name).name)
        processes.end([record], grace_s=0.0 if kill else 30.0)

    def start_libvirtd(self, provider: str) -> None:
        """Start a provider's libvirtd if it does not run, and wait until it answers. Raises `LabError`."""
        with self._locked():
            daemon = hosts.start_libvirtd(self.plan, self._state, provider)
            self._record(f"libvirtd-{provider}", daemon)
        hosts.wait_for_libvirtd(self.plan, provider, daemon)

    def start_rabbitmq(self) -> None:
        """Start RabbitMQ if it does not run, and wait until it speaks AMQP. Raises `LabError`."""
        with self._locked():
            node = rabbit.start_rabbitmq(self.plan, self._state)
            self._record(rabbit.RABBITMQ, node)
        rabbit.wait_for_rabbitmq(self.plan, node)

    def queue_names(self) -> list[str]:
        """Every queue of the lab's RabbitMQ. Raises `CommandFailed`."""
        return rabbit.queue_names(self.plan)

    def health(self, name: str) -> Health:
        """What /readyz of one of vmport's processes says."""
        return services.health(self.plan, self.service(name))

    def metrics(self, name: str) -> str:
        """The text of /metrics of one of vmport's processes. Raises `OSError`."""
        return services.get(self.plan, self.service(name), "/metrics")[1]

    def log_file(self, name: str) -> Path:
        """The log of a process of the lab."""
        return services.log_file(self.plan, name)

    def policy_file(self, provider: str) -> Path:
        """The provider's donor policy; the lab rewrites it whenever a guest comes or goes."""
        return services.policy_file(self.plan, provider)

    def processes(self) -> dict[str, tuple[ProcessRecord, bool]]:
        """Every recorded process, and whether it runs."""
        return {name: (record, processes.is_alive(record)) for name, record in self._state.processes.items()}

    def _ensure_guest_network(self) -> None:
        """What lies behind the uplinks; in a routed lab with its daemons, not yet ready."""
        if not self.plan.routed:
            network.ensure_joined_network(self.plan)
            return
        routed_network.ensure(self.plan)
        for name, record in chain(routing.start(self.plan, self._state), names.start(self.plan, self._state)):
            self._record(name, record)

    def _take_options(self, options: LabOptions) -> None:
        try:
            if options.link is not None:
                self._state.link = network.parse_rate(options.link)
            if options.rtt is not None:
                self._state.rtt_ms = network.parse_rtt(options.rtt)
            wanted = options.providers or self._state.providers or DEFAULT_PROVIDERS
            if self._state.providers and wanted != self._state.providers:
                raise LabError(
                    f"lab {self.plan.name} has providers {', '.join(self._state.providers)}: take it down first"
                )
            mode = NetworkMode(self._state.network) if options.network is None else options.network
            if self._state.providers and mode != self._state.network:
                raise LabError(f"lab {self.plan.name} has network {self._state.network}: take it down first")
            self.plan = LabPlan(self.plan.name, wanted, mode)
        except ValueError as error:
            raise LabError(str(error)) from error
        self._state.providers = wanted
        self._state.network = mode

    def _start_daemons(self) -> None:
        """Start the slow ones, without waiting: RabbitMQ first, because it is the slowest."""
        passwords = rabbit.write_definitions(self.plan)
        services.write_settings(self.plan, passwords, accelerator=guests.accelerator(self.plan))
        if not all(self.policy_file(provider).exists() for provider in self.plan.providers):
            services.write_guest_lists(self.plan, self._state)
        self._record(rabbit.EPMD, rabbit.start_epmd(self.plan, self._state))
        self._record(rabbit.RABBITMQ, rabbit.start_rabbitmq(self.plan, self._state))
        for provider in self.plan.providers:
            self._record(hosts.holder_name(provider), hosts.ensure_holder(self.plan, self._state, provider))
            self._record(f"libvirtd-{provider}", hosts.start_libvirtd(self.plan, self._state, provider))

    def _start_services(
        self, wanted: Sequence[Service], overrides: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        running = {}
        for service in wanted:
            running[service] = services.start(self.plan, self._state, service, (overrides or {}).get(service.role))
            self._record(service.name, running[service])
        services.wait_until_ready(self.plan, running, timeout_s=60)

    def _own_processes(self) -> list[ProcessRecord]:
        recorded = {record.pid: record for record in self._state.processes.values() if processes.is_alive(record)}
        return list({**recorded, **processes.processes_in(self._namespace_inodes())}.values())

    def _namespace_inodes(self) -> set[int]:
        """The lab's network namespaces: by name, and by the recorded processes in case a name was removed.

        Recorded inode numbers would not do: the kernel gives a free one to the next namespace, which may be anybody's.
        """
        named = [Path("/run/netns") / name for name in network.namespaces_with(self.plan.namespace_prefix)]
        alive = [record for record in self._state.processes.values() if processes.is_alive(record)]
        held = [Path(f"/proc/{record.pid}/ns/net") for record in alive]
        # A process that was spawned a moment ago may still stand where this one does.
        outside = processes.namespace_inode(Path("/proc/self/ns/net"))
        found = {processes.namespace_inode(path) for path in (*named, *held)} - {outside}
        return {inode for inode in found if inode is not None}

    def _remaining(self) -> list[str]:
        left = [f"process {record.pid}" for record in self._own_processes()]
        left += [f"namespace {name}" for name in network.namespaces_with(self.plan.namespace_prefix)]
        left += [str(folder) for folder in (self.plan.run_dir, self.plan.state_dir) if folder.exists()]
        return left
