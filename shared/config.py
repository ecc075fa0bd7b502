"""Settings that every service has, and how they are read: one TOML file, overlaid by ``VMPORT_…`` environment.

``VMPORT_BUS__URL`` is ``url`` in ``[bus]``; a list or table in the environment is JSON. A service subclasses
`ServiceSettings` with its own sections. Errors name file or variable, key and what is allowed, never a value.
Owns no logging, no bus, no process; `shared.config_sample` renders the documented sample.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from shared.errors import VmportError
from shared.parties import BadPartyName, Party, Role

ENV_PREFIX = "VMPORT_"
ENV_DELIMITER = "__"
CONFIG_VARIABLE = "VMPORT_CONFIG"

URL_SHAPE = "amqp://PARTY:PASSWORD@HOST:PORT/VHOST"


_EXAMPLE_PARTIES = {
    Role.BROKER: "broker",
    Role.DONOR: "donor.alpha",
    Role.RECIPIENT: "recipient.alpha",
    Role.NODE: "node.alpha.alpha-1",
    Role.TENANT: "tenant.acme",
}


def example_url(roles: frozenset[Role]) -> str:
    """A bus URL as one of these roles would write it, for samples."""
    role = next(role for role in Role if role in roles)
    return f"amqp://{_EXAMPLE_PARTIES[role]}:secret@rabbitmq.example:5672/vmport"


class Section(BaseModel):
    """A table of the settings file. Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BusSettings(Section):
    """How to reach RabbitMQ."""

    url: SecretStr = Field(
        description=f"RabbitMQ, as {URL_SHAPE}; amqps for TLS. The user is the party that this process speaks as.",
        examples=[example_url(frozenset(Role))],
    )
    password_file: Path | None = Field(
        default=None,
        description="A file whose first line is the password; then the URL has none.",
        examples=["/etc/vmport/bus.password"],
    )
    ca_file: Path | None = Field(
        default=None, description="With amqps: trust only this CA.", examples=["/etc/vmport/ca.pem"]
    )
    heartbeat_s: Annotated[int, Field(ge=1, le=600)] = Field(
        default=10, description="AMQP heartbeat; a silent connection is given up after about three."
    )
    prefetch: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=32, description="Messages that RabbitMQ hands over before the first is acknowledged."
    )
    connect_timeout_s: Annotated[float, Field(gt=0, le=300)] = Field(
        default=10.0, description="One attempt to connect and log in."
    )
    publish_timeout_s: Annotated[float, Field(gt=0, le=300)] = Field(
        default=10.0, description="How long a publish may wait for its confirm."
    )
    reconnect_min_s: Annotated[float, Field(gt=0, le=60)] = Field(
        default=0.2, description="First pause before connecting again; it doubles each time, with jitter."
    )
    reconnect_max_s: Annotated[float, Field(gt=0, le=600)] = Field(
        default=10.0, description="Longest pause before connecting again."
    )

    @field_validator("url")
    @classmethod
    def _url_names_a_party(cls, url: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(url.get_secret_value())
            port_ok = parts.port is None or parts.port > 0
        except ValueError:
            port_ok = False
            parts = SplitResult("", "", "", "", "")
        if not (port_ok and parts.scheme in {"amqp", "amqps"} and parts.hostname and parts.username):
            raise ValueError(f"expected {URL_SHAPE}")
        try:
            Party.parse(unquote(parts.username))
        except BadPartyName as error:
            raise ValueError(str(error)) from error
        return url

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        in_url = self._parts().password is not None
        if in_url and self.password_file is not None:
            raise ValueError("give the password in url or in password_file, not in both")
        if not in_url and self.password_file is None:
            raise ValueError("give the password in url or in password_file")
        return self

    def _parts(self) -> SplitResult:
        return urlsplit(self.url.get_secret_value())

    @property
    def party(self) -> Party:
        """Who this process speaks as: the URL's user."""
        return Party.parse(unquote(self._parts().username or ""))

    @property
    def host(self) -> str:
        """RabbitMQ's host name or address."""
        return self._parts().hostname or ""

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self._parts().scheme == "amqps"

    @property
    def port(self) -> int:
        """RabbitMQ's TCP port."""
        return self._parts().port or (5671 if self.tls else 5672)

    @property
    def vhost(self) -> str:
        """RabbitMQ's virtual host; ``/`` when the URL names none."""
        return unquote(self._parts().path.removeprefix("/")) or "/"

    @property
    def shown(self) -> str:
        """The address without the password, for logs and errors."""
        return f"{self._parts().scheme}://{self.party}@{self.host}:{self.port}/{self.vhost.removeprefix('/')}"

    def password(self) -> str:
        """The password; ``password_file`` is read each time, so that a changed one is used next. Raises OSError."""
        if self.password_file is None:
            return unquote(self._parts().password or "")
        return self.password_file.read_text(encoding="utf-8").partition("\n")[0].strip()


class LogSettings(Section):
    """What the process writes about itself."""

    format: Literal["console", "json"] = Field(
        default="console", description="console: for people; json: one object per line."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe level that is written."
    )
    file: Path | None = Field(
        default=None,
        description="Append to this file instead of standard error.",
        examples=["/var/log/vmport/vmport.log"],
    )


class TelemetrySettings(Section):
    """Where /metrics, /healthz and /readyz are served."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=0, description="TCP port; 0 turns telemetry off.")


class ServiceSettings(BaseSettings):
    """The sections that every service has. Construct it in tests; a process uses `load`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_DELIMITER, extra="forbid", frozen=True
    )

    ROLES: ClassVar[frozenset[Role]] = frozenset(Role)
    """The roles that the bus URL's user may have."""

    bus: BusSettings
    log: LogSettings = Field(default=LogSettings())
    telemetry: TelemetrySettings = Field(default=TelemetrySettings())
    stop_within_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=20.0, description="After SIGTERM: how long the work in hand may take before it is dropped."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed in: `load` merges file and environment itself, to know which of them to blame."""
        return (init_settings,)

    @field_validator("bus")
    @classmethod
    def _party_fits(cls, bus: BusSettings) -> BusSettings:
        if bus.party.role not in cls.ROLES:
            allowed = ", ".join(sorted(cls.ROLES))
            raise ValueError(f"the url's user {bus.party} is a {bus.party.role}; this service speaks as: {allowed}")
        return bus

    @property
    def party(self) -> Party:
        """Who this process is on the bus."""
        return self.bus.party


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where it was set, which key, and the sentence."""

    origin: str
    key: str
    what: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.key}: {self.what}" if self.key else f"{self.origin}: {self.what}"


class ConfigError(VmportError):
    """The configuration cannot be used."""

    code = "bad_config"

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


S = TypeVar("S", bound=ServiceSettings)
Table = dict[str, Any]


def load(model: type[S], path: Path | None, *, command_line: Mapping[str, Any] | None = None) -> S:
    """Read the file, lay the environment and then the command line over it, validate; raises `ConfigError`."""
    from_file = read_toml(path) if path else {}
    try:
        from_env = _environment(model)
    except ValueError as error:
        raise ConfigError((Problem("environment", "", f"{error}; a list or table must be JSON"),)) from error
    try:
        return model(**merge(merge(from_file, from_env), command_line or {}))
    except ValidationError as error:
        raise ConfigError(problems_of(error, path=path, from_env=from_env)) from error


def read_toml(path: Path) -> Table:
    """A TOML file as a table; raises `ConfigError`. For other files than settings, too."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError((Problem(str(path), "", f"cannot be read: {error.strerror}"),)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError((Problem(str(path), "", f"is not TOML: {error}"),)) from error


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Table:
    """Two nested tables as one; ``above`` wins, table by table."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged


def _environment(model: type[ServiceSettings]) -> Table:
    """What ``VMPORT_…`` variables say. Raises ValueError where JSON was expected."""
    return EnvSettingsSource(model)()


def problems_of(
    error: ValidationError, *, path: Path | None, from_env: Mapping[str, Any] | None = None
) -> tuple[Problem, ...]:
    """Each finding of pydantic as a `Problem`, with the file or variable to blame. Values are never echoed."""
    found = []
    for item in error.errors(include_input=False, include_url=False):
        location = [str(part) for part in item["loc"]]
        key = ".".join(location)
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            what = f"is required; set it here or as {_variable(location)}"
        elif item["type"] == "extra_forbidden":
            what = "is no setting; see --print-config for all of them"
        origin = _variable(location) if _reaches(from_env or {}, location) else str(path or "environment")
        found.append(Problem(origin, key, what))
    return tuple(found)


def _variable(location: list[str]) -> str:
    return ENV_PREFIX + ENV_DELIMITER.join(part.upper() for part in location)


def _reaches(table: Mapping[str, Any], location: list[str]) -> bool:
    """Whether this table sets the place that a problem names."""
    here: Any = table
    for part in location:
        if not isinstance(here, Mapping):
            return True
        if part not in here:
            return False
        here = here[part]
    return bool(location)
