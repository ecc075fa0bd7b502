"""The ``vmport`` command line: its commands and global options. What a command does is in the modules beside this one.

Standard output carries the answer: tables, or with ``--format json`` the message bodies of `vmport schema` (a watch
writes NDJSON, one event per line). Progress, hints and errors go to standard error. Exit codes: `shared.exit_codes`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from shared import config_sample
from shared.client import (
    network_commands,
    plan_commands,
    port_commands,
    prefix_commands,
    rules_commands,
    vm_commands,
)
from shared.client.session import Format, Session
from shared.client.settings import ClientSettings
from shared.client.setup_commands import print_schema, print_topology
from shared.exit_codes import ExitCode

EPILOG = "Exit codes:\n\n" + "\n\n".join(f"{code:d}  {code.meaning}" for code in ExitCode)

app = typer.Typer(
    name="vmport",
    help="Port a running virtual machine from one cloud provider to another.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(vm_commands.app, name="vm")
app.add_typer(port_commands.app, name="port")
app.add_typer(plan_commands.app, name="plan")
app.add_typer(network_commands.app, name="network")
app.add_typer(prefix_commands.app, name="prefix")
app.add_typer(rules_commands.app, name="rules")
app.add_typer(vm_commands.providers, name="provider")
app.command("quote")(port_commands.quote)
app.command("schema")(print_schema)
app.command("topology")(print_topology)


def _version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"vmport {metadata.version('vmport')}")
        raise typer.Exit


def _print_config(*, wanted: bool) -> None:
    if wanted:
        typer.echo(config_sample.render(ClientSettings, title="Settings of vmport, the command line."), nl=False)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    output: Annotated[
        Format | None, typer.Option("--format", help="How to answer; json is documented by 'vmport schema'.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    url: Annotated[
        str | None,
        typer.Option(
            help="RabbitMQ, as amqp://tenant.NAME:PASSWORD@HOST:PORT/VHOST. A password here is seen in the process "
            "list; the environment VMPORT_BUS__URL or a file is better."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file (TOML); else VMPORT_CONFIG, else ~/.config/vmport/vmport.toml.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.1, max=3600, help="Seconds to wait for the broker's answer.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log to standard error.")] = False,
    version: Annotated[  # noqa: ARG001  # the callback acts on it
        bool,
        typer.Option(
            "--version", callback=lambda wanted: _version(wanted=wanted), is_eager=True, help="Print the version."
        ),
    ] = False,
    print_config: Annotated[  # noqa: ARG001  # the callback acts on it
        bool,
        typer.Option(
            "--print-config",
            callback=lambda wanted: _print_config(wanted=wanted),
            is_eager=True,
            help="Print a documented sample of the settings.",
        ),
    ] = False,
) -> None:
    """Port a running virtual machine from one cloud provider to another."""
    session = context.ensure_object(Session)
    session.format, session.url, session.config = Format.JSON if as_json else output, url, config
    session.timeout_s, session.verbose = timeout, verbose


FLAGS = ("--verbose", "-v", "--json")
GLOBAL_OPTIONS = ("--format", "--url", "--config", "--timeout")


def hoisted(arguments: Sequence[str]) -> list[str]:
    """Global options first, wherever they were typed: people write ``vmport vm list --format json``."""
    globals_, rest = [], []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in GLOBAL_OPTIONS:
            globals_ += [argument, *([value] if (value := next(waiting, None)) is not None else [])]
        elif argument.partition("=")[0] in GLOBAL_OPTIONS or argument in FLAGS:
            globals_.append(argument)
        else:
            rest.append(argument)
    return globals_ + rest


def run(arguments: Sequence[str], session: Session) -> int:
    """One command line with its session; returns the exit code. Tests bring a session with an in-memory bus."""
    try:
        code = app(hoisted(arguments), standalone_mode=False, obj=session)
    except typer.TyperException as error:
        # Typer's words for an enumeration begin with those of a Python exception.
        return session.fail_usage(error.format_message().replace("Value error, ", ""))
    except (typer.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001  # the outermost frame: every error becomes a sentence and a code
        return session.fail(error)
    return code if isinstance(code, int) else ExitCode.OK


def main(argv: Sequence[str] | None = None) -> int:
    """The console script."""
    return run(sys.argv[1:] if argv is None else argv, Session())
