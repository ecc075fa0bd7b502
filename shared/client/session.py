"""One run of the command line: settings, connection, output, and how an error is shown. Owns no command."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from shared import bus, logs
from shared.client import render
from shared.client.connecting import open_bus
from shared.client.errors import PortNotAllowed
from shared.client.exits import exit_code_of
from shared.client.sdk import TenantClient
from shared.client.settings import ClientSettings, load_settings
from shared.config import ConfigError, LogSettings
from shared.errors import VmportError
from shared.exit_codes import ExitCode

T = TypeVar("T")
Connect = Callable[[ClientSettings], Awaitable[bus.Session]]


class Format(StrEnum):
    """How answers are written to standard output."""

    TABLE = "table"
    JSON = "json"


class OutputFailed(VmportError):
    """Standard output cannot be written."""

    code = "output_failed"


@dataclass
class Session:
    """What the global options say, and where answers go."""

    connect: Connect = open_bus
    url: str | None = None
    config: Path | None = None
    format: Format | None = None
    timeout_s: float | None = None
    verbose: bool = False
    out: Console = field(default_factory=Console)
    err: Console = field(default_factory=lambda: Console(stderr=True))
    home: Path = field(default_factory=Path.home)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _settings: ClientSettings | None = None

    @property
    def settings(self) -> ClientSettings:
        """File, environment and command line together; raises `ConfigError`."""
        if self._settings is None:
            self._settings = load_settings(url=self.url, config=self.config, home=self.home)
        return self._settings

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
        """Connect, do the work, disconnect; errors are raised."""
        settings = self.settings
        level = LogSettings(level="debug") if self.verbose else settings.log
        logs.configure(level, service="vmport", party=str(settings.party))

        async def conversation() -> T:
            async with TenantClient(await self.connect(settings), timeout_s=self.wait_s, now=self.now) as client:
                try:
                    return await work(client)
                finally:
                    self._name_clock(client.clock_ahead)

        return asyncio.run(conversation())

    def _name_clock(self, ahead: timedelta) -> None:
        """Times that the tenant writes are this host's: one that is wrong is named. Programs read standard error."""
        if ahead and not self.as_json:
            word = "ahead of" if ahead > timedelta(0) else "behind"
            self.say(f"warning: this host's clock is {abs(ahead.total_seconds()):.0f} s {word} the broker's")

    def answer(self, value: BaseModel | Sequence[BaseModel], *tables: Table) -> None:
        """Write the answer to standard output: tables, or the value as JSON."""
        if self.as_json:
            self.write(render.json_text(render.as_json(value)))
        else:
            self.show(*tables)

    def show(self, *tables: Table) -> None:
        """Tables on standard output; raises `OutputFailed`."""
        with _to_standard_output():
            render.show(self.out, *tables)

    def write(self, text: str) -> None:
        """Plain text on standard output, never wrapped or coloured; raises `OutputFailed`."""
        with _to_standard_output():
            self.out.file.write(text + "\n")
            self.out.file.flush()

    def say(self, text: str) -> None:
        """Something for a person; on standard error, so that a pipe gets the answer only."""
        self.err.print(text, highlight=False, markup=False, soft_wrap=True)

    def fail_usage(self, message: str) -> ExitCode:
        """Say what is wrong with the command line; an empty message means that help was printed instead."""
        if message.strip():
            self.say(f"vmport: {message.strip()}\nSee 'vmport --help', and --help after each command.")
        return ExitCode.USAGE

    def fail(self, error: Exception) -> ExitCode:
        """Say what went wrong, without a traceback where vmport knows what it was."""
        code = exit_code_of(error)
        if self._errors_as_json():
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

    def _errors_as_json(self) -> bool:
        """As answers are written; as text where the settings are what is wrong."""
        try:
            return self.as_json
        except ConfigError:
            return self.format is Format.JSON


def _facts_of(error: Exception) -> dict[str, Any]:
    facts: dict[str, Any] = {"code": getattr(error, "code", "internal"), "message": str(error)}
    if isinstance(error, PortNotAllowed):
        facts |= {"refused_by": error.refused_by, "refusals": render.as_json(error.refusals)}
    return facts


@contextmanager
def _to_standard_output() -> Iterator[None]:
    """Ends the command in order when the reader is gone (``vmport schema | head``); raises `OutputFailed`."""
    try:
        yield
    except (BrokenPipeError, SystemExit) as error:  # SystemExit is what rich makes of a broken pipe
        _discard_output()
        raise typer.Exit(ExitCode.OK) from error
    except OSError as error:
        _discard_output()
        raise OutputFailed(f"standard output cannot be written: {error.strerror}") from error


def _discard_output() -> None:
    """Let nothing more be written to standard output, which is closed or full; Python flushes it at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
