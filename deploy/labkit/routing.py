"""The BGP daemons of a routed lab, one in every router's host, without an init system: started, awaited, asked.

Each has its folder with configuration and sockets below the lab's state folder, which every host sees at one path.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from deploy.labkit import processes, routing_conf
from deploy.labkit.errors import CommandFailed, LabError
from deploy.labkit.hosts import ENVIRONMENT
from deploy.labkit.plan import HUB, LabPlan
from deploy.labkit.processes import run
from deploy.labkit.routing_conf import BIRD
from deploy.labkit.state import LabState, ProcessRecord

_FRR = Path("/usr/lib/frr")
_FRR_USER = "frr"
"""Debian's FRR refuses to run as root."""
_FRR_PROGRAMS = ("zebra", "bfdd", "bgpd")
_NICE = -10
"""A session must not end because guests and transfers keep the machine busy."""


def folder(plan: LabPlan, host: str) -> Path:
    """Configuration and sockets of a host's daemons."""
    return plan.state_dir / "routing" / host


def start(plan: LabPlan, state: LabState) -> Iterator[tuple[str, ProcessRecord]]:
    """Start what does not run; names and records of all, in the order of their start. Raises `LabError`."""
    _need_programs(plan)
    for host in plan.routers:
        here = folder(plan, host)
        here.mkdir(parents=True, exist_ok=True)
        commands = _bird(plan, host, here) if routing_conf.daemon(plan, host) == BIRD else _frr(plan, host, here)
        for program, argv in commands.items():
            name = f"{program}-{host}"
            recorded = state.processes.get(name)
            if recorded is None or not processes.is_alive(recorded):
                entered = processes.enter(plan.namespace_path(host), None, argv)
                recorded = processes.spawn(entered, env=ENVIRONMENT, log=plan.log_dir / f"{name}.log")
                processes.prefer(recorded, nice=_NICE)
            yield name, recorded


def _need_programs(plan: LabPlan) -> None:
    wanted = ["bird", *(str(_FRR / program) for program in _FRR_PROGRAMS), "knotd"] if plan.routed else []
    missing = [program for program in wanted if shutil.which(program, path=ENVIRONMENT["PATH"]) is None]
    if missing:
        raise LabError(f"{', '.join(missing)} not installed: run deploy/bootstrap --routing")


def _bird(plan: LabPlan, host: str, here: Path) -> dict[str, list[str]]:
    files = routing_conf.bird_files(here)
    files["conf"].write_text(routing_conf.bird_conf(plan, host), encoding="utf-8")
    return {BIRD: ["bird", "-f", "-c", str(files["conf"]), "-s", str(files["socket"])]}


def _frr(plan: LabPlan, host: str, here: Path) -> dict[str, list[str]]:
    commands = {}
    shutil.chown(here, _FRR_USER)
    for program, text in routing_conf.frr_confs(plan, host).items():
        file = here / f"{program}.conf"
        file.write_text(text, encoding="utf-8")
        # No terminal on TCP; sockets and pid file in the host's folder.
        options = ["-f", str(file), "-i", str(here / f"{program}.pid"), "-A", "127.0.0.1", "-P", "0"]
        options += ["--vty_socket", str(here), "-z", str(here / "zserv.api")]
        if program == "bfdd":
            options += ["--bfdctl", str(here / "bfdd.sock")]
        commands[program] = [str(_FRR / program), *options]
    return commands


def wait_until_ready(plan: LabPlan, state: LabState) -> None:
    """Wait until the transit router has every provider's routes. Raises `LabError` naming what is missing."""
    wanted = {prefix for host in plan.routers for prefix in routing_conf.prefixes(plan, host)}
    missing: set[str] = set()

    def ready() -> bool:
        for name, record in state.processes.items():
            if name.partition("-")[0] in {BIRD, *_FRR_PROGRAMS} and not processes.is_alive(record):
                shown = (plan.log_dir / f"{name}.log").read_text("utf-8", errors="replace")[-1500:]
                raise LabError(f"{name} ended; its log ends: {shown}")
        missing.clear()
        missing.update(wanted - kernel_routes(plan, HUB))
        return not missing

    try:
        processes.wait_until(ready, what="routes", timeout_s=30)
    except LabError as error:
        if not missing:
            raise
        raise LabError(f"the hub has no route to {', '.join(sorted(missing))}; see {plan.log_dir}") from error


def kernel_routes(plan: LabPlan, host: str) -> set[str]:
    """Every destination in the host's main table, both families, a single address with its prefix length."""
    found = set()
    for family, longest in (("-4", 32), ("-6", 128)):
        for route in json.loads(run(["ip", "-n", plan.namespace(host), family, "-j", "route", "show"]) or "[]"):
            destination = str(route["dst"])
            found.add(destination if "/" in destination else f"{destination}/{longest}")
    return found


def sessions(plan: LabPlan, host: str) -> dict[str, str]:
    """BGP sessions of a host with BIRD and their states, e.g. `alpha_ipv4: Established`. Raises `CommandFailed`."""
    socket = routing_conf.bird_files(folder(plan, host))["socket"]
    shown = run(["birdc", "-s", str(socket), "show", "protocols"])
    rows = [line.split() for line in shown.splitlines()]
    return {row[0]: row[-1] for row in rows if len(row) > 3 and row[1] == "BGP"}


def session_summary(plan: LabPlan) -> str:
    """How many of the transit router's sessions stand, for people."""
    try:
        found = sessions(plan, HUB)
    except CommandFailed as error:
        return f"does not answer: {error.output.strip()}"
    standing = sum(1 for state in found.values() if state == "Established")
    return f"{standing} of {len(found)} BGP sessions stand"
