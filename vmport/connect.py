"""One call from an URL to a client. Owns the connection's beginning and end; the conversation is the client's."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from shared.client.sdk import TenantClient
from shared.client.settings import checked_bus_settings
from shared.metrics import BusMetrics
from shared.rabbit.session import open_session


@asynccontextmanager
async def connect(
    url: str, *, password_file: Path | None = None, ca_file: Path | None = None, timeout_s: float = 10.0
) -> AsyncGenerator[TenantClient]:
    """Connect as the tenant that the URL's user names, and listen until the block ends.

    `timeout_s` bounds each answer of the broker. Raises `ConfigError` for a URL that cannot be used, and `BusDown`
    where RabbitMQ cannot be reached or refuses the user.
    """
    settings = checked_bus_settings(url, origin="url", password_file=password_file, ca_file=ca_file)
    _log_by_the_standard_library()
    session = await open_session(settings, BusMetrics(CollectorRegistry()))
    async with TenantClient(session, timeout_s=timeout_s) as client:
        yield client


def _log_by_the_standard_library() -> None:
    """structlog prints to standard output until somebody configures it; a library must not."""
    logging.getLogger("shared").addHandler(logging.NullHandler())
    if not structlog.is_configured():
        structlog.configure(
            processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
