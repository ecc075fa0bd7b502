"""Where the energy model of a host comes from."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from services.node_agent.energy.model_file import ModelFile
from services.node_agent.settings import EnergySection
from shared.messages.costs import EnergyModel

MEASURED = EnergyModel(joules_per_byte=2e-7, joules_per_s=3, measured_at=datetime(2026, 3, 1, tzinfo=UTC))


def test_measured_wins_over_the_estimate(tmp_path: Path) -> None:
    """It is read again when it changes, and forgotten when it is gone."""
    estimate = EnergySection().estimate()
    file = ModelFile(tmp_path, estimate)
    assert file.read() == estimate
    file.write(MEASURED)
    assert file.read() == MEASURED
    file.path.write_text("{")
    assert file.read() == estimate
    file.write(MEASURED)
    file.path.unlink()
    assert file.read() == estimate


def test_an_estimate_is_marked_or_left_out() -> None:
    """Without a date of measurement; an operator may have nothing stated."""
    estimate = EnergySection(joules_per_gb=500, watts=2).estimate()
    assert estimate == EnergyModel(joules_per_byte=5e-7, joules_per_s=2)
    assert EnergySection(stated=False).estimate() is None
