"""Bridges are those devices that the kernel calls bridges."""

from __future__ import annotations

from pathlib import Path

from services.node_agent.network import existing_bridges


def test_only_bridges_count(tmp_path: Path) -> None:
    """A card of that name is not enough."""
    (tmp_path / "vmbr0" / "bridge").mkdir(parents=True)
    (tmp_path / "eth0").mkdir()
    assert existing_bridges(("vmbr0", "eth0", "vmbr9"), tmp_path) == ("vmbr0",)
