"""Log events of a library."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog

from shared.logs import get_logger
from vmport.quiet import silence


@pytest.fixture(autouse=True)
def _structlog_as_before() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def test_events_go_to_the_standard_librarys_loggers(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A program that wants them configures logging, as for any library."""
    silence()
    with caplog.at_level(logging.INFO, logger="shared"):
        get_logger("shared.rabbit.connection").warning("no connection to RabbitMQ")
    assert capsys.readouterr() == ("", "")
    assert [record.name for record in caplog.records] == ["shared.rabbit.connection"]
    assert "no connection to RabbitMQ" in caplog.text


def test_loggers_of_the_program_stay_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that uses structlog without configuring it sees its own events where it did."""
    silence()
    structlog.get_logger("program").info("hello")  # noqa: TID251  # a foreign program does as it likes
    assert "hello" in capsys.readouterr().out


def test_a_program_that_has_configured_structlog_is_left_alone() -> None:
    """Its configuration is not replaced; twice does no more than once."""
    seen: list[str] = []

    def keep(_: object, __: str, event: structlog.typing.EventDict) -> str:
        seen.append(str(event["event"]))
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    silence()
    silence()
    get_logger("shared.bus").warning("heard")
    assert seen == ["heard"]
    handlers = logging.getLogger("shared").handlers
    assert len([handler for handler in handlers if isinstance(handler, logging.NullHandler)]) == 1
