"""The command `deploy/lab`: reads arguments, calls `Lab`, prints. Decides nothing about the lab itself."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.labkit.errors import LabError
from deploy.labkit.guests import WORKLOADS, GuestSpec
from deploy.labkit.lab import Lab, LabOptions
from shared.messages.network import NetworkMode


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="deploy/lab", description="Two or more cloud providers on one machine.", allow_abbrev=False
    )
    top.add_argument("--lab", metavar="NAME", help="which lab (env: VMPORT_LAB; default: lab)")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = _add(commands, "up", "bring the lab up; repeat it at will")
    up.add_argument("--link", metavar="RATE", help="rate of each provider's uplink, e.g. 100mbit, or none")
    up.add_argument("--rtt", metavar="TIME", help="round-trip time between providers, e.g. 20ms, or none")
    up.add_argument("--providers", metavar="A,B", help="names of the providers (default: alpha,beta)")
    up.add_argument(
        "--network",
        type=NetworkMode,
        choices=tuple(NetworkMode),
        metavar="|".join(NetworkMode),
        help="how guests keep their addresses (default: joined, one network for all; else each provider has its own)",
    )
    up.add_argument("--no-services", action="store_true", help="only hosts, networks, libvirt and RabbitMQ")
    status = _add(commands, "status", "processes, their health, and guests")
    status.add_argument("--json", action="store_true")
    logs = _add(commands, "logs", "show logs: all names, or the end of one")
    logs.add_argument("name", nargs="?")
    logs.add_argument("-n", "--lines", type=int, default=50)
    logs.add_argument("-f", "--follow", action="store_true")
    _add(commands, "down", "remove all of the lab, also after a crash")
    enter = _add(commands, "exec", "run a command in a host: exec HOST -- CMD")
    enter.add_argument("host")
    enter.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD")
    _add_guest(_add(commands, "guest", "build, start, stop and ask guests"))
    return top


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=text, description=text, allow_abbrev=False)


def _add_guest(guest: argparse.ArgumentParser) -> None:
    actions = guest.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = _add(actions, "build", "build the tiny guest's image, or the Debian one")
    build.add_argument("--debian", action="store_true", help="a real Debian with nginx and redis (about two minutes)")
    start = _add(actions, "start", "define a guest at a provider and boot it")
    start.add_argument("name")
    start.add_argument("--provider", required=True)
    start.add_argument("--memory", type=int, default=512, metavar="MIB")
    start.add_argument("--vcpus", type=int, default=1)
    start.add_argument("--workload", choices=WORKLOADS, default="idle")
    start.add_argument("--image", choices=("tiny", "debian"))
    start.add_argument("--disk", type=Path, help="this disk instead of the image's, copied")
    start.add_argument("--disk-format", choices=("raw", "qcow2"), default="raw")
    start.add_argument("--overlay", action="store_true", help="its qcow2 disk is a layer on a copy of the image")
    _add_kinds(start)
    start.add_argument("--kernel", type=Path, help="this kernel instead of the image's")
    start.add_argument("--initrd", type=Path)
    start.add_argument("--cmdline", help="kernel command line instead of the image's")
    start.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=N",
        help="guestd: pages_s, hot_mib, region_mib, blocks_s, requests_s, steps_s",
    )
    start.add_argument("--no-wait", action="store_true", help="do not wait until it answers")
    _add(actions, "list", "guests and where they are")
    for action, text in (
        ("stop", "pull the plug; the definition stays"),
        ("remove", "stop it and delete it with its disks"),
        ("console", "show the end of its console"),
    ):
        _add(actions, action, text).add_argument("name")
    report = _add(actions, "report", "one line of JSON from the guest")
    report.add_argument("name")
    report.add_argument("--console", action="store_true", help="ask on the serial console, not on the network")
    report.add_argument("--disk-sha256", action="store_true", help="hash of the static part of its disk instead")


def _add_kinds(start: argparse.ArgumentParser) -> None:
    firmware = start.add_mutually_exclusive_group()
    for option in ("uefi", "secure-boot"):
        firmware.add_argument(
            f"--{option}", dest="firmware", action="store_const", const=option, help="instead of BIOS"
        )
    start.add_argument("--tpm", action="store_true", help="a virtual TPM 2.0")
    start.add_argument("--scsi-disk", action="store_true", help="a second disk, empty, on a SCSI controller")
    start.add_argument("--iso", action="store_true", help="a drive with an ISO in it, of noise")
    start.add_argument("--vlan", type=int, metavar="ID", help="a card with this VLAN tag, on a bridge of Open vSwitch")
    start.add_argument("--encrypted", action="store_true", help="its first disk (LUKS inside qcow2), and its TPM")
    start.add_argument("--cpu", default="qemu64", help="a model, host-model, host-passthrough or maximum")


def _setting(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    try:
        return name, int(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=NUMBER") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it did what was asked, 1 if not, 2 for wrong usage."""
    arguments = parser().parse_args(argv)
    try:
        _run(Lab(arguments.lab), arguments)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


def _run(lab: Lab, arguments: argparse.Namespace) -> None:
    match arguments.command:
        case "up":
            providers = tuple(arguments.providers.split(",")) if arguments.providers else None
            wanted = LabOptions(
                providers, arguments.link, arguments.rtt, arguments.network, services=not arguments.no_services
            )
            lab.up(wanted)
        case "status":
            _status(lab, as_json=arguments.json)
        case "logs":
            _logs(lab, arguments)
        case "down":
            lab.down()
        case "exec":
            command = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
            line = lab.exec_argv(arguments.host, command or ["bash"])
            environment = lab.exec_environment(arguments.host)
            os.execvpe(line[0], line, environment)  # noqa: S606 - becomes the asked command, no shell wanted
        case "guest":
            _guest(lab, arguments)


def _status(lab: Lab, *, as_json: bool) -> None:
    shown = lab.status()
    if as_json:
        print(json.dumps(shown, indent=2))
        return
    link = f"link {shown['link'] or 'unshaped'}, round trip {shown['rtt_ms']:g} ms"
    print(f"lab {shown['lab']}: network {shown['network']}, {link}")
    for process in shown["processes"]:
        print(f"  {process['name']:18} {process['pid']:>8}  {process['state']:8} {process['detail']}")
    for guest in shown["guests"]:
        places = ", ".join(f"{place['provider']}: {place['state']}" for place in guest["places"]) or "nowhere"
        print(f"  guest {guest['name']:12} {guest['uuid']}  {guest['address']:11} {guest['workload']:7} {places}")


def _logs(lab: Lab, arguments: argparse.Namespace) -> None:
    if arguments.name is None:
        print("\n".join(sorted(log.stem for log in lab.plan.log_dir.glob("*.log"))))
        return
    log = lab.log_file(arguments.name)
    if not log.exists():
        raise LabError(f"no log {arguments.name!r}; `deploy/lab logs` lists them")
    follow = ["-f"] if arguments.follow else []
    os.execvp("tail", ["tail", "-n", str(arguments.lines), *follow, str(log)])  # noqa: S606 - becomes tail


def _guest(lab: Lab, arguments: argparse.Namespace) -> None:
    match arguments.action:
        case "build":
            print(lab.guest_build(debian=arguments.debian).disk.parent)
        case "start":
            record = lab.guest_start(guest_spec(arguments), ready_s=None if arguments.no_wait else 180)
            print(f"{record.name} {record.uuid} {record.address}")
        case "list":
            for record, places in lab.guest_list():
                shown = ", ".join(f"{place.provider}: {place.state}" for place in places) or "nowhere"
                print(
                    f"{record.name:16} {record.uuid} {record.address:12} {record.image:7} {record.workload:7} {shown}"
                )
        case "stop":
            lab.guest_stop(arguments.name)
        case "remove":
            lab.guest_remove(arguments.name)
        case "console":
            print(lab.guest_console(arguments.name))
        case "report":
            command = "disk-sha256" if arguments.disk_sha256 else "report"
            ask = lab.guest_console_ask if arguments.console else lab.guest_report
            print(json.dumps(ask(arguments.name, command)))


def guest_spec(arguments: argparse.Namespace) -> GuestSpec:
    """What `guest start` was asked for."""
    return GuestSpec(
        name=arguments.name,
        provider=arguments.provider,
        memory_mib=arguments.memory,
        vcpus=arguments.vcpus,
        workload=arguments.workload,
        image=arguments.image,
        disk=arguments.disk,
        kernel=arguments.kernel,
        initrd=arguments.initrd,
        cmdline=arguments.cmdline,
        disk_format=arguments.disk_format,
        overlay=arguments.overlay,
        firmware=arguments.firmware,
        tpm=arguments.tpm,
        scsi_disk=arguments.scsi_disk,
        iso=arguments.iso,
        cpu=arguments.cpu,
        vlan=arguments.vlan,
        encrypted=arguments.encrypted,
        settings=dict(arguments.set),
    )
