"""The documented sample of a settings file."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from pydantic import BaseModel, Field

from shared.config import Section, ServiceSettings, load
from shared.config_sample import render
from shared.parties import Role


class Row(Section):
    """One of several."""

    name: str = Field(description="Its name.", examples=["small"])
    price: Decimal = Field(default=Decimal("1.50"), description="What it costs.")


class Toy(Section):
    """A section of its own."""

    size: int = Field(description="How many.", examples=[7], ge=1)
    mode: Literal["fast", "slow"] = Field(default="fast", description="How.")
    ratio: float | None = Field(default=None, description="Unset: none.", examples=[0.5])
    paths: tuple[Path, ...] = Field(default=(Path("/a"),), description="Where.")
    factors: dict[str, float] = Field(default={"x": 1.0}, description="How much.")


class ToySettings(ServiceSettings):
    ROLES: ClassVar = frozenset({Role.NODE})
    toy: Toy
    rows: tuple[Row, ...] = Field(default=(), description="What there is.")
    by_name: dict[str, Row] = Field(default={}, description="What there is, too.")


def test_sample_is_valid_and_sets_only_what_must_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be loaded as it is, and every default is the model's."""
    monkeypatch.delenv("VMPORT_BUS__URL", raising=False)
    path = tmp_path / "sample.toml"
    path.write_text(render(ToySettings, title="A toy."))
    settings = load(ToySettings, path)
    assert settings.toy == Toy(size=7)
    assert settings.party.role is Role.NODE
    assert set(tomllib.loads(path.read_text())) == {"bus", "toy", "log", "telemetry"}


def test_sample_with_all_comments_removed_is_valid_too() -> None:
    """Every default and example stands there in TOML that would be read."""
    lines = render(ToySettings, title="A toy.").splitlines()
    settings = [line.removeprefix("# ") for line in lines if " = " in line or line.removeprefix("# ").startswith("[")]
    table = tomllib.loads("\n".join(settings))
    assert table["toy"]["mode"] == "fast"
    assert table["toy"]["paths"] == ["/a"]
    assert table["toy"]["factors"] == {"x": 1.0}
    assert table["rows"] == [{"name": "small", "price": "1.50"}]
    assert table["by_name"] == {"NAME": {"name": "small", "price": "1.50"}}
    assert table["log"]["level"] == "info"


def test_sample_describes_every_setting() -> None:
    """Description and limits stand above each key."""
    text = render(ToySettings, title="A toy.")
    assert '# How. (one of "fast", "slow")\n# mode = "fast"' in text
    assert "# How many. (at least 1)\nsize = 7" in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_undescribed_setting_is_an_error() -> None:
    """A programmer's mistake, found by the first test that renders it."""

    class Mute(BaseModel):
        x: int = 1

    class NoExample(BaseModel):
        x: int = Field(description="x")

    with pytest.raises(ValueError, match="no description"):
        render(Mute, title="t")
    with pytest.raises(ValueError, match="no example"):
        render(NoExample, title="t")
