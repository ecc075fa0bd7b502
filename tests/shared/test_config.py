"""Settings from file and environment, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field

from shared.config import ConfigError, Section, ServiceSettings, load, merge, read_toml
from shared.parties import Role, donor


class Toy(Section):
    """A section of its own."""

    size: int = Field(default=3, ge=1, description="How many.")
    names: tuple[str, ...] = Field(default=(), description="Which.")


class ToySettings(ServiceSettings):
    ROLES: ClassVar = frozenset({Role.DONOR})
    toy: Toy = Field(default=Toy())


URL = "amqp://donor.alpha:s%40cret@rabbit:5673/there"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("VMPORT_BUS__URL", "VMPORT_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "toy.toml"
    path.write_text(f'[bus]\nurl = "{URL}"\n[toy]\nsize = 5\n')
    return path


def problems(path: Path | None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(ToySettings, path)
    return [str(problem) for problem in caught.value.problems]


def test_file_is_read(file: Path) -> None:
    """What is set there holds; the rest has its default."""
    settings = load(ToySettings, file)
    assert settings.toy == Toy(size=5)
    assert settings.party == donor("alpha")
    assert settings.telemetry.port == 0


def test_url_is_taken_apart(file: Path) -> None:
    """Party, password (percent-decoded), host, port and vhost; the shown address has no password."""
    bus = load(ToySettings, file).bus
    assert (bus.host, bus.port, bus.vhost, bus.password(), bus.tls) == ("rabbit", 5673, "there", "s@cret", False)
    assert bus.shown == "amqp://donor.alpha@rabbit:5673/there"
    assert "s%40cret" not in repr(bus)


def test_environment_wins_and_json_makes_lists(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key by key, not section by section."""
    monkeypatch.setenv("VMPORT_TOY__NAMES", '["a", "b"]')
    monkeypatch.setenv("VMPORT_LOG__LEVEL", "debug")
    settings = load(ToySettings, file)
    assert settings.toy == Toy(size=5, names=("a", "b"))
    assert settings.log.level == "debug"


def test_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is needed."""
    monkeypatch.setenv("VMPORT_BUS__URL", URL)
    assert load(ToySettings, None).party == donor("alpha")


def test_password_file(file: Path, tmp_path: Path) -> None:
    """The first line, without what surrounds it."""
    secret = tmp_path / "password"
    secret.write_text("hush \nsecond line\n")
    file.write_text(f'[bus]\nurl = "amqps://donor.alpha@rabbit/v"\npassword_file = "{secret}"\n')
    bus = load(ToySettings, file).bus
    assert (bus.password(), bus.port, bus.tls) == ("hush", 5671, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "bus: is required; set it here or as VMPORT_BUS"),
        ('[bus]\nurl = "http://x"', "bus.url: expected amqp://PARTY:PASSWORD@HOST:PORT/VHOST"),
        ('[bus]\nurl = "amqp://donor.alpha:x@h:99999/v"', "bus.url: expected amqp://PARTY:PASSWORD@HOST:PORT/VHOST"),
        ('[bus]\nurl = "amqp://root:x@h/v"', "bus.url: 'root' is no party: expected broker, "),
        ('[bus]\nurl = "amqp://broker:x@h/v"', "bus: the url's user broker is a broker; this service speaks as: donor"),
        ('[bus]\nurl = "amqp://donor.alpha@h/v"', "bus: give the password in url or in password_file"),
        (
            f'[bus]\nurl = "{URL}"\npassword_file = "x"',
            "bus: give the password in url or in password_file, not in both",
        ),
        (f'[bus]\nurl = "{URL}"\ntypo = 1', "bus.typo: is no setting; see --print-config for all of them"),
        (f'[bus]\nurl = "{URL}"\n[toy]\nsize = 0', "toy.size: Input should be greater than or equal to 1"),
        (f'[bus]\nurl = "{URL}"\n[log]\nlevel = "loud"', "log.level: Input should be 'debug', 'info', 'warning' or"),
        (f'[bus]\nurl = "{URL}"\n[zoo]\nx = 1', "zoo: is no setting; see --print-config for all of them"),
    ],
)
def test_mistake_in_the_file_is_named(file: Path, text: str, expected: str) -> None:
    """File, key, what is wrong and what is allowed."""
    file.write_text(text)
    (problem,) = problems(file)
    assert problem.startswith(f"{file}: {expected}")
    assert "s%40cret" not in problem


def test_mistake_in_the_environment_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is to blame, not the file."""
    monkeypatch.setenv("VMPORT_TOY__SIZE", "many")
    monkeypatch.setenv("VMPORT_BUS__NO_SUCH", "1")
    assert sorted(problem.split(":")[0] for problem in problems(file)) == ["VMPORT_BUS__NO_SUCH", "VMPORT_TOY__SIZE"]


def test_list_in_the_environment_must_be_json(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said in words, without a traceback."""
    monkeypatch.setenv("VMPORT_TOY__NAMES", "a,b")
    (problem,) = problems(file)
    assert "toy" in problem.lower()


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, and one that is not TOML."""
    assert "cannot be read: No such file" in problems(tmp_path / "none.toml")[0]
    bad = tmp_path / "bad.toml"
    bad.write_text("[bus\n")
    assert "is not TOML" in problems(bad)[0]
    bad.write_bytes(b"\xff\xfe")
    assert "is not TOML" in problems(bad)[0]


def test_read_toml_gives_a_table(file: Path) -> None:
    """For other files than settings, too."""
    assert read_toml(file)["toy"] == {"size": 5}


def test_merge_goes_table_by_table() -> None:
    """The upper one wins only where it says something."""
    assert merge({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "c": 4}) == {"a": {"x": 1, "y": 3}, "b": 1, "c": 4}
