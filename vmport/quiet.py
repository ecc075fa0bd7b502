"""Keeps vmport's log events out of the standard output and standard error of the program that imports it."""

from __future__ import annotations

import logging
from typing import Any

import structlog

_OURS = "shared."
_LOGGERS = ("shared", "aio_pika", "aiormq")
"""Of RabbitMQ's libraries, the failures that matter are raised by vmport with their reason."""


def silence() -> None:
    """Give vmport's events to the standard library's loggers, which write nothing until the program says so.

    structlog writes to standard output where nobody has configured it. A program that has is left alone, and so are
    its own loggers where it has not.
    """
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())
    if not structlog.is_configured():
        structlog.configure(logger_factory=_logger)


def _logger(*names: Any) -> Any:
    """Where a structlog logger of this name writes to."""
    if names and str(names[0]).startswith(_OURS):
        return logging.getLogger(str(names[0]))
    return structlog.PrintLogger()
