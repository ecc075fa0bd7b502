"""What the fake host can run: its versions, devices and CPU. For tests; the same contract holds for the real one."""

from __future__ import annotations

from services.node_agent.hypervisor.cpu_comparison import cpu_xml
from services.node_agent.hypervisor.fake_host import FakeHost
from services.node_agent.hypervisor.interface import HypervisorError
from shared.messages.host import DeviceOffers
from shared.messages.vm import CpuFacts, CpuFeature, Firmware, HostPlatform, HypervisorVersions

OFFERS = {
    "disk_bus": ("scsi", "virtio", "usb", "sata"),
    "disk_device": ("disk", "cdrom", "lun"),
    "graphics": ("vnc",),
    "video": ("vga", "virtio", "none"),
    "rng": ("random", "builtin"),
    "channel": ("pty", "unix"),
}
"""What its QEMU offers: a common one, without SPICE and QXL."""


class FakePlatform(FakeHost):
    """A host with these bridges; `missing_features` are what its CPU has not."""

    def __init__(self, bridges: tuple[str, ...]) -> None:
        super().__init__()
        self.missing_features: frozenset[str] = frozenset({"avx512f"})
        self.secret_usages: tuple[str, ...] = ("volume", "vtpm")
        self._bridges = bridges

    async def versions(self) -> HypervisorVersions:
        """Fixed."""
        self.ask_libvirtd()
        return HypervisorVersions(qemu=(10, 0, 2), libvirt=(11, 3, 0), kernel="6.1.0")

    async def platform(self) -> HostPlatform:
        """Fixed."""
        self.ask_libvirtd()
        return HostPlatform(
            architecture="x86_64",
            versions=await self.versions(),
            accelerators=("qemu",),
            machines=("pc-q35-10.0",),
            cpu_models=("qemu64",),
            firmwares=(Firmware.BIOS, Firmware.DIRECT_KERNEL),
            bridges=self._bridges,
            disk_formats=("raw", "qcow2"),
            machine_aliases={"q35": "pc-q35-10.0"},
            secret_usages=self.secret_usages,
            device_offers=(DeviceOffers(accelerator="qemu", machines=("pc-q35-10.0",), offers=OFFERS),),
        )

    async def compare_cpu(self, cpu: CpuFacts, *, architecture: str, machine: str, accelerator: str) -> str | None:
        """What its CPU has not; the model counts as one that runs everywhere."""
        self._check_comparable(cpu, architecture, machine, accelerator)
        missing = [each.name for each in cpu.features if self._is_missing(each)]
        if not missing:
            return None
        return f"the CPU is incompatible with host CPU: Host CPU does not provide required features: {missing}"

    async def common_cpu(self, cpu: CpuFacts, *, architecture: str, machine: str, accelerator: str) -> CpuFacts | None:
        """The same without what its CPU has not."""
        self._check_comparable(cpu, architecture, machine, accelerator)
        kept = tuple(each for each in cpu.features if not self._is_missing(each))
        return cpu.model_copy(update={"features": kept})

    def _is_missing(self, feature: CpuFeature) -> bool:
        return feature.policy == "require" and feature.name in self.missing_features

    def _check_comparable(self, cpu: CpuFacts, architecture: str, machine: str, accelerator: str) -> None:
        self.ask_libvirtd()
        if (architecture, accelerator) != ("x86_64", "qemu") or machine != "pc-q35-10.0":
            raise HypervisorError("compare a CPU", f"no {machine} for {architecture} under {accelerator}")
        try:
            cpu_xml(cpu)
        except ValueError as error:
            raise HypervisorError("compare a CPU", str(error)) from error
