"""The lab's own RabbitMQ node in the hub, with its own epmd, and users from a definitions file.

Follows the recipe for a private node without an init system: nothing inherited, own HOME and cookie, epmd started
first and in the foreground, the package's program itself rather than the wrapper that changes user.
"""

import json
import os
import secrets
import socket
from pathlib import Path

from deploy.labkit import processes
from deploy.labkit.errors import CommandFailed, LabError
from deploy.labkit.node_network import NEUTRAL_PARTY
from deploy.labkit.plan import AMQP_PORT, HUB, TENANT_NAME, LabPlan
from deploy.labkit.state import LabState, ProcessRecord
from shared.parties import BROKER, Party, donor, node, recipient, tenant
from shared.topology import Credential, definitions

EPMD = "epmd"
RABBITMQ = "rabbitmq"
VHOST = "vmport"
_PACKAGE = Path("/usr/lib/rabbitmq/lib")
_CONF = """\
listeners.tcp.1 = 0.0.0.0:{port}
vm_memory_high_watermark.absolute = 400MB
disk_free_limit.absolute = 1GB
heartbeat = 10
# A dying connection may log message bodies, gigabytes of them.
log.file.level = critical
log.console = false
loopback_users = none
load_definitions = {definitions}
"""


def parties(plan: LabPlan) -> tuple[Party, ...]:
    """Everybody who speaks on the lab's bus."""
    agents = ((donor(name), recipient(name), node(name, plan.node(name))) for name in plan.providers)
    gateways = (node(NEUTRAL_PARTY, name) for name in plan.gateways)
    return (BROKER, tenant(TENANT_NAME), *(party for three in agents for party in three), *gateways)


def write_definitions(plan: LabPlan) -> dict[Party, str]:
    """Make the definitions file with a random password per party, kept from run to run; returns the passwords."""
    keys = plan.config_dir / "passwords.json"
    kept: dict[str, str] = json.loads(keys.read_text("utf-8")) if keys.exists() else {}
    passwords = {party: kept.get(str(party)) or secrets.token_urlsafe(24) for party in parties(plan)}
    users = {party: Credential(password, secrets.token_bytes(4)) for party, password in passwords.items()}
    write_secret(keys, json.dumps({str(party): password for party, password in passwords.items()}))
    write_secret(definitions_file(plan), json.dumps(definitions(users, vhost=VHOST), indent=1))
    return passwords


def write_secret(path: Path, text: str) -> None:
    """Write a file that only root can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def amqp_url(plan: LabPlan, party: Party, password: str) -> str:
    """Where and as whom a party logs in."""
    return f"amqp://{party}:{password}@{plan.wan_address(HUB)}:{AMQP_PORT}/{VHOST}"


def start_epmd(plan: LabPlan, state: LabState) -> ProcessRecord:
    """Erlang's port mapper of the hub."""
    recorded = state.processes.get(EPMD)
    if recorded is not None and processes.is_alive(recorded):
        return recorded
    argv = processes.enter(plan.namespace_path(HUB), None, ["epmd", "-address", "127.0.0.1"])
    return processes.spawn(argv, env=_environment(plan), log=plan.log_dir / "epmd.log")


def start_rabbitmq(plan: LabPlan, state: LabState) -> ProcessRecord:
    """The RabbitMQ node, booting; `wait_for_rabbitmq` waits for it. The definitions file must be in place."""
    recorded = state.processes.get(RABBITMQ)
    if recorded is not None and processes.is_alive(recorded):
        return recorded
    home = _home(plan)
    home.mkdir(parents=True, exist_ok=True)
    cookie = home / ".erlang.cookie"
    if not cookie.exists():
        cookie.touch(mode=0o600)
        cookie.write_text(secrets.token_hex(16), encoding="utf-8")
        cookie.chmod(0o400)
    conf = _CONF.format(port=AMQP_PORT, definitions=definitions_file(plan))
    (home / "rabbitmq.conf").write_text(conf, encoding="utf-8")
    (home / "advanced.config").write_text("[].\n", encoding="utf-8")
    (home / "enabled_plugins").write_text("[].\n", encoding="utf-8")
    (home / "env.conf").write_text("", encoding="utf-8")
    argv = processes.enter(plan.namespace_path(HUB), None, [_program("rabbitmq-server")])
    return processes.spawn(argv, env=_environment(plan), log=plan.log_dir / "rabbitmq.log")


def wait_for_rabbitmq(plan: LabPlan, node: ProcessRecord) -> None:
    """Wait until the node speaks AMQP. Raises `LabError` when it ended or takes too long."""

    def speaks() -> bool:
        if not processes.is_alive(node):
            raise LabError(f"RabbitMQ ended, see {plan.log_dir / 'rabbitmq.log'}")
        return _handshake(plan)

    processes.wait_until(speaks, what="RabbitMQ", timeout_s=60)


def queue_names(plan: LabPlan) -> list[str]:
    """Every queue of the node. Raises `CommandFailed` when it does not answer."""
    listed = ["--silent", "--vhost", VHOST, "list_queues", "name"]
    environment = [f"{name}={value}" for name, value in _environment(plan).items()]
    argv = ["env", "-i", *environment, _program("rabbitmqctl"), *listed]
    return processes.run(processes.enter(plan.namespace_path(HUB), None, argv)).split()


def definitions_file(plan: LabPlan) -> Path:
    """Users, rights, exchanges and queues; read by the node whenever it boots."""
    return plan.config_dir / "definitions.json"


def _handshake(plan: LabPlan) -> bool:
    with processes.socket_in(plan.namespace_path(HUB), socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        try:
            connection.connect(("127.0.0.1", AMQP_PORT))
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) == b"\x01"
        except OSError:
            return False


def _home(plan: LabPlan) -> Path:
    return plan.state_dir / "rabbitmq"


def _program(name: str) -> str:
    found = sorted(_PACKAGE.glob(f"rabbitmq_server-*/sbin/{name}"))
    if not found:
        raise CommandFailed([name], code=127, output="rabbitmq-server is not installed: run deploy/bootstrap")
    return str(found[-1])


def _environment(plan: LabPlan) -> dict[str, str]:
    home = _home(plan)
    return {
        "PATH": os.defpath + ":/usr/sbin:/sbin",
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "RABBITMQ_CONF_ENV_FILE": str(home / "env.conf"),
        "RABBITMQ_NODENAME": "vmport@localhost",
        "RABBITMQ_DIST_PORT": "25672",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(plan.log_dir / "rabbitmq"),
        "RABBITMQ_PID_FILE": str(home / "node.pid"),
        "RABBITMQ_FEATURE_FLAGS_FILE": str(home / "feature_flags"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
