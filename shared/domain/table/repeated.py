"""Which elements may stand several times in one parent. All others stand once: of two, each reader would take its own.

What goes with the VM is looked up by name, and libvirt looks it up by its own rules. A second disk source, a second
``<devices>`` or a second name would be one that nobody here has judged.
"""

from __future__ import annotations

_DEVICES = "devices"
_ONE_DEVICE = frozenset({"devices/emulator"})
_REPEATED = frozenset({
    "seclabel",
    "sysinfo",
    "os/boot", "os/firmware/feature", "os/initarg", "os/initenv",
    "sysinfo/entry", "sysinfo/bios/entry", "sysinfo/system/entry", "sysinfo/baseBoard", "sysinfo/baseBoard/entry",
    "sysinfo/chassis/entry", "sysinfo/oemStrings/entry",
    "clock/timer", "vcpus/vcpu", "iothreadids/iothread", "memoryBacking/hugepages/page", "blkiotune/device",
    "cputune/vcpupin", "cputune/iothreadpin", "cputune/vcpusched", "cputune/iothreadsched", "cputune/cachetune",
    "cputune/memorytune",
    "cpu/feature", "cpu/numa/cell", "cpu/numa/cell/cache", "cpu/numa/cell/distances/sibling",
    "cpu/numa/interconnects/latency", "cpu/numa/interconnects/bandwidth",
    "devices/disk/driver/iothreads/iothread", "devices/disk/driver/iothreads/iothread/queue",
    "devices/controller/driver/iothreads/iothread", "devices/controller/driver/iothreads/iothread/queue",
    "devices/disk/source/seclabel", "devices/disk/backingStore/source/seclabel", "os/nvram/source/seclabel",
    "devices/graphics/channel", "devices/graphics/listen", "devices/redirfilter/usbdev", "devices/sound/codec",
    "devices/interface/ip", "devices/interface/route", "devices/interface/portForward", "devices/interface/source/ip",
    "devices/interface/source/route",
    *(f"devices/{port}/source/seclabel" for port in ("serial", "parallel", "console", "channel", "redirdev")),
})  # fmt: skip


def may_repeat(path: str) -> bool:
    """Whether an element, by its path below ``<domain>``, may have one of its name beside it."""
    folder, _, _ = path.rpartition("/")
    return path in _REPEATED or (folder == _DEVICES and path not in _ONE_DEVICE)
