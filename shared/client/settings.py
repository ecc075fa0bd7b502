"""Settings of the ``vmport`` command line: the same file and variables as a service's, for a tenant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from shared.config import BusSettings, ConfigError, LogSettings, Problem, Section, ServiceSettings
from shared.parties import Role

USER_CONFIG = Path(".config/vmport/vmport.toml")
"""In the user's home: read when neither ``--config`` nor ``VMPORT_CONFIG`` names a file and this one is there."""


def checked_bus_settings(url: str, *, origin: str, **more: Any) -> BusSettings:
    """The bus settings of one URL, given as `origin` (an option, an argument), which errors blame.

    Raises `ConfigError`, also where the URL's user is no tenant.
    """
    try:
        bus = BusSettings.model_validate({"url": url} | more)
    except ValidationError as error:
        found = (item["msg"].removeprefix("Value error, ") for item in error.errors(include_input=False))
        raise ConfigError(tuple(Problem(origin, "", what) for what in found)) from error
    if bus.party.role not in ClientSettings.ROLES:
        raise ConfigError(
            (Problem(origin, "", f"its user {bus.party} is a {bus.party.role}; vmport speaks as: tenant"),)
        )
    return bus


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

    log: LogSettings = Field(default=LogSettings(level="error"))
    output: OutputSettings = Field(default=OutputSettings())
