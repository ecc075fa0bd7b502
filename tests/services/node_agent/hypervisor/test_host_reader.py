"""Reading a host: libvirt is asked once per version, what an operator changes is read each time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

import libvirt
import structlog

from services.node_agent.hypervisor.host_reader import HostReader
from services.node_agent.hypervisor.libvirt_types import LibvirtConnection
from tests.services.node_agent.hypervisor.test_firmware_descriptors import descriptor

CAPABILITIES = """<capabilities><host><cpu><arch>x86_64</arch><model>EPYC</model></cpu></host>
<guest><arch name='x86_64'>
<machine canonical='pc-q35-10.0'>q35</machine><machine>pc-q35-10.0</machine><machine>pc-q35-9.2</machine>
<machine>broken</machine><domain type='qemu'/><domain type='kvm'/></arch></guest>
<guest><arch name='i686'><machine>pc-q35-10.0</machine><domain type='qemu'/></arch></guest>
<guest><arch name='aarch64'><machine>virt-10.0</machine><domain type='qemu'/></arch></guest></capabilities>"""
DOMAIN = """<domainCapabilities><domain>%s</domain><os><enum name='firmware'/></os>
<cpu><mode name='host-model'><model>EPYC</model></mode></cpu>
<devices><video supported='yes'><enum name='modelType'><value>vga</value></enum></video></devices>
</domainCapabilities>"""


class Connection:
    """libvirtd's answers, counted."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.qemu = 10_000_002

    def getVersion(self) -> int:  # noqa: N802  # libvirt's name
        """QEMU's."""
        return self.qemu

    def getLibVersion(self) -> int:  # noqa: N802  # libvirt's name
        """libvirt's."""
        return 11_003_000

    def getInfo(self) -> list[Any]:  # noqa: N802  # libvirt's name
        """The architecture first."""
        return ["x86_64"]

    def getCapabilities(self) -> str:  # noqa: N802  # libvirt's name
        """The host's."""
        return CAPABILITIES

    def getDomainCapabilities(self, _emulator: None, _arch: str, machine: str | None, virt: str) -> str:  # noqa: N802  # libvirt's name
        """The same for all machines."""
        self.asked[machine or ""] += 1
        if machine == "broken":
            raise libvirt.libvirtError("invalid argument: the machine 'broken' is not supported")
        return DOMAIN % virt

    def numOfSecrets(self) -> int:  # noqa: N802  # libvirt's name
        """None yet."""
        return 0

    def listNetworks(self) -> list[str]:  # noqa: N802  # libvirt's name
        """Active ones."""
        return ["ovs", "default"]


def as_libvirt(connection: Connection) -> LibvirtConnection:
    """For the reader."""
    return cast("LibvirtConnection", connection)


def test_all_is_read(tmp_path: Path) -> None:
    """Devices by accelerator and machine, networks, firmware; a machine that libvirt cannot tell of is left out."""
    (tmp_path / "1.json").write_text(descriptor(tmp_path))
    reader, connection = HostReader(firmware_folders=[tmp_path]), Connection()

    platform = reader.platform(as_libvirt(connection))

    assert platform.versions == reader.versions(as_libvirt(connection))
    assert platform.versions.host_cpu
    assert platform.networks == ("default", "ovs")
    assert platform.secret_usages == ("volume", "vtpm")
    assert [offer.name for offer in platform.firmware_offers] == ["1.json"]
    assert "uefi" in platform.firmwares
    (other,) = platform.other_architectures
    assert (other.architecture, other.accelerators) == ("i686", ("qemu",))
    assert set(other.without) == {"pc-q35-9.2", "broken"}
    assert [(each.accelerator, each.machines) for each in platform.device_offers] == [
        ("kvm", ("pc-q35-10.0", "pc-q35-9.2")),
        ("qemu", ("pc-q35-10.0", "pc-q35-9.2")),
    ]


def test_capabilities_are_asked_again_when_a_version_changes(tmp_path: Path) -> None:
    """A hundred machines are not asked for at each heartbeat; firmware that was installed meanwhile is seen."""
    reader, connection = HostReader(accelerators=("qemu",), firmware_folders=[tmp_path]), Connection()
    reader.platform(as_libvirt(connection))
    (tmp_path / "1.json").write_text(descriptor(tmp_path))
    assert len(reader.platform(as_libvirt(connection)).firmware_offers) == 1
    assert connection.asked["pc-q35-10.0"] == 1

    connection.qemu = 10_001_000

    assert reader.platform(as_libvirt(connection)).versions.qemu == (10, 1, 0)
    assert connection.asked["pc-q35-10.0"] == 2


def test_a_bad_descriptor_is_told_once(tmp_path: Path) -> None:
    """Not at each heartbeat."""
    (tmp_path / "1.json").write_text("{")
    reader, connection = HostReader(firmware_folders=[tmp_path]), Connection()

    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            reader.platform(as_libvirt(connection))

    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["firmware descriptor not used"]
