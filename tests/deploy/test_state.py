"""The lab's state file."""

from pathlib import Path

import pytest

from deploy.labkit import state
from deploy.labkit.state import GuestRecord, LabState, ProcessRecord


def _full() -> LabState:
    guest = GuestRecord("vm1", "u", "52:54:00:00:00:01", "10.88.0.10", "tiny", "writer", 512, "alpha")
    return LabState(("alpha", "beta"), "100mbit", 20.0, {"epmd": ProcessRecord(12, 345)}, {"vm1": guest})


def test_a_saved_state_comes_back(tmp_path: Path) -> None:
    """What is saved is what is loaded."""
    path = tmp_path / "lab" / "state.json"
    state.save(path, _full())
    assert _full() == state.load(path)


def test_no_file_is_no_state(tmp_path: Path) -> None:
    """A lab that never was has no state, and that is no error."""
    assert state.load(tmp_path / "state.json") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1}', '{"version": 1, "providers": 3}'])
def test_a_damaged_state_is_rejected(text: str) -> None:
    """Text that is no state raises ValueError, so that nobody acts on half of one."""
    with pytest.raises(ValueError):  # noqa: PT011 - json's own error is one, too
        LabState.from_json(text)
