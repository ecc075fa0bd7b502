"""The donor agent's settings and program."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.donor_agent.main import main
from services.donor_agent.settings import DonorSection, DonorSettings
from shared.config import ConfigError, load
from shared.exit_codes import ExitCode

SAMPLE = Path(__file__).parents[3] / "deploy" / "config" / "donor-policy.toml"
MINIMAL = f"""
[bus]
url = "amqp://donor.alpha:secret@127.0.0.1:5672/vmport"
[store]
url = "sqlite:////var/lib/vmport/donor.db"
[donor]
policy_file = "{SAMPLE}"
"""


def written(folder: Path, text: str) -> Path:
    """A settings file."""
    path = folder / "donor.toml"
    path.write_text(text)
    return path


def test_a_minimal_file_is_enough(tmp_path: Path) -> None:
    """What must be set is the bus, the store and the policy."""
    settings = load(DonorSettings, written(tmp_path, MINIMAL))

    assert settings.party.owner == "alpha"
    assert settings.donor.quarantine == timedelta(days=14)


@pytest.mark.parametrize(
    ("section", "quarantine"),
    [({"quarantine_days": 0.5}, timedelta(hours=12)), ({"quarantine_s": 0}, timedelta(0))],
)
def test_quarantine_in_days_or_seconds(section: dict[str, float], quarantine: timedelta) -> None:
    """Seconds win; none at all is allowed."""
    assert DonorSection(policy_file=SAMPLE, **section).quarantine == quarantine


def test_another_role_cannot_be_a_donor_agent(tmp_path: Path) -> None:
    """The bus user must fit the program."""
    with pytest.raises(ConfigError, match=r"recipient\.alpha"):
        load(DonorSettings, written(tmp_path, MINIMAL.replace("donor.alpha", "recipient.alpha")))


def _stored_in(folder: Path) -> str:
    return MINIMAL.replace("/var/lib/vmport", str(folder))


def test_the_program_checks_settings_and_policy(tmp_path: Path, capsys: Any) -> None:
    """An operator can try both before a restart."""
    config = ["--config", str(written(tmp_path, _stored_in(tmp_path)))]

    assert main([*config, "--check-config"]) == ExitCode.OK
    assert main([*config, "--check-policy"]) == ExitCode.OK
    assert "2 accounts" in capsys.readouterr().out


def test_a_broken_policy_is_a_wrong_configuration(tmp_path: Path, capsys: Any) -> None:
    """The program says which file and what, without a traceback."""
    broken = tmp_path / "policy.toml"
    broken.write_text("surprise = 1")
    config = written(tmp_path, _stored_in(tmp_path).replace(str(SAMPLE), str(broken)))

    assert main(["--config", str(config), "--check-policy"]) == ExitCode.CONFIG
    assert "surprise" in capsys.readouterr().err
    assert main(["--config", str(config), "--check-config"]) == ExitCode.CONFIG
    said = capsys.readouterr().err
    assert f"{config}: donor.policy_file: {broken}: the policy is not valid: surprise: is no key of a policy" in said


def test_the_store_needs_its_directory(tmp_path: Path, capsys: Any) -> None:
    """SQLite makes a file, and no directory."""
    config = written(tmp_path, MINIMAL.replace("/var/lib/vmport", "/no/such"))

    assert main(["--config", str(config), "--check-config"]) == ExitCode.CONFIG
    assert f"{config}: store.url: /no/such/donor.db cannot be made: there is no directory /no/such" in (
        capsys.readouterr().err
    )


def test_the_documented_sample_is_printed(capsys: Any) -> None:
    """Every setting with its description."""
    assert main(["--print-config"]) == ExitCode.OK
    assert "policy_file" in capsys.readouterr().out


def test_a_store_that_is_no_database(tmp_path: Path, capsys: Any) -> None:
    """The check says so, and so does a start: it is a wrong configuration, which no restart can mend."""
    (tmp_path / "donor.db").write_text("a letter")
    config = ["--config", str(written(tmp_path, _stored_in(tmp_path)))]

    for more in (["--check-config"], []):
        assert main([*config, *more]) == ExitCode.CONFIG
        said = capsys.readouterr().err
        assert f"store.url: {tmp_path}/donor.db is no SQLite database: name another file in the URL" in said
        assert "Traceback" not in said
