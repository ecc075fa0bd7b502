"""Open vSwitch in provider hosts: a bridge whose guests' cards have VLAN tags, joined to the guests' network.

Its own daemon moves the frames (the datapath `netdev`): neither the kernel's module nor its VLANs are needed. One VLAN,
`LabPlan.vlan`, is the guests' network; any other one is a network of its own. Owns the two daemons and the ports of the
bridge; a guest's port is made by libvirt.
"""

from pathlib import Path

from deploy.labkit import hosts, processes
from deploy.labkit.errors import LabError
from deploy.labkit.plan import GUEST_BRIDGE, GUEST_SWITCH, LabPlan
from deploy.labkit.processes import run
from deploy.labkit.state import LabState, ProcessRecord

GATE = "vmgate0"
"""The port of the bridge that stands in the guests' network."""
TRUNK = "vmtrunk0"
"""The port that carries all VLANs, with their tags."""
DATABASE = "ovsdb-server"
DAEMON = "ovs-vswitchd"
_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
_SOCKETS = "/run/openvswitch"
"""In the host, whose /run is its own: where libvirt, too, looks for the database."""
_LOG_TO_STDERR = ("-vsyslog:off", "-vconsole:info")


def process_name(program: str, provider: str) -> str:
    """Name of one of the two programs' processes in the lab's state."""
    return f"{program}-{provider}"


def start_database(plan: LabPlan, state: LabState, provider: str) -> ProcessRecord:
    """The provider's configuration database, answering. Raises `LabError`."""
    if not _SCHEMA.exists():
        raise LabError("a VLAN needs Open vSwitch, which is not installed: run deploy/bootstrap")
    database = plan.host_dir(provider) / "openvswitch.db"
    if not database.exists():
        run(["ovsdb-tool", "create", str(database), str(_SCHEMA)])
    sockets = _sockets(plan, provider)
    sockets.mkdir(parents=True, exist_ok=True)
    argv = [DATABASE, str(database), f"--remote=punix:{_SOCKETS}/db.sock", *_LOG_TO_STDERR]
    return _start(plan, state, provider, argv, sockets / "db.sock")


def start_daemon(plan: LabPlan, state: LabState, provider: str) -> ProcessRecord:
    """The daemon that does what the database says. Raises `LabError`."""
    argv = [DAEMON, f"unix:{_SOCKETS}/db.sock", f"--unixctl={_SOCKETS}/vswitchd.ctl", *_LOG_TO_STDERR]
    return _start(plan, state, provider, argv, _sockets(plan, provider) / "vswitchd.ctl")


def ensure_ports(plan: LabPlan, state: LabState, provider: str) -> None:
    """The bridge, the port that joins its VLAN to the guests' network, and the one with all VLANs."""
    commands = (
        f"--may-exist add-br {GUEST_SWITCH} -- set Bridge {GUEST_SWITCH} datapath_type=netdev",
        f"--may-exist add-port {GUEST_SWITCH} {GATE} tag={plan.vlan(provider)} -- set Interface {GATE} type=internal",
        f"--may-exist add-port {GUEST_SWITCH} {TRUNK} -- set Interface {TRUNK} type=internal",
    )
    words = [word for command in commands for word in ("--", *command.split())]
    run(hosts.enter(plan, state, provider, ["ovs-vsctl", "--timeout=20", *words]))
    lines = (
        f"link set {GUEST_SWITCH} up",
        f"link set {GATE} master {GUEST_BRIDGE} up",
        f"link set {TRUNK} up",
    )
    run(["ip", "-n", plan.namespace(provider), "-batch", "-"], stdin="\n".join(lines) + "\n")


def _start(plan: LabPlan, state: LabState, provider: str, argv: list[str], socket_file: Path) -> ProcessRecord:
    name = process_name(argv[0], provider)
    recorded = state.processes.get(name)
    if recorded is not None and processes.is_alive(recorded):
        return recorded
    socket_file.unlink(missing_ok=True)  # of a daemon that crashed
    log = plan.log_dir / f"{name}.log"
    daemon = processes.spawn(hosts.enter(plan, state, provider, argv), env=hosts.ENVIRONMENT, log=log)

    def listens() -> bool:
        if not processes.is_alive(daemon):
            raise LabError(f"{argv[0]} of {provider} ended: {log.read_text('utf-8')[-1500:]}")
        return socket_file.is_socket()

    processes.wait_until(listens, what=f"{argv[0]} of {provider}", timeout_s=20)
    return daemon


def _sockets(plan: LabPlan, provider: str) -> Path:
    """Where /run/openvswitch of the host is for this process."""
    return plan.host_run_dir(provider) / "openvswitch"
