"""One run of the command line: settings, connection, output and the exit code of what went wrong. Owns no command."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from shared import bus, logs
from shared.bus import BusDown, Undeliverable
from shared.client import render
from shared.client.errors import (
    CancelNotPossible,
    NoAnswer,
    PortEndedOtherwise,
    PortNotAllowed,
    PortWasCancelled,
    QuestionFailed,
)
from shared.client.resolve import Ambiguous, NotFound
from shared.client.sdk import TenantClient
from shared.client.settings import USER_CONFIG, ClientSettings, checked_bus_settings
from shared.client.units import BadValue
from shared.config import CONFIG_VARIABLE, ConfigError, LogSettings, Problem, load
from shared.errors import VmportError
from shared.exit_codes import ExitCode
from shared.messages.service_change import PortPhase

T = TypeVar("T")
Connect = Callable[[ClientSettings], Awaitable[bus.Session]]


class Format(StrEnum):
    """How answers are written to standard output."""

    TABLE = "table"
    JSON = "json"


EXIT_OF_PHASE = {
    PortPhase.COMPLETED: ExitCode.OK,
    PortPhase.PLANNED: ExitCode.OK,
    PortPhase.REFUSED: ExitCode.REFUSED,
    PortPhase.FAILED: ExitCode.PORT_FAILED,
    PortPhase.CANCELLED: ExitCode.CANCELLED,
}


NOT_THERE = frozenset({"vm_unknown", "not_owner", "recipient_unknown"})
"""Refusals that say that a VM or provider is not there, or is not the tenant's."""


def exit_code_of(error: Exception) -> ExitCode:
    """The exit status of an error that a command ended with."""
    match error:
        case ConfigError():
            return ExitCode.CONFIG
        case BadValue() | Ambiguous():
            return ExitCode.USAGE
        case NotFound():
            return ExitCode.NOT_FOUND
        case QuestionFailed(code=code):
            return ExitCode.NOT_FOUND if code in {"not_found", "not_yours"} else ExitCode.REFUSED
        case CancelNotPossible(code=code):
            return ExitCode.NOT_FOUND if code == "unknown_port" else ExitCode.REFUSED
        case PortNotAllowed(refusals=refusals):
            unknown = bool(refusals) and all(refusal.code in NOT_THERE for refusal in refusals)
            return ExitCode.NOT_FOUND if unknown else ExitCode.REFUSED
        case PortWasCancelled():
            return ExitCode.CANCELLED
        case PortEndedOtherwise():
            return ExitCode.PORT_FAILED
        case NoAnswer() | TimeoutError():
            return ExitCode.TIMED_OUT
        case BusDown() | Undeliverable():
            return ExitCode.BUS_UNREACHABLE
        case _:
            return ExitCode.CRASHED


async def rabbitmq(settings: ClientSettings) -> bus.Session:
    """The real bus, as one session of a tenant; raises `BusDown`."""
    # RabbitMQ's client library takes a third of a second to import; `vmport --help` does not need it.
    from prometheus_client import CollectorRegistry  # noqa: PLC0415

    from shared.metrics import BusMetrics  # noqa: PLC0415
    from shared.rabbit.session import open_session  # noqa: PLC0415

    return await open_session(settings.bus, BusMetrics(CollectorRegistry()))


@dataclass
class Session:
    """What the global options say, and where answers go."""

    connect: Connect = rabbitmq
    url: str | None = None
    config: Path | None = None
    format: Format | None = None
    timeout_s: float | None = None
    verbose: bool = False
    out: Console = field(default_factory=Console)
    err: Console = field(default_factory=lambda: Console(stderr=True))
    home: Path = field(default_factory=Path.home)
    _settings: ClientSettings | None = None

    @property
    def settings(self) -> ClientSettings:
        """File, environment and command line together; raises `ConfigError`."""
        if self._settings is None:
            overrides: dict[str, Any] = {"bus": {"url": self.url}} if self.url else {}
            file = self._config_file()
            if file is None and not overrides and not any(name.startswith("VMPORT_BUS__") for name in os.environ):
                raise ConfigError((Problem("no settings found", "", self._first_steps()),))
            if self.url:
                checked_bus_settings(self.url, origin="--url")
            self._settings = load(ClientSettings, file, command_line=overrides)
        return self._settings

    def _first_steps(self) -> str:
        own = self.home / USER_CONFIG
        return (
            f"looked at --config, {CONFIG_VARIABLE}, {own}, --url and VMPORT_BUS__URL.\n"
            f"To begin: vmport --print-config > {own}, and set bus.url in it to the URL that the broker gave you."
        )

    def _config_file(self) -> Path | None:
        if self.config:
            return self.config
        if named := os.environ.get(CONFIG_VARIABLE):
            return Path(named)
        own = self.home / USER_CONFIG
        return own if own.exists() else None

    @property
    def as_json(self) -> bool:
        """Whether a program reads standard output."""
        if self.format is not None:
            return self.format is Format.JSON
        return self.settings.output.format == "json"

    @property
    def wait_s(self) -> float:
        """How long an answer may take."""
        return self.timeout_s or self.settings.output.timeout_s

    def run(self, work: Callable[[TenantClient], Awaitable[T]]) -> T:
        """Connect, do the work, leave; whatever goes wrong is raised."""
        settings = self.settings
        level = LogSettings(level="debug") if self.verbose else settings.log
        logs.configure(level, service="vmport", party=str(settings.party))

        async def conversation() -> T:
            async with TenantClient(await self.connect(settings), timeout_s=self.wait_s) as client:
                return await work(client)

        return asyncio.run(conversation())

    def answer(self, value: BaseModel | Sequence[BaseModel], *tables: Table) -> None:
        """Write the answer to standard output: tables, or the value as JSON."""
        if self.as_json:
            self.write(render.json_text(render.as_json(value)))
        else:
            render.show(self.out, *tables)

    def write(self, text: str) -> None:
        """Plain text on standard output, never wrapped or coloured."""
        self.out.file.write(text + "\n")
        self.out.file.flush()

    def say(self, text: str) -> None:
        """Something for a person; on standard error, so that it disturbs no pipe."""
        self.err.print(text, highlight=False, markup=False, soft_wrap=True)

    def fail_usage(self, message: str) -> ExitCode:
        """Say what is wrong with the command line; an empty message means that help was printed instead."""
        if message.strip():
            self.say(f"vmport: {message.strip()}\nvmport --help, and --help after each command, say what there is.")
        return ExitCode.USAGE

    def fail(self, error: Exception) -> ExitCode:
        """Say what went wrong, without a traceback where vmport knows what it was."""
        code = exit_code_of(error)
        if self.format is Format.JSON:
            self.say(render.json_text({"error": _facts_of(error)}, compact=True))
        else:
            self.say(f"vmport: {error or type(error).__name__}")
            if isinstance(error, PortNotAllowed):
                render.show(self.err, render.refusals_table(error.refusals))
        if code is ExitCode.CRASHED and not isinstance(error, VmportError):
            self.say("This is a defect of vmport; run again with --verbose for its traceback.")
            if self.verbose:
                self.err.print_exception()
        return code


def _facts_of(error: Exception) -> dict[str, Any]:
    facts: dict[str, Any] = {"code": getattr(error, "code", "internal"), "message": str(error)}
    if isinstance(error, PortNotAllowed):
        facts |= {"refused_by": error.refused_by, "refusals": render.as_json(error.refusals)}
    return facts


def quiet_broken_pipe() -> int:
    """``vmport schema | head`` is no error: stop, and let nothing be written to the closed pipe at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.OK
