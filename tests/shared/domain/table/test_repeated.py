"""Only what libvirt itself reads several times may stand several times."""

from __future__ import annotations

import pytest

from shared.domain.table.repeated import may_repeat


@pytest.mark.parametrize("path", ["devices/disk", "devices/interface", "cpu/feature", "os/boot", "clock/timer"])
def test_lists_repeat(path: str) -> None:
    """Devices, and the parts of lists."""
    assert may_repeat(path)


@pytest.mark.parametrize(
    "path",
    [
        "devices", "os", "name", "uuid", "vcpu", "memory", "cpu", "devices/emulator", "devices/disk/source",
        "devices/disk/target", "devices/interface/source", "devices/interface/mac", "devices/rng/backend", "os/loader",
        "os/kernel", "devices/memory/source", "devices/memory/source/path", "devices/tpm/backend",
    ],
)  # fmt: skip
def test_what_is_looked_up_stands_once(path: str) -> None:
    """Of two, libvirt might take the one that nobody here has judged."""
    assert not may_repeat(path)
