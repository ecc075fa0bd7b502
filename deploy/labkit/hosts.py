"""Provider hosts: a mount namespace of their own (held by a small process) and a libvirtd inside.

Owns the folders that stand for /etc/libvirt, /run and so on, libvirt's configuration, and virsh calls into a host.
"""

import uuid
from pathlib import Path

from deploy.labkit import processes
from deploy.labkit.errors import CommandFailed, LabError
from deploy.labkit.plan import LabPlan
from deploy.labkit.state import LabState, ProcessRecord
from services.node_agent.hypervisor.start_hook import install

# libvirtd's QEMU processes become orphans, and libvirt waits until their pid is gone: a host's first process reaps them
# at once, that of a container perhaps seconds later. tini stands for it here, and libvirtd ends with it.
REAPER = ("tini", "-s", "--", "setpriv", "--pdeathsig", "KILL")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}

START_HOOK = Path("hooks/qemu.d/vmport")
"""libvirt's hook that keeps VMs which left from being started, in a host's /etc/libvirt."""

_LIBVIRTD_CONF = """\
# Lab only: sockets stand inside folders of root's.
host_uuid = "{host_uuid}"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
"""
_QEMU_CONF = """\
# Lab only: no confinement, and every file belongs to root.
user = "root"
group = "root"
dynamic_ownership = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
swtpm_user = "root"
swtpm_group = "root"
"""
# sysfs shows the network devices of the namespace in which it was mounted, and libvirt reads it.
_HOLD = """\
set -e
mount -t sysfs sysfs /sys
mount --bind {boot_id} /proc/sys/kernel/random/boot_id
{binds}
exec sleep infinity
"""


def holder_name(provider: str) -> str:
    """Name of the process that holds the provider's mount namespace, in the lab's state."""
    return f"holder-{provider}"


def ensure_holder(plan: LabPlan, state: LabState, provider: str) -> ProcessRecord:
    """The process that keeps the provider's mount namespace open, its bind mounts made."""
    recorded = state.processes.get(holder_name(provider))
    if recorded is not None and processes.is_alive(recorded):
        return recorded
    binds = plan.binds(provider)
    for source, target in binds.items():
        source.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)  # swtpm's are made at its first start
    new_boot(plan, provider)
    # /run last: it covers the place where the other sources might be.
    mounts = "\n".join(f"mount --rbind {source} {target}" for source, target in binds.items())
    script = _HOLD.format(binds=mounts, boot_id=_boot_id_file(plan, provider))
    unshare = ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", script]
    log = plan.log_dir / f"{holder_name(provider)}.log"
    holder = processes.spawn(processes.enter(plan.namespace_path(provider), None, unshare), env=ENVIRONMENT, log=log)

    def mounted() -> bool:
        if not processes.is_alive(holder):
            raise LabError(f"host {provider} did not come up: {log.read_text('utf-8').strip()}")
        return Path(f"/proc/{holder.pid}/comm").read_text("utf-8").strip() == "sleep"

    processes.wait_until(mounted, what=f"mounts of {provider}", timeout_s=10)
    return holder


def new_boot(plan: LabPlan, provider: str) -> None:
    """From now on the host's kernel names another boot, as after a restart of a host that has a kernel of its own."""
    file = _boot_id_file(plan, provider)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{uuid.uuid4()}\n", encoding="utf-8")


def _boot_id_file(plan: LabPlan, provider: str) -> Path:
    return plan.host_dir(provider) / "boot-id"


def start_libvirtd(plan: LabPlan, state: LabState, provider: str) -> ProcessRecord:
    """libvirtd in the provider's host, in the foreground of the returned process; not yet ready."""
    recorded = state.processes.get(f"libvirtd-{provider}")
    if recorded is not None and processes.is_alive(recorded):
        return recorded
    config = plan.host_dir(provider) / "etc-libvirt"
    config.mkdir(parents=True, exist_ok=True)
    libvirtd_conf = config / "libvirtd.conf"
    if not libvirtd_conf.exists():
        libvirtd_conf.write_text(_LIBVIRTD_CONF.format(host_uuid=uuid.uuid4()), encoding="utf-8")
    (config / "qemu.conf").write_text(_QEMU_CONF, encoding="utf-8")
    # Before libvirtd starts: it looks for hooks then.
    install(config / START_HOOK, plan.node_state_dir(provider) / "given-away")
    for folder in ("images", "boot", "qemu/nvram", "swtpm"):
        (plan.host_dir(provider) / "var-lib-libvirt" / folder).mkdir(parents=True, exist_ok=True)
    (plan.host_dir(provider) / "var-log-libvirt" / "qemu").mkdir(parents=True, exist_ok=True)  # consoles' logs
    plan.libvirt_socket(provider).unlink(missing_ok=True)  # of a daemon that crashed
    return processes.spawn(
        enter(plan, state, provider, [*REAPER, "libvirtd"]),
        env=ENVIRONMENT,
        log=plan.log_dir / f"libvirtd-{provider}.log",
    )


def wait_for_libvirtd(plan: LabPlan, provider: str, daemon: ProcessRecord) -> None:
    """Wait until the provider's libvirtd answers. Raises `LabError` when it ended or takes too long."""
    log = plan.log_dir / f"libvirtd-{provider}.log"

    def listening() -> bool:
        if not processes.is_alive(daemon):
            raise LabError(f"libvirtd of {provider} ended, see {log}")
        return plan.libvirt_socket(provider).exists()

    processes.wait_until(listening, what=f"libvirtd of {provider}", timeout_s=30)
    try:
        virsh(plan, provider, "uri", timeout_s=30)
    except CommandFailed as error:
        raise LabError(f"libvirtd of {provider} does not answer, see {log}: {error}") from error


def virsh(plan: LabPlan, provider: str, *arguments: str, stdin: str | None = None, timeout_s: float = 60.0) -> str:
    """Run virsh against a provider's libvirtd and return what it printed. Raises `CommandFailed`."""
    argv = ["virsh", "-q", "-c", plan.libvirt_uri(provider), *arguments]
    return processes.run(argv, stdin=stdin, timeout_s=timeout_s)


def enter(plan: LabPlan, state: LabState, host: str, argv: list[str]) -> list[str]:
    """The command that runs `argv` in a host of the lab."""
    holder = state.processes.get(holder_name(host))
    return processes.enter(plan.namespace_path(host), holder, argv)
