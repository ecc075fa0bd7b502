"""What log lines look like, and what must never be in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog

from shared.config import LogSettings
from shared.logs import bind_log, configure, get_logger, log_scope, port_bound


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Give the root logger back as it was: pytest has its own handlers there."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    for name in ("aiormq", "aio_pika", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.log"
    configure(LogSettings(format="json", level="info", file=path), service="vmport-x", party="donor.alpha")
    return path


def test_json_lines_name_service_party_level_and_time(path: Path) -> None:
    """One object per line."""
    get_logger("a.module").warning("it happened", count=3)
    (line,) = lines(path)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "it happened",
        "count": 3,
        "level": "warning",
        "logger": "a.module",
        "service": "vmport-x",
        "party": "donor.alpha",
    }


def test_port_is_bound_inside_and_not_after(path: Path) -> None:
    """Every line of a port can be found by its id, the standard library's lines included."""
    port = uuid4()
    with port_bound(port, phase="quoting"):
        get_logger("m").info("ours")
        logging.getLogger("somebody.else").warning("theirs")
    get_logger("m").info("after")
    ours, theirs, after = lines(path)
    assert (ours["port_id"], ours["phase"]) == (str(port), "quoting")
    assert theirs["port_id"] == str(port)
    assert "port_id" not in after


def test_nothing_is_bound_without_a_port(path: Path) -> None:
    """A message that is about no port adds nothing."""
    with port_bound(None):
        get_logger("m").info("ours")
    assert "port_id" not in lines(path)[0]


def test_level_holds_for_all(path: Path) -> None:
    """What is less severe is not written."""
    get_logger("m").debug("no")
    logging.getLogger("else").debug("no")
    assert lines(path) == []


def test_passwords_in_addresses_are_blanked(path: Path) -> None:
    """Also in tracebacks and in lines of libraries."""
    url = "amqp://donor.alpha:geheim@rabbit:5672/v"
    get_logger("m").info(f"connecting to {url}", address=url)
    logging.getLogger("library").warning("cannot reach %s", url)
    try:
        raise OSError(url)
    except OSError:
        get_logger("m").exception("failed")
    text = path.read_text()
    assert "geheim" not in text
    assert text.count("amqp://donor.alpha:***@rabbit") >= 4


def test_library_that_would_log_message_bodies_is_silent_even_at_debug(tmp_path: Path) -> None:
    """aiormq's debug lines hold frames, with guests' memory in them."""
    path = tmp_path / "x.log"
    configure(LogSettings(format="json", level="debug", file=path), service="s", party="p")
    logging.getLogger("aiormq.connection").debug("Received frame %r", b"guest memory")
    logging.getLogger("aiormq.connection").error("Unexpected connection close")
    assert path.read_text() == ""


def test_console_is_short(tmp_path: Path) -> None:
    """For people: no JSON, no service and party, tracebacks as Python's."""
    path = tmp_path / "x.log"
    configure(LogSettings(format="console", file=path), service="vmport-x", party="donor.alpha")
    try:
        raise OSError("disk full")
    except OSError:
        get_logger("m").exception("failed", count=3)
    text = path.read_text()
    assert "failed" in text
    assert "count=3" in text
    assert "OSError: disk full" in text
    assert "vmport-x" not in text
    assert "\x1b[" not in text


def test_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    """The caller says which setting it is."""
    with pytest.raises(OSError, match="No such file"):
        configure(LogSettings(file=tmp_path / "none" / "x.log"), service="s", party="p")


def test_what_is_bound_inside_a_scope_ends_with_it() -> None:
    """Facts that become known on the way are on all later lines of the scope, and on none after it."""
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        log = get_logger("vmport.test")
        with log_scope(port_id="p1", vm=None):
            bind_log(dry_run=True)
            with port_bound("p2"):
                log.info("inner")
            log.info("outer")
        log.info("after")
    inner, outer, after = ({key: line[key] for key in line if key in {"port_id", "vm", "dry_run"}} for line in lines)
    assert inner == {"port_id": "p2", "dry_run": True}
    assert outer == {"port_id": "p1", "dry_run": True}
    assert after == {}
