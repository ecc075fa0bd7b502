"""What libvirt's answers mean for a move, where no real libvirt can be brought to give them."""

from __future__ import annotations

from typing import Any

import pytest

libvirt = pytest.importorskip("libvirt")

from services.node_agent.hypervisor.interface import ObstacleCode  # noqa: E402  # needs the binding
from services.node_agent.hypervisor.obstacles import told_by_libvirt, told_by_qemu  # noqa: E402
from shared.domain import describe  # noqa: E402
from tests.support.transfer_pair import DOMAIN  # noqa: E402

# ruff: noqa: N802, ARG002 - the names and arguments are libvirt's

FACTS = describe(DOMAIN % "/x.raw")


class LibvirtError(libvirt.libvirtError):  # type: ignore[misc, name-defined]  # the binding has no types
    """An error as libvirtd gives it."""

    def __init__(self, code: int, message: str) -> None:
        self.err = (code, 10, message, 2, "", message, "", -1, -1)


class Moment:
    """A snapshot or a checkpoint."""

    def __init__(self, name: str) -> None:
        self.name = name

    def getName(self) -> str:
        """Its name."""
        return self.name


class Domain:
    """A domain that answers what a test says."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.migrations: list[tuple[dict[str, object], int]] = []

    def state(self) -> tuple[int, int]:
        """Running, mostly."""
        state: tuple[int, int] = self.answers.get("state", (libvirt.VIR_DOMAIN_RUNNING, 1))
        return state

    def listAllSnapshots(self, flags: int = 0) -> list[Moment]:
        """By their names."""
        return [Moment(name) for name in self.answers.get("internal" if flags else "snapshots", ())]

    def snapshotNum(self) -> int:
        """How many."""
        return len(self.answers.get("snapshots", ()))

    def listAllCheckpoints(self, flags: int = 0) -> list[Moment]:
        """By their names, or an error."""
        if error := self.answers.get("checkpoint_error"):
            raise LibvirtError(error, "no")
        return [Moment(name) for name in self.answers.get("checkpoints", ())]

    def hasManagedSaveImage(self, flags: int = 0) -> int:
        """Mostly not."""
        return int(self.answers.get("saved", False))

    def jobStats(self, flags: int = 0) -> dict[str, int]:
        """None, mostly."""
        job: dict[str, int] = self.answers.get("job", {})
        return job

    def blockJobInfo(self, disk: str, flags: int = 0) -> dict[str, int]:
        """None, mostly."""
        job: dict[str, int] = self.answers.get("block_job", {})
        return job

    def diskErrors(self, flags: int = 0) -> dict[str, int]:
        """None, mostly."""
        errors: dict[str, int] = self.answers.get("disk_errors", {})
        return errors

    def migrate3(self, connection: object, params: dict[str, object], flags: int) -> None:
        """Refused, always: the address is none."""
        self.migrations.append((params, flags))
        scheme = str(params[libvirt.VIR_MIGRATE_PARAM_URI]).partition(":")[0]
        by_default = (libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, f"unbekanntes Schema {scheme} in einem Migrations-URI")
        raise LibvirtError(*self.answers.get("refusal", by_default))


def asked_of_libvirt(**answers: Any) -> list[tuple[ObstacleCode, str]]:
    """What a domain that answers so has against moving."""
    return [(each.code, each.detail) for each in told_by_libvirt(Domain(**answers))]  # type: ignore[arg-type]  # as much as is used


def asked_of_qemu(domain: Domain) -> list[tuple[ObstacleCode, str]]:
    """And what its QEMU has."""
    found = told_by_qemu(None, domain, FACTS)  # type: ignore[arg-type]  # as much as is used
    return [(each.code, each.detail) for each in found]


def test_the_reason_of_a_pause_is_told() -> None:
    """An I/O error is another matter than an operator's pause."""
    ((code, detail),) = asked_of_libvirt(state=(libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR))
    assert code is ObstacleCode.PAUSED
    assert "I/O error" in detail
    ((_, unknown),) = asked_of_libvirt(state=(libvirt.VIR_DOMAIN_PAUSED, 999))
    assert "999" in unknown


def test_many_names_are_told_in_part() -> None:
    """A VM with hundreds of checkpoints has one short sentence."""
    names = [f"backup.{number}" for number in range(300)]
    found = dict(asked_of_libvirt(checkpoints=names, snapshots=["a", "b", "c"], internal=["a"], saved=True))
    assert list(found) == [ObstacleCode.SNAPSHOTS, ObstacleCode.CHECKPOINTS, ObstacleCode.MANAGED_SAVE]
    assert "backup.4 and 295 more" in found[ObstacleCode.CHECKPOINTS]
    assert "1 internal, 2 external" in found[ObstacleCode.SNAPSHOTS]


def test_a_libvirt_without_checkpoints_has_none() -> None:
    """What it does not know cannot be there; any other failure is one."""
    assert asked_of_libvirt(checkpoint_error=libvirt.VIR_ERR_NO_SUPPORT) == []
    with pytest.raises(libvirt.libvirtError):
        asked_of_libvirt(checkpoint_error=libvirt.VIR_ERR_INTERNAL_ERROR)


def test_nothing_speaks_against_a_migration_that_ends_at_its_address() -> None:
    """In whatever language libvirtd says so; the disks that are copied are judged with the VM."""
    domain = Domain()
    assert asked_of_qemu(domain) == []
    ((params, flags),) = domain.migrations
    assert params[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] == [disk.target for disk in FACTS.disks]
    assert flags == libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_NON_SHARED_DISK


@pytest.mark.parametrize(
    "refusal",
    [
        (libvirt.VIR_ERR_OPERATION_INVALID, "cannot migrate domain: The vmdk format does not support live migration"),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "something else"),
        (libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, "unsupported scheme unix in migration URI"),
    ],
)
def test_any_other_end_is_a_refusal_in_libvirts_words(refusal: tuple[int, str]) -> None:
    """QEMU's blocked reasons come so, too."""
    ((code, detail),) = asked_of_qemu(Domain(refusal=refusal))
    assert code is ObstacleCode.NOT_MIGRATABLE
    assert refusal[1] in detail


def test_a_job_is_named_alone() -> None:
    """libvirt would keep every other question waiting until it ends."""
    domain = Domain(
        job={"type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED, "operation": libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE},
        disk_errors={"vda": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE},
    )
    assert [code for code, _ in asked_of_qemu(domain)] == [ObstacleCode.ACTIVE_JOB]
    assert domain.migrations == []


def test_block_jobs_and_disk_errors_are_named_by_disk() -> None:
    """And libvirt is not asked to say the same once more."""
    domain = Domain(
        block_job={"type": libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT},
        disk_errors={"vda": libvirt.VIR_DOMAIN_DISK_ERROR_NO_SPACE},
    )
    (job, job_detail), (error, error_detail) = asked_of_qemu(domain)
    assert (job, error) == (ObstacleCode.BLOCK_JOB, ObstacleCode.DISK_ERROR)
    assert "active commit of disk vda" in job_detail
    assert "no space" in error_detail
    assert domain.migrations == []
