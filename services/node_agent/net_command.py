"""``vmport-node net``: shows what ports have changed in this host's network, and removes what belongs to none."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from services.node_agent.network.journal import NetworkJournal, NetworkRecord
from services.node_agent.network.maker import StepMaker
from services.node_agent.network.netlink import NetlinkError
from services.node_agent.network.nft import Nft, NftError
from services.node_agent.network.own_things import own_things, unclaimed
from services.node_agent.network.steps import Step
from services.node_agent.network.tracking.taken import TakenConnections
from services.node_agent.settings import node_section
from services.node_agent.state.lock import StateInUse, StateLock
from shared.config import CONFIG_VARIABLE, ConfigError
from shared.exit_codes import ExitCode

NAME = "vmport-node net"
_EPILOG = """\
`list` shows each port that has changed this host's network, what it has made, and what of that is missing. `prune`
removes what bears vmport's name and belongs to no record: it was left behind. With --port it removes all that one port
has made here, and forgets it: only for a port that has ended, and while the node agent is stopped. What is missing is
made again when the node agent starts.

exit codes: 0 done; 1 something is missing or left behind, or could not be removed; 78 the settings are wrong.
"""


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(argv)
    try:
        settings = node_section(options.config, options.state_dir)
    except (ConfigError, ValueError) as error:
        sys.stderr.write(f"{NAME}: {error}\n")
        return ExitCode.CONFIG
    journal = NetworkJournal(settings.state_dir / "network")
    try:
        if options.command == "list":
            return asyncio.run(_list(journal, as_json=options.json))
        if options.port is not None:
            return _prune_port(journal, settings.state_dir, options.port, dry_run=options.dry_run)
        return asyncio.run(_prune(journal, dry_run=options.dry_run))
    except StateInUse as error:
        sys.stderr.write(f"{NAME}: stop the node agent first: {error}\n")
        return ExitCode.CRASHED
    except (NetlinkError, NftError, OSError) as error:
        sys.stderr.write(f"{NAME}: {error}\n")
        return ExitCode.CRASHED


async def _list(journal: NetworkJournal, *, as_json: bool) -> int:
    maker, records = StepMaker(), journal.readable()
    shown = [await _shown(record, maker) for record in records]
    lost = [str(step) for step in unclaimed(await own_things(Nft()), records)]
    if as_json:
        sys.stdout.write(json.dumps({"ports": shown, "unclaimed": lost}, indent=2) + "\n")
    else:
        for port in shown:
            sys.stdout.write(_text(port))
        for step in lost:
            sys.stdout.write(f"of no port: {step}\n")
        if not shown and not lost:
            sys.stdout.write("no port has changed this host's network\n")
    return ExitCode.CRASHED if lost or any(port["missing"] for port in shown) else ExitCode.OK


async def _shown(record: NetworkRecord, maker: StepMaker) -> dict[str, Any]:
    missing = await maker.missing(record.wanted)
    return {
        "port_id": str(record.port_id),
        "side": record.side.value,
        "vm": record.agreement.vm_name,
        "vm_uuid": str(record.vm_uuid),
        "mode": record.plan.terms.carry.value,
        "announce": record.plan.terms.then_announce,
        "extension": record.extension,
        "vm_at_recipient": record.there,
        "announced": record.announced,
        "made": [str(step) for step in record.steps],
        "missing": [str(step) for step in missing],
    }


def _text(port: dict[str, Any]) -> str:
    mode = port["mode"] + (", then announced" if port["announce"] else "")
    state = [
        "the extension is open" if port["extension"] else "",
        "the VM runs at the recipient" if port["vm_at_recipient"] else "",
        "packets come by the own uplink" if port["announced"] else "",
    ]
    lines = [f"port {port['port_id']}, {port['side']}, VM {port['vm']} ({port['vm_uuid']}): {mode}"]
    lines += [f"  {each}" for each in state if each]
    lines += [f"  {'MISSING ' if each in port['missing'] else ''}{each}" for each in port["made"]]
    return "\n".join(lines) + "\n"


async def _prune(journal: NetworkJournal, *, dry_run: bool) -> int:
    lost = unclaimed(await own_things(Nft()), journal.readable())
    return await _remove(lost, dry_run=dry_run)


def _prune_port(journal: NetworkJournal, state_dir: Path, port_id: UUID, *, dry_run: bool) -> int:
    lock = StateLock(state_dir)
    lock.acquire()
    try:
        records = [record for record in journal.readable() if record.port_id == port_id]
        if not records:
            sys.stdout.write(f"port {port_id} has changed nothing here\n")
        for record in records:
            code = asyncio.run(_remove(record.known, dry_run=dry_run))
            if code != ExitCode.OK:
                return code
            if not dry_run:
                if left := asyncio.run(TakenConnections(journal.directory).undo(port_id)):
                    sys.stderr.writelines(f"{NAME}: not removed: {each}\n" for each in left)
                    return ExitCode.CRASHED
                journal.remove(port_id, record.side)
        return ExitCode.OK
    finally:
        lock.release()


async def _remove(steps: Sequence[Step], *, dry_run: bool) -> int:
    if dry_run:
        sys.stdout.writelines(f"would remove: {step}\n" for step in steps)
        return ExitCode.OK
    left = await StepMaker().undo(steps)
    kept = {each.partition(":")[0] for each in left}
    sys.stdout.writelines(f"removed: {step}\n" for step in steps if str(step) not in kept)
    sys.stderr.writelines(f"{NAME}: not removed: {each}\n" for each in left)
    return ExitCode.CRASHED if left else ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="Show what ports have changed in this host's network, or remove what belongs to no port.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"the node's settings (env: {CONFIG_VARIABLE})")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="the node's state_dir, instead of its settings")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shown = commands.add_parser("list", help="what each port has made, and what is missing or left behind")
    shown.add_argument("--json", action="store_true", help="as one JSON document")
    prune = commands.add_parser("prune", help="remove what is left behind")
    prune.add_argument("--port", type=UUID, metavar="ID", help="remove all that this port has made here")
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    return parser
