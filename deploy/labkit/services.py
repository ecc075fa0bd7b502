"""vmport's own processes in the lab: their settings files, starting and stopping them, and their health.

A settings file per process is rendered from the plan; the programs are those of this checkout's virtual environment.
"""

import http.client
import json
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from deploy.labkit import hosts, names, node_network, processes, rabbit
from deploy.labkit.errors import LabError
from deploy.labkit.node_network import NEUTRAL_PARTY
from deploy.labkit.plan import GUEST_BRIDGE, GUEST_SWITCH, HEALTH_PORTS, HUB, TENANT_NAME, LabPlan
from deploy.labkit.state import GuestRecord, LabState, ProcessRecord
from deploy.labkit.toml_text import to_toml
from shared.certificates import issue, make_authority
from shared.parties import BROKER, Party, donor, node, recipient, tenant

CHECKOUT = Path(__file__).resolve().parents[2]
"""The root of the checkout whose code the lab runs."""
DIRECT_PORT = 7070
"""Where each node takes direct lanes, on its WAN address."""

CONTRACT_START = date(2024, 1, 15)
"""Older than any minimum stay: guests of the lab may leave."""


@dataclass(frozen=True)
class Service:
    """One process of vmport: its name in the lab, its program, the host where it runs, and who it is on the bus."""

    name: str
    program: str
    host: str
    party: Party
    role: str

    @property
    def health_port(self) -> int:
        """TCP port of /metrics, /healthz and /readyz, on every address of the host."""
        return HEALTH_PORTS[self.role]


@dataclass(frozen=True)
class Health:
    """What a process says of itself: ready, or why not."""

    ready: bool
    detail: str


def services(plan: LabPlan) -> tuple[Service, ...]:
    """All processes of vmport, in the order of their start."""
    found = [Service("broker", "vmport-broker", HUB, BROKER, "broker")]
    for name in plan.providers:
        found += [
            Service(f"donor-{name}", "vmport-donor", name, donor(name), "donor"),
            Service(f"recipient-{name}", "vmport-recipient", name, recipient(name), "recipient"),
            Service(f"node-{name}", "vmport-node", name, node(name, plan.node(name)), "node"),
        ]
    for name in plan.gateways:
        found.append(Service(f"node-{name}", "vmport-node", name, node(NEUTRAL_PARTY, name), "gateway"))
    return tuple(found)


def config_file(plan: LabPlan, name: str) -> Path:
    """The settings file of a process, or of the tenant's command line (`tenant`)."""
    return plan.config_dir / f"{name}.toml"


def policy_file(plan: LabPlan, provider: str) -> Path:
    """The donor policy of a provider."""
    return plan.config_dir / f"policy-{provider}.toml"


def addresses_file(plan: LabPlan, provider: str) -> Path:
    """The provider's list of its guests' addresses."""
    return plan.config_dir / f"addresses-{provider}.toml"


def write_settings(plan: LabPlan, passwords: Mapping[Party, str], *, accelerator: str) -> None:
    """Render every process's settings file, and the tenant's."""
    plan.data_dir.mkdir(parents=True, exist_ok=True)
    write_certificates(plan)
    for service in services(plan):
        url = rabbit.amqp_url(plan, service.party, passwords[service.party])
        rabbit.write_secret(
            config_file(plan, service.name), to_toml(settings(plan, service, url, accelerator=accelerator))
        )
    me = tenant(TENANT_NAME)
    client = {"bus": {"url": rabbit.amqp_url(plan, me, passwords[me])}}
    rabbit.write_secret(config_file(plan, "tenant"), to_toml(client))


def settings(plan: LabPlan, service: Service, url: str, *, accelerator: str) -> dict[str, Any]:
    """A process's settings as a table. `accelerator` is what runs guests here: `kvm` or `qemu`. Pure."""
    common: dict[str, Any] = {
        "bus": {"url": url},
        "telemetry": {"host": "0.0.0.0", "port": service.health_port},  # noqa: S104 - all of the host's namespace
    }
    store = {"url": f"sqlite:///{plan.data_dir / service.name}.db"}
    match service.role:
        case "broker":
            sections = {**_BROKER, **node_network.broker_section(plan), **names.broker_section(plan)}
            return {**common, "store": store, **sections}
        case "donor":
            policy = str(policy_file(plan, service.host))
            return {**common, "store": store, "donor": {"policy_file": policy, **_DONOR}}
        case "recipient":
            return {**common, "store": store, **_recipient(plan, service.host)}
        case "gateway":
            return {**common, "node": {"role": "gateway", "state_dir": str(plan.node_state_dir(service.host))}}
        case _:
            return {**common, **_node(plan, service, accelerator)}


_DONOR = {"node_silent_after_s": 10.0, "report_every_s": 5.0, "quarantine_s": 3600.0}


_BROKER: dict[str, Any] = {"limits": {"provider_silent_s": 20.0}}


def _recipient(plan: LabPlan, provider: str) -> dict[str, Any]:
    # Later providers are cheaper, so that "best" has one answer.
    price = 20 - 2 * plan.providers.index(provider)
    return {
        "recipient": {"node_silent_after_s": 10.0, "report_every_s": 5.0},
        "places": {
            # Kernels and initrds of lab guests lie where every host sees them.
            "boot_dirs": [str(plan.cache_dir), str(plan.state_dir / "boot")],
            "console_log_dir": "/var/log/libvirt/qemu",
            "default_bridge": GUEST_BRIDGE,
        },
        "network_map": [_vlan_rule(plan, other, provider) for other in plan.providers if other != provider],
        "overcommit": {"memory_reserve_mib": 0, "disk_reserve_gib": 0, "vcpus": 16.0},
        "instance_types": [
            {"name": "small", "vcpus": 2, "memory_mib": 1024, "disk_gib": 20, "price_per_month": f"{price / 2:.2f}"},
            {"name": "large", "vcpus": 8, "memory_mib": 8192, "disk_gib": 80, "price_per_month": f"{price:.2f}"},
        ],
    }


def _vlan_rule(plan: LabPlan, theirs: str, ours: str) -> dict[str, Any]:
    tags = {"vlan": [plan.vlan(theirs)], "to_vlan": [plan.vlan(ours)]}
    return {"bridge": GUEST_SWITCH, "to_bridge": GUEST_SWITCH, "openvswitch": True, **tags}


def _node(plan: LabPlan, service: Service, accelerator: str) -> dict[str, Any]:
    return {
        "node": {
            "state_dir": str(plan.node_state_dir(service.host)),
            "bridges": [GUEST_BRIDGE, GUEST_SWITCH],
            "accelerators": ["kvm", "qemu"] if accelerator == "kvm" else ["qemu"],
            "heartbeat_s": 2.0,
            "caps_file": str(caps_file(plan, service.host)),
        },
        "network": node_network.section(plan, service.host, str(addresses_file(plan, service.host))),
        "direct": {
            "listen": f"{plan.wan_address(service.host)}:{DIRECT_PORT}",
            "advertise": [f"{plan.wan_address(service.host)}:{DIRECT_PORT}"],
        },
        "tls": {
            "certificate_file": str(node_certificate(plan, service.host)),
            "key_file": str(node_certificate(plan, service.host).with_suffix(".key")),
            "authority_file": str(authority_file(plan, service.host)),
            "known_authorities": {
                other: str(authority_file(plan, other)) for other in plan.providers if other != service.host
            },
        },
    }


def caps_file(plan: LabPlan, provider: str) -> Path:
    """Bandwidth caps of a provider's node, where somebody wrote some."""
    return plan.config_dir / f"caps-{provider}.toml"


def authority_file(plan: LabPlan, provider: str) -> Path:
    """The certificate of a provider's own authority."""
    return plan.config_dir / "tls" / f"authority-{provider}.crt"


def node_certificate(plan: LabPlan, provider: str) -> Path:
    """The certificate of a provider's node; its key lies beside it."""
    return plan.config_dir / "tls" / f"{plan.node(provider)}.crt"


def write_certificates(plan: LabPlan) -> None:
    """Give each provider an authority and its node a certificate, once per lab; an authority's key is not kept."""
    now = datetime.now(UTC)
    for provider in plan.providers:
        certificate_file = node_certificate(plan, provider)
        if certificate_file.exists():
            continue
        authority = make_authority(f"provider {provider}", now=now)
        pair = issue(str(node(provider, plan.node(provider))), authority, now=now)
        rabbit.write_secret(certificate_file.with_suffix(".key"), pair.key)
        rabbit.write_secret(authority_file(plan, provider), authority.certificate)
        rabbit.write_secret(certificate_file, pair.certificate)


def policy(owned: Iterable[GuestRecord]) -> dict[str, Any]:
    """A provider's policy: the tenant owns these guests, wherever they run, and may leave."""
    vms = [{"uuid": guest.uuid} for guest in owned]
    account: dict[str, Any] = {"contract_start": CONTRACT_START}
    return {"minimum_stay_days": 90, "accounts": {TENANT_NAME: {**account, **({"vms": vms} if vms else {})}}}


def write_guest_lists(plan: LabPlan, state: LabState) -> None:
    """Record in every provider's policy that the tenant owns the lab's guests, and list the addresses of its own."""
    text = to_toml(policy(state.guests.values()))
    for provider in plan.providers:
        _replace(policy_file(plan, provider), text)
        listed = node_network.addresses(plan, provider, state.guests.values())
        _replace(addresses_file(plan, provider), to_toml(listed))


def _replace(target: Path, text: str) -> None:
    draft = target.with_suffix(".new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(target)


def program(name: str) -> str:
    """A program of the virtual environment that runs this very code."""
    return str(Path(sys.executable).with_name(name))


def start(
    plan: LabPlan, state: LabState, service: Service, overrides: Mapping[str, str] | None = None
) -> ProcessRecord:
    """Start the process unless it runs. `overrides` are `VMPORT_…` variables on top of its settings."""
    recorded = state.processes.get(service.name)
    if recorded is not None and processes.is_alive(recorded):
        return recorded
    argv = [program(service.program), "--config", str(config_file(plan, service.name))]
    # The programs may be installed from another checkout: what runs is the code beside this lab.
    environment = {**hosts.ENVIRONMENT, "PYTHONPATH": str(CHECKOUT), **(overrides or {})}
    return processes.spawn(
        hosts.enter(plan, state, service.host, argv), env=environment, log=log_file(plan, service.name)
    )


def log_file(plan: LabPlan, name: str) -> Path:
    """Where a process of the lab writes."""
    return plan.log_dir / f"{name}.log"


def wait_until_ready(plan: LabPlan, running: Mapping[Service, ProcessRecord], *, timeout_s: float) -> None:
    """Wait until every process says that it is ready. Raises `LabError` naming the first that ended or is not."""
    waiting = dict(running)

    def ready() -> bool:
        for service, record in list(waiting.items()):
            if not processes.is_alive(record):
                shown = log_file(plan, service.name).read_text("utf-8", errors="replace")[-1500:]
                raise LabError(f"{service.name} ended; its log ends: {shown}")
            if health(plan, service).ready:
                del waiting[service]
        return not waiting

    try:
        processes.wait_until(ready, what="services", timeout_s=timeout_s)
    except LabError as error:
        if not waiting or not all(processes.is_alive(record) for record in waiting.values()):
            raise
        said = "; ".join(f"{service.name}: {health(plan, service).detail}" for service in waiting)
        raise LabError(f"not ready after {timeout_s:.0f} s: {said}") from error


def health(plan: LabPlan, service: Service) -> Health:
    """Ask a process's /readyz."""
    try:
        status, body = get(plan, service, "/readyz")
    except OSError as error:
        return Health(ready=False, detail=f"does not answer: {error}")
    try:
        detail = json.dumps(json.loads(body))
    except ValueError:
        detail = body.strip()
    return Health(ready=status == http.client.OK, detail=detail)


def get(plan: LabPlan, service: Service, path: str) -> tuple[int, str]:
    """HTTP GET on a process's telemetry port, e.g. `/metrics`: status and body. Raises `OSError`."""
    connection = http.client.HTTPConnection("127.0.0.1", service.health_port, timeout=3)
    connection.sock = processes.socket_in(plan.namespace_path(service.host), socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.sock.settimeout(3)
        connection.sock.connect(("127.0.0.1", service.health_port))
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", errors="replace")
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()
