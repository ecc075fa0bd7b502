"""Why a guest ended: what libvirt's hook wrote down, and what counts as an end of the guest's own."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from services.node_agent.state.guest_ends import ENDED, GuestEnds
from tests.support.transfer_pair import VM


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The VM's."""
    return tmp_path / "deep" / "given-away" / f"{VM}{ENDED}"


@pytest.fixture
def ends(file: Path) -> GuestEnds:
    """Of a host that has never had such a file."""
    return GuestEnds(file.parent)


def test_a_guest_is_watched_until_it_is_forgotten(ends: GuestEnds, file: Path) -> None:
    """What was written of an earlier guest of this UUID is gone."""
    assert not ends.ended_by_itself(VM)
    ends.watch(VM)
    assert file.read_bytes() == b""
    assert file.parent.stat().st_mode & 0o777 == 0o700
    file.write_text("crashed\n")
    assert ends.ended_by_itself(VM)
    assert not ends.ended_by_itself(uuid4())
    ends.watch(VM)
    assert not ends.ended_by_itself(VM)
    ends.forget(VM)
    assert not file.exists()
    ends.forget(VM)


@pytest.mark.parametrize(
    ("reasons", "by_itself"),
    [
        ("shutdown", True),
        ("crashed", True),
        ("unknown", True),
        ("failed", False),
        ("destroyed", False),
        ("daemon", False),
        ("-", False),
        ("crashed\ndestroyed", True),
        ("destroyed\ncrashed", True),
    ],
)
def test_what_libvirt_ends_has_not_ended_by_itself(
    ends: GuestEnds, file: Path, reasons: str, *, by_itself: bool
) -> None:
    """An old libvirt gives no reason."""
    ends.watch(VM)
    file.write_text(f"{reasons}\n")
    assert ends.ended_by_itself(VM) is by_itself


def test_what_cannot_be_read_is_no_proof(ends: GuestEnds, file: Path) -> None:
    """It may say anything."""
    file.parent.mkdir(parents=True)
    file.mkdir()
    assert ends.ended_by_itself(VM)
    file.rmdir()
    file.write_bytes(b"\xff\n")
    assert not ends.ended_by_itself(VM)
