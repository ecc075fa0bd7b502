"""``vmport-broker check-rules``."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.broker import main as broker
from services.broker.rules.regime_files import SHIPPED
from shared.exit_codes import ExitCode
from tests.services.broker.rules.test_regime_files import OWN


def test_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its name, and how many of its rules are enforced."""
    file = tmp_path / "house.toml"
    file.write_text(OWN)
    assert broker.main(["check-rules", str(file)]) == ExitCode.OK
    assert capsys.readouterr().out == f"{file}: house: 1 rules, 1 enforced\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("days = 30", "days = -30", "rules.0.when.days: expected at least 0"),
        ("days = 30", "days = 30, more = 1", "rules.0.when.more: is no key of a regime"),
        ('name = "house"', "name = 7", "name: expected text"),
    ],
)
def test_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str) -> None:
    """File, key and reason."""
    file = tmp_path / "house.toml"
    file.write_text(OWN.replace(old, new))
    assert broker.main(["check-rules", str(file)]) == ExitCode.CONFIG
    assert capsys.readouterr().err == f"{file}: {said}\n"


def test_overlap_with_what_ships(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unless the file is looked at alone."""
    file = tmp_path / "uk.toml"
    file.write_text((SHIPPED / "uk-ofcom-c7.toml").read_text())
    assert broker.main(["check-rules", str(file)]) == ExitCode.CONFIG
    assert "overlapping validity" in capsys.readouterr().err
    assert broker.main(["check-rules", "--alone", str(file)]) == ExitCode.OK
