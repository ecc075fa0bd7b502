"""Which boot it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.node_agent.state import boot


def test_a_boot_has_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line of a file."""
    assert len(boot.boot_id()) == 36
    file = tmp_path / "boot_id"
    file.write_text("b1\n")
    monkeypatch.setattr(boot, "BOOT_ID", file)
    assert boot.boot_id() == "b1"
