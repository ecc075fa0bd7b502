"""Opens a tenant's connection for a Python program. Imports the rest of vmport when it is called, not before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.client.sdk import TenantClient


def _as_argument(name: str) -> str:
    """How an error names an argument of `connect`."""
    return f"argument {name!r}"


@asynccontextmanager
async def connect(
    url: str | None = None, *, config: Path | None = None, timeout_s: float = 10.0
) -> AsyncIterator[TenantClient]:
    """A connection to the broker while the block runs, as ``amqp://tenant.NAME:PASSWORD@HOST:PORT/VHOST``.

    Without ``url`` it is read as the command line reads it: from ``config``, else the file that ``VMPORT_CONFIG``
    names, else ``~/.config/vmport/vmport.toml``, each overlaid by ``VMPORT_BUS__URL`` and the like. ``timeout_s``
    bounds each answer of the broker. Raises `vmport.ConfigError` or `vmport.BusDown`; the client's calls say what
    they raise.
    """
    # A program that imports vmport may never connect, and the client's models take a third of a second to import.
    from shared.client.connecting import open_bus  # noqa: PLC0415
    from shared.client.sdk import TenantClient  # noqa: PLC0415
    from shared.client.settings import load_settings  # noqa: PLC0415
    from vmport.quiet import silence  # noqa: PLC0415

    silence()
    settings = load_settings(url=url, config=config, home=Path.home(), spelled=_as_argument)
    async with TenantClient(await open_bus(settings), timeout_s=timeout_s) as client:
        yield client
