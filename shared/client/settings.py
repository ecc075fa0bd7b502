"""Settings of the ``vmport`` command line: the same file and variables as a service's, for a tenant."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.config import (
    CONFIG_VARIABLE,
    ENV_PREFIX,
    LOG_LEVEL_MEANS,
    ConfigError,
    LogLevel,
    LogSettings,
    Problem,
    Section,
    ServiceSettings,
    as_option,
    load,
)
from shared.parties import Role

USER_CONFIG = Path(".config/vmport/vmport.toml")
"""In the user's home: read when neither ``--config`` nor ``VMPORT_CONFIG`` names a file and this one is there."""


class ClientLogSettings(LogSettings):
    """What the command line writes about itself, besides its answers."""

    level: LogLevel = Field(default="error", description=LOG_LEVEL_MEANS)


class OutputSettings(Section):
    """How the command line answers."""

    format: Literal["table", "json"] = Field(default="table", description="table: for people; json: for programs.")
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=10.0, description="How long to wait for the broker's answer."
    )


class ClientSettings(ServiceSettings):
    """What a tenant's command line needs: the bus, and how to answer."""

    ROLES: ClassVar = frozenset({Role.TENANT})
    USER_FILE: ClassVar = f"~/{USER_CONFIG}"

    log: ClientLogSettings = Field(default=ClientLogSettings())
    output: OutputSettings = Field(default=OutputSettings())


_BUS_VARIABLES = f"{ENV_PREFIX}BUS"


def load_settings(
    *, url: str | None, config: Path | None, home: Path, spelled: Callable[[str], str] = as_option
) -> ClientSettings:
    """The settings of a tenant's program; raises `ConfigError`, which names the arguments as ``spelled`` writes them.

    The file is ``config``, else what ``VMPORT_CONFIG`` names, else `USER_CONFIG` in ``home`` if it exists. The
    environment wins over it, and ``url`` wins over both.
    """
    own = home / USER_CONFIG
    named = os.environ.get(CONFIG_VARIABLE)
    file = config or (Path(named) if named else own if own.exists() else None)
    if url is None and file is None and not any(name.upper().startswith(_BUS_VARIABLES) for name in os.environ):
        raise ConfigError((_nothing_found(spelled),))
    settings = load(ClientSettings, file, arguments={} if url is None else {"bus": {"url": url}}, spelled=spelled)
    _check_password_file(settings)
    return settings


def _nothing_found(spelled: Callable[[str], str]) -> Problem:
    return Problem(
        "no settings found",
        "",
        f"looked for {spelled('url')}, {spelled('config')}, {CONFIG_VARIABLE}, {_BUS_VARIABLES}__URL "
        f"and ~/{USER_CONFIG}\n"
        f"  mkdir -p ~/{USER_CONFIG.parent}; vmport --print-config > ~/{USER_CONFIG}    writes a sample to fill in\n"
        f"  export {_BUS_VARIABLES}__URL=amqp://tenant.NAME:PASSWORD@HOST:5672/vmport    is enough for a first try",
    )


def _check_password_file(settings: ClientSettings) -> None:
    """A missing file is found now, not after the time-out of a connection."""
    try:
        settings.bus.password()
    except OSError as error:
        problem = Problem("bus.password_file", "", f"{error.filename} cannot be read: {error.strerror}")
        raise ConfigError((problem,)) from error
