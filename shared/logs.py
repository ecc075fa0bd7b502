"""How vmport logs: structlog, for people or as JSON, with the standard library's logs routed in. Owns no content.

What the levels mean, everywhere:

* ``error``: a promise may be broken or a person must act; the line says what to do.
* ``warning``: something is wrong, and vmport copes with it (reconnecting, retrying, refusing a message).
* ``info``: what an operator wants to read of a port afterwards: phases, decisions, starts and stops. Not per message.
* ``debug``: single messages and steps, for who writes vmport.

`port_bound` puts the port's id on every line below it, as ``port_id``. No secret is logged: settings keep them in
``SecretStr``, and `_redact` blanks passwords in AMQP addresses wherever they come from, libraries' tracebacks included.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from shared.config import LogSettings

_URL_PASSWORD = re.compile(r"(amqps?://[^:/@\s]+):[^@\s]+@")
_QUIET = {"aiormq": logging.CRITICAL, "aio_pika": logging.CRITICAL, "asyncio": logging.WARNING}
"""aiormq's debug lines hold message bodies, guests' memory among them, and what it calls an error is a lost connection,
which `shared.rabbit.connection` reports with its reason."""


def _redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str) and "://" in value:
            event[key] = _URL_PASSWORD.sub(r"\1:***@", value)
    return event


def configure(settings: LogSettings, *, service: str, party: str) -> None:
    """Set up logging of this process; once, at its start. Raises OSError when the file cannot be opened."""
    shared_steps: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _naming(service, party),
    ]
    handler: logging.Handler = (
        logging.FileHandler(settings.file, encoding="utf-8") if settings.file else logging.StreamHandler(sys.stderr)
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared_steps, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_rendering(settings, colours=settings.file is None and sys.stderr.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    root.setLevel(level)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(level, least))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared_steps,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _naming(service: str, party: str) -> Processor:
    def name(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.setdefault("service", service)
        event.setdefault("party", party)
        return event

    return name


def _rendering(settings: LogSettings, *, colours: bool) -> list[Processor]:
    if settings.format == "json":
        return [structlog.processors.format_exc_info, _redact, structlog.processors.JSONRenderer(default=str)]
    # A person sees service and party from where the log lies; the lines stay short.
    drop = _dropping("service", "party")
    return [
        drop,
        structlog.processors.format_exc_info,
        _redact,
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback),
    ]


def _dropping(*keys: str) -> Processor:
    def drop(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        for key in keys:
            event.pop(key, None)
        return event

    return drop


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A module's logger, the only way to make one; ``name`` is the module's."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)  # noqa: TID251  # the one place
    return logger


@contextmanager
def log_scope(**facts: Any) -> Iterator[None]:
    """Put these facts on every line that is logged inside; those that are None are left out.

    What `bind_log` adds inside ends with it, too.
    """
    before = structlog.contextvars.get_contextvars()
    structlog.contextvars.bind_contextvars(**{key: str(value) for key, value in facts.items() if value is not None})
    try:
        yield
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**before)


def bind_log(**facts: Any) -> None:
    """Put these facts on every line from now on, until the innermost `log_scope` ends."""
    structlog.contextvars.bind_contextvars(**facts)


@contextmanager
def port_bound(port_id: UUID | str | None, **facts: Any) -> Iterator[None]:
    """Put the port's id (and other facts) on every line that is logged inside."""
    with log_scope(port_id=port_id, **facts):
        yield
