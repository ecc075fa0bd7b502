"""Settings from file and environment, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field

from shared.config import ConfigError, Section, ServiceSettings, load, read_sources, read_toml
from shared.config_files import Finding
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
        ("", "bus: is required; set it here or as VMPORT_BUS__URL"),
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
        (f'[bus]\nurl = "{URL}"\n[toy]\nsize = 0', "toy.size: expected at least 1"),
        (f'[bus]\nurl = "{URL}"\n[log]\nlevel = "loud"', "log.level: expected 'debug', 'info', 'warning' or"),
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


@pytest.mark.parametrize(
    ("variable", "value"), [("VMPORT_BUS__URL", "http://foo"), ("VMPORT_BUS", '{"url": "nothing"}')]
)
def test_variable_that_is_set_is_the_one_that_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """Not the file, which is fine, and not a variable that nobody set."""
    monkeypatch.setenv(variable, value)
    assert problems(file) == [f"{variable}: expected amqp://PARTY:PASSWORD@HOST:PORT/VHOST"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://foo", "--url: expected amqp://PARTY:PASSWORD@HOST:PORT/VHOST"),
        ("amqp://donor.alpha@h/v", "--url: give the password in url or in password_file"),
        ("amqp://broker:x@h/v", "--url: the url's user broker is a broker; this service speaks as: donor"),
    ],
)
def test_option_is_named_where_it_is_wrong(
    file: Path, monkeypatch: pytest.MonkeyPatch, url: str, expected: str
) -> None:
    """The command line wins over file and environment, so it is to blame."""
    monkeypatch.setenv("VMPORT_BUS__URL", URL)
    with pytest.raises(ConfigError) as caught:
        load(ToySettings, file, arguments={"bus": {"url": url}})
    assert [str(problem) for problem in caught.value.problems] == [expected]


class Tenant(ServiceSettings):
    ROLES: ClassVar = frozenset({Role.TENANT})
    USER_FILE: ClassVar = "~/.config/toy.toml"


def test_no_settings_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first message of a new user: where settings are looked for, how to begin, and what must be set."""
    monkeypatch.delenv("VMPORT_BUS__URL", raising=False)
    with pytest.raises(ConfigError) as caught:
        load(Tenant, None, program="toy")
    assert [str(problem) for problem in caught.value.problems] == [
        (
            "no settings file: neither --config nor VMPORT_CONFIG names one, and there is no ~/.config/toy.toml; "
            "'toy --print-config > ~/.config/toy.toml' writes a documented sample to fill in"
        ),
        "VMPORT_BUS__URL: is required where there is no settings file",
    ]


def test_no_settings_for_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service looks in no home."""
    monkeypatch.delenv("VMPORT_BUS__URL", raising=False)
    assert problems(None)[0] == (
        "no settings file: neither --config nor VMPORT_CONFIG names one; "
        "'vmport --print-config > FILE' writes a documented sample to fill in"
    )


def test_finding_about_a_file_names_its_source(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found by trying is blamed like what was found by reading."""
    sources = read_sources(ToySettings, file)
    assert str(sources.problem(Finding(("toy", "size"), "is odd"))) == f"{file}: toy.size: is odd"
    monkeypatch.setenv("VMPORT_TOY__SIZE", "7")
    sources = read_sources(ToySettings, file)
    assert str(sources.problem(Finding(("toy", "size"), "is odd"))) == "VMPORT_TOY__SIZE: is odd"
