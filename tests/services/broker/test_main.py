"""The program's own flags."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from services.broker.main import main
from services.broker.rules.regime_files import SHIPPED
from services.broker.settings import BrokerSettings, TimingSettings
from shared.exit_codes import ExitCode


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A settings file with a ledger in a directory of its own."""
    path = tmp_path / "broker.toml"
    url = "amqp://broker:secret@127.0.0.1:1/vmport"
    path.write_text(f'[bus]\nurl = "{url}"\n[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n')
    return path


def test_print_saga(capsys: pytest.CaptureFixture[str]) -> None:
    """The diagram needs no settings."""
    assert main(["--print-saga"]) == ExitCode.OK
    assert "stateDiagram-v2" in capsys.readouterr().out


def test_migrate(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The schema can be made by hand, without a bus."""
    assert main(["--config", str(config), "--migrate"]) == ExitCode.OK
    assert "is at revision" in capsys.readouterr().out
    with sqlite3.connect(config.parent / "ledger.db") as database:
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    database.close()
    assert {"ports", "epochs", "inbox", "outbox", "timers"} <= tables


def test_later_schema_is_a_matter_of_configuration(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A ledger that a later release made: a restart would not help, so the exit code says that."""
    assert main(["--config", str(config), "--migrate"]) == ExitCode.OK
    with sqlite3.connect(config.parent / "ledger.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    assert main(["--config", str(config), "--migrate"]) == ExitCode.CONFIG
    assert main(["--config", str(config)]) == ExitCode.CONFIG
    assert capsys.readouterr().err.count("was it made by a later one?") == 2


def test_check_config(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Good settings are said to be good; another party than the broker is not accepted."""
    assert main(["--config", str(config), "--check-config"]) == ExitCode.OK
    config.write_text(config.read_text().replace("broker:secret", "tenant.acme:secret"))
    assert main(["--config", str(config), "--check-config"]) == ExitCode.CONFIG
    assert "speaks as: broker" in capsys.readouterr().err


def test_a_ledger_that_is_no_database(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check, a migration and a start all say so: it is a wrong configuration, which no restart can mend."""
    ledger = config.parent / "ledger.db"
    ledger.write_text("a letter")
    for more in (["--check-config"], ["--migrate"], []):
        assert main(["--config", str(config), *more]) == ExitCode.CONFIG
        said = capsys.readouterr().err
        assert f"store.url: {ledger} is no SQLite database: name another file in the URL" in said
        assert "Traceback" not in said


def test_bad_store(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A store that would forget is refused, with the key and what is allowed."""
    config.write_text(config.read_text().replace("sqlite:///", "mysql:///"))
    assert main(["--config", str(config), "--check-config"]) == ExitCode.CONFIG
    assert "store.url: only sqlite and postgresql" in capsys.readouterr().err


def test_a_regime_that_cannot_be_used(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check and a start name file, key and reason; a restart would not help."""
    folder = config.parent / "regimes"
    folder.mkdir()
    config.write_text(f'{config.read_text()}\n[rules]\nregimes_dir = "{folder}"\n')
    assert main(["--config", str(config), "--check-config"]) == ExitCode.OK
    text = (SHIPPED / "us-fcc-52.toml").read_text()
    (folder / "us.toml").write_text(text)
    for more in (["--check-config"], []):
        assert main(["--config", str(config), *more]) == ExitCode.CONFIG
        said = capsys.readouterr().err
        assert f"{folder}/us.toml" in said
        assert "rules.fields: overlapping validity" in said


def test_timing_reaches_the_saga() -> None:
    """Each setting of time has its place in the saga, with the same default."""
    timing = TimingSettings(approval_s=7).timing()
    assert timing.approval.total_seconds() == 7
    defaults = TimingSettings().timing()
    assert defaults == type(defaults)()
    assert set(BrokerSettings.model_fields) >= {"store", "timing", "limits"}
