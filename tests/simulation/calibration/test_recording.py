"""A few situations are recorded again, so that a libvirt or QEMU that behaves in another way is noticed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.simulation.calibration.trace import Trace, differences, kept

pytestmark = [pytest.mark.lab, pytest.mark.long, pytest.mark.timeout(300)]

RECORD = Path(__file__).with_name("record")
RECORDED = ("good", "donor-libvirtd-at-finish", "recipient-libvirtd-after-cont")


def test_libvirt_and_qemu_are_as_they_were_recorded(tmp_path: Path) -> None:
    """Of whatever version they are: then the traces are to be recorded again, and the host model is to follow."""
    subprocess.run([RECORD, "--to", tmp_path, "--only", *RECORDED], check=True)
    for situation in RECORDED:
        found = Trace.from_json((tmp_path / f"{situation}.json").read_text())
        assert list(differences(kept(situation), found)) == [], f"libvirt {found.libvirt}, QEMU {found.qemu}"
