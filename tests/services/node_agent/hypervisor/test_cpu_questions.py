"""Questions about a guest's CPU, as libvirt is asked and answers."""

from __future__ import annotations

from typing import Any, cast

import libvirt
import pytest

from services.node_agent.hypervisor.cpu_questions import Under, common, compare
from services.node_agent.hypervisor.libvirt_types import LibvirtConnection

UNDER = Under("x86_64", "pc-q35-10.0", "kvm")
WIDE, NARROW = "<cpu><model>EPYC</model></cpu>", "<cpu><model>qemu64</model></cpu>"
HOST = "<cpu><mode name='host-model' supported='%s'><model>Opteron_G5</model></mode></cpu>"


class Refused(libvirt.libvirtError):  # type: ignore[misc]  # libvirt-python has no types
    """An error with a code, as libvirtd sends it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.err = (code, 0, message, 2, "", "", "", 0, 0)


class Connection:
    """A host that runs `runs` only."""

    def __init__(
        self, runs: str = NARROW, *, supported: str = "yes", code: int = libvirt.VIR_ERR_CPU_INCOMPATIBLE
    ) -> None:
        self.runs = runs
        self.supported = supported
        self.code = code
        self.baselines: list[list[str]] = []

    def compareHypervisorCPU(self, _emulator: None, *words: str | int) -> int:  # noqa: N802  # libvirt's name
        """Fails for every other CPU, as the flag asks."""
        *under, cpu, flags = words
        assert under == ["x86_64", "pc-q35-10.0", "kvm"]
        assert flags == libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
        if cpu != self.runs:
            raise Refused(self.code, "no avx512f")
        return int(libvirt.VIR_CPU_COMPARE_SUPERSET)

    def getDomainCapabilities(self, *_: str | None) -> str:  # noqa: N802  # libvirt's name
        """Only of the CPU."""
        return f"<domainCapabilities>{HOST % self.supported}</domainCapabilities>"

    def baselineHypervisorCPU(self, _emulator: None, *words: Any) -> str:  # noqa: N802  # libvirt's name
        """Always the same."""
        *under, cpus, flags = words
        assert under == ["x86_64", "pc-q35-10.0", "kvm"]
        assert flags == libvirt.VIR_CONNECT_BASELINE_CPU_MIGRATABLE
        self.baselines.append(cpus)
        return NARROW


def ask(connection: Connection) -> LibvirtConnection:
    """For the questions."""
    return cast("LibvirtConnection", connection)


def test_a_cpu_runs_or_libvirt_says_why_not() -> None:
    """Any other error is one."""
    assert compare(ask(Connection()), NARROW, UNDER) is None
    assert compare(ask(Connection()), WIDE, UNDER) == "no avx512f"
    with pytest.raises(libvirt.libvirtError):
        compare(ask(Connection(code=libvirt.VIR_ERR_INTERNAL_ERROR)), WIDE, UNDER)


def test_what_both_have_is_asked_of_libvirt_and_must_run() -> None:
    """The given CPU and the host's own are compared; a baseline that does not run is none."""
    connection = Connection()
    found = common(ask(connection), WIDE, UNDER)
    assert found is not None
    assert found.model == "qemu64"
    ((asked, own),) = connection.baselines
    assert asked == WIDE
    assert "Opteron_G5" in own
    assert common(ask(Connection(runs="")), WIDE, UNDER) is None


def test_a_host_without_a_cpu_of_its_own_has_nothing_in_common() -> None:
    """libvirt is not asked then."""
    connection = Connection(supported="no")
    assert common(ask(connection), WIDE, UNDER) is None
    assert connection.baselines == []
