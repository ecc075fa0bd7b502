"""The shell of every service process: command line, settings, logs, telemetry, signals, exit code. No work.

A service is one coroutine, ``serve(runtime)``: it sets up, calls `Runtime.running`, and works until it is cancelled,
which is what SIGTERM and SIGINT do. Whatever it raises ends the process: nothing half-alive stays behind.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Generic, TypeVar

from shared import exit_codes
from shared.config import CONFIG_VARIABLE, ConfigError, ServiceSettings, read_sources
from shared.config_files import Finding
from shared.config_sample import render
from shared.exit_codes import ExitCode
from shared.http import Check, Health, TelemetryFailed, TelemetryServer
from shared.logs import configure, get_logger
from shared.metrics import Metrics
from shared.parties import Party
from shared.rabbit.bus import RabbitBus
from shared.rabbit.connection import LOST
from shared.tasks import first_of

S = TypeVar("S", bound=ServiceSettings)
log = get_logger(__name__)

QUEUE_MEASURE_INTERVAL_S = 15.0


@dataclass
class Runtime(Generic[S]):
    """What a service finds when it starts. ``bus`` connects in the background and is closed by the shell."""

    name: str
    settings: S
    metrics: Metrics
    health: Health
    bus: RabbitBus
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    """Closed after ``serve`` ended, before the bus: put there what must be closed in any case."""

    @property
    def party(self) -> Party:
        """Who this process is."""
        return self.settings.party

    def check(self, name: str, check: Check) -> None:
        """Add a named check to ``/readyz``: it answers None, or the reason why not."""
        self.health.add(name, check)

    def running(self) -> None:
        """Set-up is done. ``/readyz`` may say yes from now on."""
        # What is loaded by now lives as long as the process. A look through all of it takes the collector 80 ms and
        # more, in which a guest may stand still.
        gc.collect()
        gc.freeze()
        self.health.running()
        log.info("running", service=self.name, version=version(), party=str(self.party))


Serve = Callable[[Runtime[S]], Awaitable[None]]
CheckSettings = Callable[[S], Sequence[Finding]]
"""Tries what a start would use. Changes nothing."""


@dataclass(frozen=True, slots=True)
class Action(Generic[S]):
    """Another thing that the program can do instead of serving, under its own flag: it prints what ``run`` returns.

    ``run`` is given the settings when ``needs_settings``, else None.
    """

    flag: str
    help: str
    run: Callable[[S | None], str]
    needs_settings: bool = False


def version() -> str:
    """The installed release of vmport."""
    return distribution_version("vmport")


def run_service(
    name: str,
    model: type[S],
    serve: Serve[S],
    *,
    about: str,
    see_also: str = "",
    actions: Sequence[Action[S]] = (),
    check: CheckSettings[S] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """A service's whole ``main``: returns the process's exit code (`ExitCode`).

    ``see_also`` ends the description in ``--help``. ``check`` adds to what ``--check-config`` tries besides the files
    that the settings name.
    """
    options = _parser(name, f"{about} {see_also}".strip(), actions).parse_args(argv)
    if options.print_config:
        sys.stdout.write(render(model, title=f"Settings of {name}. {about}"))
        return ExitCode.OK
    chosen = next((action for action in actions if getattr(options, _destination(action.flag))), None)
    if chosen is not None and not chosen.needs_settings:
        sys.stdout.write(_line(chosen.run(None)))
        return ExitCode.OK
    try:
        sources = read_sources(model, options.config, program=name)
        settings = sources.settings()
        if options.check_config:
            findings = [*settings.problems(), *_check_ca(settings), *(check(settings) if check else ())]
            if findings:
                raise ConfigError(tuple(sources.problem(finding) for finding in findings))
            sys.stdout.write(f"{name}: the configuration is valid; it speaks as {settings.party}\n")
            return ExitCode.OK
        settings.bus.password()
    except ConfigError as error:
        return _unusable(name, error)
    except OSError as error:
        sys.stderr.write(f"{name}: bus.password_file: {error.filename} cannot be read: {error.strerror}\n")
        return ExitCode.CONFIG
    if chosen is not None:
        return _act(name, chosen, settings)
    return _run(name, settings, serve)


def _check_ca(settings: ServiceSettings) -> list[Finding]:
    file = settings.bus.ca_file
    if file is None or not file.is_file():
        return []
    try:
        ssl.create_default_context(cafile=file)
    except ssl.SSLError as error:
        return [Finding(("bus", "ca_file"), f"{file} holds no certificate in PEM: {error.reason or error}")]
    except OSError:
        return []  # Not readable; `ServiceSettings.problems` has said so.
    return []


def _act(name: str, action: Action[S], settings: S) -> int:
    try:
        sys.stdout.write(_line(action.run(settings)))
    except ConfigError as error:
        return _unusable(name, error)
    return ExitCode.OK


def _unusable(name: str, error: ConfigError) -> int:
    sys.stderr.write(f"{name}: the configuration cannot be used:\n{error}\n")
    return ExitCode.CONFIG


def _line(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _parser(name: str, about: str, actions: Sequence[Action[S]]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name,
        description=about,
        epilog="exit codes:\n" + exit_codes.table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    configured = os.environ.get(CONFIG_VARIABLE)
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(configured) if configured else None,
        metavar="FILE",
        help=f"settings in TOML (env: {CONFIG_VARIABLE}); VMPORT_SECTION__KEY variables win over it",
    )
    parser.add_argument(
        "--check-config", action="store_true", help="validate the settings, try the files that they name, and exit"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print a documented sample of the settings and exit"
    )
    parser.add_argument("--version", action="version", version=f"{name} {version()}")
    for action in actions:
        parser.add_argument(action.flag, action="store_true", help=action.help)
    return parser


def _destination(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _run(name: str, settings: S, serve: Serve[S]) -> int:
    try:
        configure(settings.log, service=name, party=str(settings.party))
    except OSError as error:
        sys.stderr.write(f"{name}: log.file: {error.filename} cannot be written: {error.strerror}\n")
        return ExitCode.CONFIG
    watchdog = _Watchdog(settings.stop_within_s)
    try:
        return asyncio.run(_serve_until_stopped(name, settings, serve, watchdog))
    except (TelemetryFailed, ConfigError) as error:
        log.error("cannot start", reason=str(error))  # noqa: TRY400  # the sentence says all
        return ExitCode.CONFIG
    except Exception:
        log.exception("crashed; this is a bug or a broken machine, please report it with this log")
        return ExitCode.CRASHED
    finally:
        watchdog.cancel()


class _Watchdog:
    """Ends a process that does not end by itself: a task ignores its cancellation, a thread is stuck in a library."""

    def __init__(self, within_s: float) -> None:
        self.within_s = within_s
        self._timer = threading.Timer(within_s, self._end)
        self._timer.daemon = True

    def start(self) -> None:
        """The process is to end from now on."""
        self._timer.start()

    def cancel(self) -> None:
        """It ended by itself."""
        self._timer.cancel()

    @staticmethod
    def _end() -> None:
        log.error("did not stop in time; in-flight work dropped, it will be redelivered at the next start")
        logging.shutdown()
        os._exit(ExitCode.CRASHED)


async def _serve_until_stopped(name: str, settings: S, serve: Serve[S], watchdog: _Watchdog) -> int:
    metrics = Metrics(service=name, version=version())
    health = Health()
    bus = RabbitBus(settings.bus, metrics.bus)
    health.add("bus", bus.check)
    runtime = Runtime(name, settings, metrics, health, bus)
    async with AsyncExitStack() as shell:
        shell.push_async_callback(bus.close)
        if settings.telemetry.port:
            await shell.enter_async_context(TelemetryServer(settings.telemetry, metrics, health))
        bus.start()
        return await _supervise(runtime, serve, watchdog)


async def _supervise(runtime: Runtime[S], serve: Serve[S], watchdog: _Watchdog) -> int:
    """Run the service until it ends or a signal comes; then give it a bounded time to stop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    work = loop.create_task(_serving(runtime, serve), name=runtime.name)
    gauges = loop.create_task(_measure_queues(runtime.bus), name="queue gauges")
    try:
        await first_of(work, stop.wait())
        runtime.health.stopping()
        watchdog.start()
        if work.done():
            work.result()
            return ExitCode.OK
        log.info("stopping", service=runtime.name, within_s=watchdog.within_s)
        work.cancel()
        await asyncio.wait({work})
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error
        log.info("stopped", service=runtime.name)
        return ExitCode.OK
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        gauges.cancel()
        await asyncio.gather(gauges, return_exceptions=True)


async def _serving(runtime: Runtime[S], serve: Serve[S]) -> None:
    async with runtime.stack:
        await serve(runtime)


async def _measure_queues(bus: RabbitBus) -> None:
    while True:
        try:
            await bus.measure_queues()
        except LOST as error:
            log.debug("queue depths unknown", error=str(error))
        await asyncio.sleep(QUEUE_MEASURE_INTERVAL_S)
