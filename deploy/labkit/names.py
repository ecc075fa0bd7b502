"""The name servers of a routed lab: Knot as primary in the hub, a secondary at each provider, and the key for updates.

A VM's names are in the zone `vm.example`. Whoever has the key (TSIG) may change the zone at the primary, which notifies
the secondaries; those answer when the primary, or the other provider, is gone.
"""

import base64
import secrets
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.labkit import processes
from deploy.labkit.errors import LabError
from deploy.labkit.hosts import ENVIRONMENT
from deploy.labkit.plan import HUB, LabPlan
from deploy.labkit.rabbit import write_secret
from deploy.labkit.state import LabState, ProcessRecord

ZONE = "vm.example"
KEY_NAME = "vmport"
KEY_ALGORITHM = "hmac-sha256"
DNS_PORT = 53
TTL_S = 5


@dataclass(frozen=True)
class UpdateKey:
    """Who may update the zone; `secret` in base64."""

    name: str
    algorithm: str
    secret: str


def servers(plan: LabPlan) -> tuple[str, ...]:
    """Hosts with a name server, the primary first."""
    return (HUB, *plan.providers) if plan.routed else ()


def key_file(plan: LabPlan) -> Path:
    """The update key's secret in base64, alone in the file."""
    return plan.config_dir / "dns.key"


def update_key(plan: LabPlan) -> UpdateKey:
    """The key for updates, made once per lab."""
    file = key_file(plan)
    if not file.exists():
        write_secret(file, base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
    return UpdateKey(KEY_NAME, KEY_ALGORITHM, file.read_text("utf-8").strip())


def broker_section(plan: LabPlan) -> dict[str, Any]:
    """The section [dns] of the broker's settings, where the lab has name servers. Pure."""
    if not plan.routed:
        return {}
    place = {"server": plan.wan_address(HUB), "port": DNS_PORT, "zone": ZONE, "ttl_s": TTL_S}
    return {
        "dns": {**place, "key_name": KEY_NAME, "algorithm": KEY_ALGORITHM, "key_file": str(key_file(plan))},
    }


def folder(plan: LabPlan, host: str) -> Path:
    """Configuration, zone and journal of a host's name server."""
    return plan.state_dir / "dns" / host


def start(plan: LabPlan, state: LabState) -> Iterator[tuple[str, ProcessRecord]]:
    """Start what does not run; names and records of all."""
    key = update_key(plan)
    for host in servers(plan):
        name = f"knot-{host}"
        recorded = state.processes.get(name)
        if recorded is None or not processes.is_alive(recorded):
            here = folder(plan, host)
            here.mkdir(parents=True, exist_ok=True)
            zone = here / f"{ZONE}.zone"
            if host == HUB and not zone.exists():
                zone.write_text(zone_text(plan), encoding="utf-8")
            write_secret(here / "knot.conf", conf(plan, host, key, here))
            argv = processes.enter(plan.namespace_path(host), None, ["knotd", "-c", str(here / "knot.conf")])
            recorded = processes.spawn(argv, env=ENVIRONMENT, log=plan.log_dir / f"{name}.log")
        yield name, recorded


def conf(plan: LabPlan, host: str, key: UpdateKey, here: Path) -> str:
    """Knot's configuration. Pure."""
    secondaries = [other for other in servers(plan) if other != HUB]
    remotes = {HUB: plan.wan_address(HUB)} if host != HUB else {name: plan.wan_address(name) for name in secondaries}
    lines = [
        "server:",
        f'    rundir: "{here}"',
        # Also on loopback: the host's own resolver asks there.
        *(f"    listen: {address}@{DNS_PORT}" for address in ("127.0.0.1", plan.wan_address(host))),
        *("    udp-workers: 1", "    tcp-workers: 1", "    background-workers: 1"),
        "log:",
        *("  - target: stderr", "    any: info"),
        "database:",
        f'    storage: "{here}"',
        # A small map each: the default reserves half a gibibyte of address space.
        *("    journal-db-max-size: 32M", "    timer-db-max-size: 8M", "    kasp-db-max-size: 8M"),
        "key:",
        *(f"  - id: {key.name}", f"    algorithm: {key.algorithm}", f"    secret: {key.secret}"),
        "remote:",
    ]
    for name, address in remotes.items():
        lines += [f"  - id: {name}", f"    address: {address}@{DNS_PORT}", f"    key: {key.name}"]
    lines += ["acl:"]
    if host == HUB:
        lines += ["  - id: holder", f"    key: {key.name}", "    action: [update, transfer]"]
    else:
        lines += [
            "  - id: primary",
            f"    address: {plan.wan_address(HUB)}",
            f"    key: {key.name}",
            "    action: notify",
        ]
    lines += ["zone:", f"  - domain: {ZONE}", f'    storage: "{here}"', f"    file: {ZONE}.zone"]
    if host == HUB:
        lines += ["    acl: holder", f"    notify: [{', '.join(secondaries)}]"]
        lines += ["    zonefile-sync: -1", "    zonefile-load: difference", "    journal-content: all"]
    else:
        lines += [f"    master: {HUB}", "    acl: primary"]
    return "\n".join(lines) + "\n"


def zone_text(plan: LabPlan) -> str:
    """The zone before the first update. Pure."""
    lines = [f"$ORIGIN {ZONE}.", f"$TTL {TTL_S}", f"@ SOA ns-{HUB} hostmaster 1 5 2 604800 {TTL_S}"]
    for host in servers(plan):
        lines += [f"@ NS ns-{host}", f"ns-{host} A {plan.wan_address(host)}"]
    return "\n".join(lines) + "\n"


def wait_until_ready(plan: LabPlan, state: LabState) -> None:
    """Wait until every server answers for the zone. Raises `LabError` naming the first that ended or does not."""
    for host in servers(plan):
        name = f"knot-{host}"

        def ready(host: str = host, name: str = name) -> bool:
            if not processes.is_alive(state.processes[name]):
                shown = (plan.log_dir / f"{name}.log").read_text("utf-8", errors="replace")[-1500:]
                raise LabError(f"{name} ended; its log ends: {shown}")
            return answers(plan, host)

        processes.wait_until(ready, what=f"name server of {host}", timeout_s=30)


def answers(plan: LabPlan, host: str) -> bool:
    """Whether the host's name server has the zone."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in ZONE.split(".")) + b"\0"
    query = struct.pack("!HHHHHH", 1, 0, 1, 0, 0, 0) + question + struct.pack("!HH", 6, 1)  # SOA, class IN
    with processes.socket_in(plan.namespace_path(host), socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(1)
        try:
            connection.connect(("127.0.0.1", DNS_PORT))
            connection.send(query)
            reply = connection.recv(512)
        except OSError:
            return False
    flags, _, found = struct.unpack("!HHH", reply[2:8])
    return bool(flags & 0xF == 0 and found == 1)
