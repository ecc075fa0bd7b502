"""The hypervisor port: what the node agent needs of a host's virtualisation. Knows no library.

`libvirt_adapter` is the real one, `testing.FakeHypervisor` the fake; `tests/contract/test_hypervisor.py` holds both to
this text. Every call may raise `HypervisorError`; a VM that is not there raises `VmNotFound`, except from `state`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol
from uuid import UUID

from services.node_agent.hypervisor.secret_values import SecretSpec, SecretValue
from services.node_agent.hypervisor.seen_cards import SeenCards
from shared.domain import Domain, LayerFacts, SecretUse
from shared.errors import VmportError
from shared.messages.vm import (
    CpuFacts,
    HostCapacity,
    HostPlatform,
    HypervisorVersions,
    VmDescription,
    VmState,
    VmSummary,
)

MAX_PEEK_BYTES: Final = 1 << 20
"""Most guest memory that is read by one call: QEMU's main loop does nothing else meanwhile."""


class HypervisorError(VmportError):
    """The hypervisor refused or failed."""

    code = "hypervisor"

    def __init__(self, doing: str, reason: str) -> None:
        self.doing = doing
        self.reason = reason
        super().__init__(f"{doing}: {reason}")


class VmNotFound(HypervisorError):
    """The host has no such VM."""

    code = "vm_not_found"

    def __init__(self, uuid: UUID) -> None:
        self.uuid = uuid
        super().__init__("look up a VM", f"this host has no VM {uuid}")


class MigrationAborted(HypervisorError):
    """The migration was stopped because somebody asked for it."""

    code = "migration_aborted"


class SecretError(HypervisorError):
    """A secret cannot be read, made or handed over. It never says anything of a value."""

    code = "secret"


class ObstacleCode(StrEnum):
    """What may speak against moving a VM that its definition does not tell."""

    PAUSED = "paused"
    SNAPSHOTS = "snapshots"
    CHECKPOINTS = "checkpoints"
    MANAGED_SAVE = "managed_save"
    ACTIVE_JOB = "active_job"
    BLOCK_JOB = "block_job"
    DISK_ERROR = "disk_error"
    INTERNAL_SNAPSHOTS = "internal_snapshots"
    DIRTY_BITMAPS = "dirty_bitmaps"
    EXTERNAL_DATA_FILE = "external_data_file"
    DISK_ENCRYPTION = "disk_encryption"
    UNKNOWN_BACKING_FILE = "unknown_backing_file"
    NOT_MIGRATABLE = "not_migratable"
    SECRET = "secret"  # noqa: S105  # a code, no password
    NOT_ANSWERED = "not_answered"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing that speaks against moving a VM. `detail` says what it is, and what its owner or operator can do."""

    code: ObstacleCode
    detail: str

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


@dataclass(frozen=True, slots=True)
class LiveVm:
    """A VM as it runs now, with the XML that another host needs to run it (migratable, with its secrets)."""

    description: VmDescription
    domain_xml: str
    domain: Domain = field(repr=False, compare=False)
    """`domain_xml` as it was read; each step that needs more of it takes this, and reads no XML again."""
    files: tuple[str, ...] = ()
    """Paths on this host that hold the VM's state: its disks, and its firmware variables if it has any. What lies
    beneath its disks is not among them, nor are read-only disks: they are not the VM's own."""
    layers: Mapping[str, tuple[LayerFacts, ...]] = field(default_factory=dict)
    """By target, what lies beneath the disks that are overlays, top down."""
    state_folders: tuple[str, ...] = ()
    """Folders on this host with more of the VM's state: its TPM's."""
    lasting_xml: str | None = None
    """How it will be after its next start; None for a transient VM."""
    taps: Mapping[str, str] = field(default_factory=dict)
    """This host's devices of its network cards, by MAC. Migratable XML does not name those that libvirt has chosen."""


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """One outbound migration. `disks` are the targets to copy, with `overlays` only their top layers; URIs are local
    sockets."""

    vm_uuid: UUID
    driver_uri: str
    memory_uri: str
    disks_uri: str
    domain_xml: str
    disks: tuple[str, ...]
    overlays: bool = False
    switchover_bandwidth_bytes_per_s: int | None = None
    """Plan the switchover with this rate instead of a measured one, where `takes_switchover_bandwidth`."""
    auto_converge: bool = False
    post_copy_allowed: bool = False


@dataclass(frozen=True, slots=True)
class JobStats:
    """A migration's figures, memory and disk apart. Bytes, milliseconds, bytes per second."""

    elapsed_ms: int = 0
    memory_total_bytes: int = 0
    memory_processed_bytes: int = 0
    memory_remaining_bytes: int = 0
    dirty_rate_bytes_per_s: int = 0
    memory_iteration: int = 0
    disk_total_bytes: int = 0
    disk_processed_bytes: int = 0
    disk_remaining_bytes: int = 0
    downtime_ms: int | None = None
    """Measured when the job is over, expected while it runs."""


class Lifecycle(StrEnum):
    """What happened to a VM's vCPUs."""

    STARTED = "started"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    STOPPED = "stopped"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    """One event. `at_s` is this process's monotonic clock when the hypervisor's message arrived."""

    vm_uuid: UUID
    kind: Lifecycle
    at_s: float
    detail: str = ""
    by_operator: bool = False
    """Somebody asked for it; no migration did it."""


EventListener = Callable[[LifecycleEvent], None]


class SecretStore(Protocol):
    """The secrets that the host's daemon keeps: keys of encrypted disks and TPMs."""

    async def find(self, use: SecretUse) -> UUID:
        """Which secret a definition names. Raises `SecretError` where there is no such one."""
        ...

    async def read(self, uuid: UUID) -> SecretValue:
        """Its value. Raises `SecretError` also for a private one, which is told to nobody."""
        ...

    async def keep(self, spec: SecretSpec, value: SecretValue) -> None:
        """Make a secret that lasts. Raises `SecretError` where one of its UUID or of its usage is there."""
        ...

    async def discard(self, uuid: UUID, *, owner: UUID | None = None) -> None:
        """Remove a secret, and its value with it. With a port as `owner` only one that this port made.

        Nothing happens where there is none.
        """
        ...

    async def user_of(self, uuid: UUID) -> str | None:
        """The name of a VM of this host whose definition, live or lasting, names the secret; None where none does."""
        ...


class Hypervisor(Protocol):
    """One host's virtualisation."""

    @property
    def secrets(self) -> SecretStore:
        """The host's secrets."""
        ...

    async def connect(self) -> None:
        """Open the connection; other calls reopen it by themselves when it breaks."""
        ...

    async def close(self) -> None:
        """Release everything; idempotent."""
        ...

    def listen(self, listener: EventListener) -> Callable[[], None]:
        """Hear every lifecycle event, on the event loop; returns what ends it."""
        ...

    # ---- reading ----

    async def versions(self) -> HypervisorVersions:
        """QEMU's, the daemon's and the kernel's versions."""
        ...

    async def platform(self) -> HostPlatform:
        """What this host can run."""
        ...

    async def compare_cpu(self, cpu: CpuFacts, *, architecture: str, machine: str, accelerator: str) -> str | None:
        """Why a guest with this CPU, machine and accelerator would not run here; None where it would, unchanged.

        Raises `HypervisorError` also for a CPU that cannot be compared, such as a model that is not known here.
        """
        ...

    async def common_cpu(self, cpu: CpuFacts, *, architecture: str, machine: str, accelerator: str) -> CpuFacts | None:
        """The best CPU that runs here and has no feature that this one has not; None where there is none.

        Raises `HypervisorError` as `compare_cpu` does, and for CPUs of different vendors.
        """
        ...

    async def capacity(self) -> HostCapacity:
        """What this host has and what is free."""
        ...

    async def inventory(self) -> tuple[VmSummary, ...]:
        """All VMs, running or not; one that cannot be read has the reason as its `problem`.

        Waits for no guest's QEMU, so that a frozen one cannot hang it.
        """
        ...

    async def describe(self, uuid: UUID) -> LiveVm:
        """The VM as it runs now."""
        ...

    async def seen_cards(self, uuid: UUID) -> SeenCards:
        """What is known of the VM's network cards now, within 3 s. Who does not answer is a problem there."""
        ...

    async def obstacles(self, uuid: UUID) -> tuple[Obstacle, ...]:
        """What the hypervisor and the VM's images say against moving it, or against removing it afterwards; empty where
        nothing does. Moves nothing, and the guest notices nothing.

        A QEMU that does not answer in time, or a question that fails, is an obstacle and no error.
        """
        ...

    async def state(self, uuid: UUID) -> VmState | None:
        """Its run state; None where it does not exist."""
        ...

    async def is_left_behind(self, uuid: UUID) -> bool:
        """Whether it is paused for good: post-copy had begun here, and QEMU does not let it run again. False where it
        does not exist."""
        ...

    async def is_paused_after_start(self, uuid: UUID) -> bool:
        """Whether it is paused and has run here: an operator or an error has paused it, no migration holds it. False
        where it does not exist."""
        ...

    async def is_running(self, uuid: UUID) -> bool:
        """Whether it runs; waits while that cannot be known. Never raises `HypervisorError`."""
        ...

    async def files_in_use(self, *, besides: UUID | None = None) -> Mapping[str, str]:
        """Paths of all files and block devices that VMs of this host have as disks, beneath them or to boot from, and
        the name of a VM that has each; `besides` is a VM that does not count.

        All definitions, running or not. Paths have no symbolic links. Asks no guest's QEMU.
        """
        ...

    async def peek_memory(self, uuid: UUID, address: int, size: int) -> bytes:
        """Guest-physical memory of a running VM, at most MAX_PEEK_BYTES; the guest runs on and notices nothing.

        Ask for RAM only: elsewhere what comes means nothing, and a device might notice.
        """
        ...

    # ---- lasting definitions ----

    async def define(self, domain_xml: str) -> None:
        """Make a VM lasting, running or not."""
        ...

    async def undefine(self, uuid: UUID, *, keep_nvram: bool) -> None:
        """Remove the lasting definition, with what is recorded of snapshots, checkpoints and a saved state; a running
        guest goes on. Images keep their snapshots. `keep_nvram` also keeps a TPM's state."""
        ...

    async def set_autostart(self, uuid: UUID, *, enabled: bool) -> None:
        """Start the VM with the host, or not."""
        ...

    async def start(self, uuid: UUID) -> None:
        """Boot a VM that is defined and off; nothing happens where it is not off."""
        ...

    async def resume(self, uuid: UUID) -> None:
        """Let the vCPUs run; nothing happens where they do."""
        ...

    async def destroy(self, uuid: UUID) -> None:
        """End the guest at once; nothing happens where it does not run."""
        ...

    async def destroy_created(self, uuid: UUID, *, disks: tuple[str, ...]) -> None:
        """End a transient guest whose disks are these files. Nothing happens where no VM of this UUID has them.

        Raises `HypervisorError` where a lasting VM has them, or where it cannot be told.
        """
        ...

    # ---- migration ----

    async def migrate(self, plan: MigrationPlan) -> None:
        """Move the VM; returns when it runs at the other side and is gone here. Raises `MigrationAborted` after
        `abort_job`."""
        ...

    async def job(self, uuid: UUID) -> JobStats | None:
        """The running job's figures; None where none runs."""
        ...

    async def completed_job(self, uuid: UUID) -> JobStats | None:
        """The last finished job's figures; None where they are gone."""
        ...

    async def abort_job(self, uuid: UUID) -> None:
        """Stop the running job; nothing happens where none runs."""
        ...

    async def takes_switchover_bandwidth(self) -> bool:
        """Whether a plan's switchover bandwidth is followed."""
        ...

    async def set_max_downtime(self, uuid: UUID, milliseconds: int) -> None:
        """How long the guest may stand still at the switchover."""
        ...

    async def start_post_copy(self, uuid: UUID) -> None:
        """Switch a running migration to post-copy."""
        ...

    # ---- the fence ----

    async def freeze(self, uuid: UUID) -> bool:
        """Make it impossible that anybody, this host's daemon included, runs the vCPUs; False where the host cannot."""
        ...

    async def thaw(self, uuid: UUID) -> None:
        """Undo `freeze`; nothing happens where nothing is frozen."""
        ...

    async def kill_frozen(self, uuid: UUID) -> bool:
        """Kill the VM's process if it is frozen, and return when it is gone; False where there was nothing to kill.

        Waits for nobody: not for the host's daemon, which cannot talk to a frozen VM.
        """
        ...

    async def frozen(self) -> frozenset[UUID]:
        """The VMs of this host that are frozen, whoever froze them."""
        ...

    async def vcpu_time_ns(self, uuid: UUID) -> int | None:
        """CPU time that the vCPUs of the VM's process have used; None without such a process. Asks no daemon."""
        ...
