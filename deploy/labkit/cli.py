"""The command `deploy/lab`: reads arguments, calls `Lab`, prints. Decides nothing about the lab itself."""

import argparse
import os
import sys
from collections.abc import Sequence

from deploy.labkit.errors import LabError
from deploy.labkit.lab import Lab, LabOptions


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="deploy/lab", description=__doc__, allow_abbrev=False)
    top.add_argument("--lab", metavar="NAME", help="which lab (env: VMPORT_LAB; default: lab)")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="bring the lab up; repeat it at will")
    up.add_argument("--link", metavar="RATE", help="rate of each provider's uplink, e.g. 100mbit, or none")
    up.add_argument("--rtt", metavar="TIME", help="round-trip time between providers, e.g. 20ms, or none")
    up.add_argument("--providers", metavar="A,B", help="names of the providers (default: alpha,beta)")
    commands.add_parser("down", help="remove all of the lab, also after a crash")
    enter = commands.add_parser("exec", help="run a command in a host: exec HOST -- CMD")
    enter.add_argument("host")
    enter.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it did what was asked, 1 if not, 2 for wrong usage."""
    arguments = parser().parse_args(argv)
    try:
        return _run(Lab(arguments.lab), arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _run(lab: Lab, arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "up":
            providers = tuple(arguments.providers.split(",")) if arguments.providers else None
            lab.up(LabOptions(providers=providers, link=arguments.link, rtt=arguments.rtt))
        case "down":
            lab.down()
        case "exec":
            command = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
            line = lab.exec_argv(arguments.host, command or ["bash"])
            os.execvpe(line[0], line, lab.exec_environment(arguments.host))
    return 0
