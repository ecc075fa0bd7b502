"""``vmport-node install-hook``: installs, shows or checks libvirt's hook, which `hypervisor.start_hook` makes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from services.node_agent.hypervisor.start_hook import hook_problem, hook_text, install, reload_libvirtd, unseen_problem
from services.node_agent.settings import NodeSection, node_section
from shared.config import CONFIG_VARIABLE, ConfigError
from shared.exit_codes import ExitCode

NAME = "vmport-node install-hook"
_EPILOG = """\
libvirtd looks for hooks when it starts and when it reloads (SIGHUP), so it is told to reload once the hook is written.
Guests go on running.

exit codes: 0 done, or with --check: in place; 1 the file cannot be written; 78 the settings are wrong, or with --check:
not in place.
"""


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(argv)
    try:
        settings = node_section(options.config, options.state_dir)
        hook, text = options.hook or settings.start_hook, hook_text(settings.given_away_dir)
    except (ConfigError, ValueError) as error:
        sys.stderr.write(f"{NAME}: {error}\n")
        return ExitCode.CONFIG
    if options.print:
        sys.stdout.write(text)
        return ExitCode.OK
    problem = hook_problem(hook, settings.given_away_dir)
    unseen = unseen_problem(hook, settings.libvirt_socket.parent.parent)
    if options.check:
        return _check(problem or unseen, hook)
    if problem is None and unseen is None:
        sys.stdout.write(f"{NAME}: {hook} is in place\n")
        return ExitCode.OK
    if options.dry_run:
        sys.stdout.write(f"{NAME}: would {f'write {hook}: {problem}' if problem else f'reload libvirtd: {unseen}'}\n")
        return ExitCode.OK
    return _install(hook, settings) if problem else _reload(hook, settings)


def _check(problem: str | None, hook: Path) -> int:
    if problem is not None:
        sys.stderr.write(f"{NAME}: {problem}\n")
        return ExitCode.CONFIG
    sys.stdout.write(f"{NAME}: {hook} is in place\n")
    return ExitCode.OK


def _install(hook: Path, settings: NodeSection) -> int:
    try:
        install(hook, settings.given_away_dir)
    except OSError as error:
        sys.stderr.write(f"{NAME}: {hook} cannot be written: {error.strerror}\n")
        return ExitCode.CRASHED
    sys.stdout.write(f"{NAME}: {hook} written\n")
    return _reload(hook, settings)


def _reload(hook: Path, settings: NodeSection) -> int:
    try:
        told = reload_libvirtd(hook, settings.libvirt_socket.parent.parent)
    except OSError as error:
        sys.stderr.write(f"{NAME}: libvirtd cannot be reloaded: {error.strerror}; restart it\n")
        return ExitCode.CRASHED
    for name in told:
        sys.stdout.write(f"{NAME}: {name} reloaded\n")
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="Install libvirt's hook that refuses to start a VM which this host has given away.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    configured = os.environ.get(CONFIG_VARIABLE)
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(configured) if configured else None,
        metavar="FILE",
        help=f"the node agent's settings, for node.state_dir and node.start_hook (env: {CONFIG_VARIABLE})",
    )
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="use this state directory, and no settings file")
    parser.add_argument("--hook", type=Path, metavar="FILE", help="where the hook lies, instead of node.start_hook")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="change nothing; say whether the hook is in place")
    what.add_argument("--dry-run", action="store_true", help="change nothing; say what would be written")
    what.add_argument("--print", action="store_true", help="print the hook and exit")
    return parser
