"""The command line and the SDK against a scripted broker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from shared.messages.queries import PortShown
from tests.support.scripted_broker import Cli, ScriptedBroker, shown_port


@pytest.fixture
def broker() -> ScriptedBroker:
    """A broker that answers questions and takes commands."""
    return ScriptedBroker()


@pytest.fixture
def record() -> Callable[..., PortShown]:
    """Makes a port's record."""
    return shown_port


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """A run of the command line sets up logging of its process, which here is pytest's."""
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def vmport(broker: ScriptedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line, away from the user's own settings."""
    for name in ("VMPORT_CONFIG", "VMPORT_BUS__URL"):
        monkeypatch.delenv(name, raising=False)
    return Cli(broker, tmp_path)
