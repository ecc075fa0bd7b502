"""Settings that every service has, and how they are read: one TOML file, overlaid by ``VMPORT_…`` environment.

``VMPORT_BUS__URL`` is ``url`` in ``[bus]``; a list or table in the environment is JSON. A service subclasses
`ServiceSettings` with its own sections. Errors name file or variable, key and what is allowed, never a value.
Owns no logging, no bus, no process; `shared.config_sample` renders the documented sample, `shared.config_phrases` has
the words for what pydantic finds, `shared.config_files` tries the files that settings name.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from shared.config_files import AppendedFile, CheckedModel, Finding, ReadFile, problems_of_files
from shared.config_phrases import in_words
from shared.config_tables import Table, is_json, merge, reaches, required_keys
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


class BadKey(ValueError):
    """A validator's finding about a table for which one key in it is to blame. For pydantic; nobody else sees it."""

    def __init__(self, key: str, text: str) -> None:
        self.key = key
        super().__init__(text)


class Section(CheckedModel):
    """A table of the settings file. Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BusSettings(Section):
    """How to reach RabbitMQ."""

    url: SecretStr = Field(
        description=f"RabbitMQ, as {URL_SHAPE}; amqps for TLS. The user is the party that this process speaks as.",
        examples=[example_url(frozenset(Role))],
    )
    password_file: ReadFile | None = Field(
        default=None,
        description="A file whose first line is the password; then the URL has none.",
        examples=["/etc/vmport/bus.password"],
    )
    ca_file: ReadFile | None = Field(
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
        default=3.0, description="Longest pause before connecting again; after an outage a port waits for so long."
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
            raise BadKey("url", "give the password in url or in password_file, not in both")
        if not in_url and self.password_file is None:
            raise BadKey("url", "give the password in url or in password_file")
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


LogLevel = Literal["debug", "info", "warning", "error"]
LOG_LEVEL_MEANS = "The least severe level that is written."


class LogSettings(Section):
    """What the process writes about itself."""

    format: Literal["console", "json"] = Field(
        default="console", description="console: for people; json: one object per line."
    )
    level: LogLevel = Field(default="info", description=LOG_LEVEL_MEANS)
    file: AppendedFile | None = Field(
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
    USER_FILE: ClassVar[str | None] = None
    """Where a settings file is looked for when none is named."""

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
            raise BadKey("url", f"the url's user {bus.party} is a {bus.party.role}; this service speaks as: {allowed}")
        return bus

    @property
    def party(self) -> Party:
        """Who this process is on the bus."""
        return self.bus.party

    def problems(self) -> list[Finding]:
        """What a start could not use, of files and directories that these settings name. Looks at them."""
        return problems_of_files(self)


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


@dataclass(frozen=True, slots=True)
class Sources(Generic[S]):
    """What file, environment and caller say, kept apart, so that a problem names the one that it comes from.

    ``spelled`` is how the caller's user writes an argument: ``--url`` on the command line.
    """

    model: type[S]
    path: Path | None
    from_file: Table
    from_env: Table
    from_caller: Table
    program: str
    spelled: Callable[[str], str]

    def settings(self) -> S:
        """All of them as one, validated; raises `ConfigError`."""
        try:
            return self.model(**merge(merge(self.from_file, self.from_env), self.from_caller))
        except ValidationError as error:
            raise ConfigError(self._problems_of(error)) from error

    def problem(self, finding: Finding) -> Problem:
        """A finding about valid settings, with the source to blame."""
        return self._problem(list(finding.location), finding.what)

    def _problems_of(self, error: ValidationError) -> tuple[Problem, ...]:
        """Each finding of pydantic as a `Problem`. Values are never echoed."""
        found, missing = [], False
        for item in error.errors(include_input=False, include_url=False):
            location = [str(part) for part in item["loc"]]
            if item["type"] != "missing":
                culprit = item.get("ctx", {}).get("error")
                key = culprit.key if isinstance(culprit, BadKey) else None
                found.append(self._problem(location, in_words(item), key=key))
                continue
            variables = " and ".join(_variable(key) for key in required_keys(self.model, location))
            if self.path is None:
                missing = True
                found.append(Problem(variables, "", "is required where there is no settings file"))
            else:
                found.append(self._problem(location, f"is required; set it here or as {variables}"))
        return (self._no_file(), *found) if missing else tuple(found)

    def _problem(self, location: list[str], what: str, *, key: str | None = None) -> Problem:
        """``key`` is the one inside this table that is to blame."""
        blamed = [*location, key] if key else location
        if blamed and reaches(self.from_caller, blamed):
            return Problem(self.spelled(blamed[-1]), "", what)
        if blamed and reaches(self.from_env, blamed):
            return Problem(_variable_in_use(blamed), "", what)
        return Problem(str(self.path or "settings"), ".".join(location), what)

    def _no_file(self) -> Problem:
        own = f", and there is no {self.model.USER_FILE}" if self.model.USER_FILE else ""
        target = self.model.USER_FILE or "FILE"
        return Problem(
            "no settings file",
            "",
            f"neither {self.spelled('config')} nor {CONFIG_VARIABLE} names one{own}; "
            f"'{self.program} --print-config > {target}' writes a documented sample to fill in",
        )


def as_option(name: str) -> str:
    """How an argument is written on the command line."""
    return "--" + name.replace("_", "-")


def load(
    model: type[S],
    path: Path | None,
    *,
    arguments: Mapping[str, Any] | None = None,
    program: str = "vmport",
    spelled: Callable[[str], str] = as_option,
) -> S:
    """Read the file, lay the environment and then the caller's arguments over it, validate; raises `ConfigError`.

    ``arguments`` is a table like the file's; its keys are the arguments' names, which ``spelled`` writes in errors.
    """
    return read_sources(model, path, arguments=arguments, program=program, spelled=spelled).settings()


def read_sources(
    model: type[S],
    path: Path | None,
    *,
    arguments: Mapping[str, Any] | None = None,
    program: str = "vmport",
    spelled: Callable[[str], str] = as_option,
) -> Sources[S]:
    """The same, not yet validated. Raises `ConfigError` for what cannot be read."""
    from_file = read_toml(path) if path else {}
    try:
        from_env = EnvSettingsSource(model)()
    except ValueError as error:
        raise ConfigError(_not_json(model)) from error
    return Sources(model, path, from_file, from_env, dict(arguments or {}), program, spelled)


def read_toml(path: Path) -> Table:
    """A TOML file as a table; raises `ConfigError`. For other files than settings, too."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError((Problem(str(path), "", f"cannot be read: {error.strerror}"),)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError((Problem(str(path), "", f"is not TOML: {error}"),)) from error


def _not_json(model: type[ServiceSettings]) -> tuple[Problem, ...]:
    """Which variables hold no JSON where a list or table is expected; pydantic tells the field only."""
    found = []
    for variable in sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX)):
        location = variable.upper().removeprefix(ENV_PREFIX).lower().split(ENV_DELIMITER)
        if location[0] in model.model_fields and not is_json(os.environ[variable]):
            found.append(Problem(variable, "", 'expected JSON where this is a list or a table, such as ["a", "b"]'))
    return tuple(found)


def _variable(location: Sequence[str]) -> str:
    return ENV_PREFIX + ENV_DELIMITER.join(part.upper() for part in location)


def _variable_in_use(location: Sequence[str]) -> str:
    """The variable that sets this place: its own, or one that holds a table or list around it."""
    names = {name.upper() for name in os.environ}
    ways = (_variable(location[:length]) for length in range(len(location), 0, -1))
    return next((way for way in ways if way in names), _variable(location))
