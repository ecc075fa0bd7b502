"""``vmport-broker settle``: an operator says who owns a VM, where the port's parties cannot. One step of the saga.

It works on the ledger, also while brokers run: the port is locked, and what is to be sent lies in the outbox, which a
running broker empties within seconds. What the decision does is the saga's (`services.broker.saga.settling`); this
module checks that the parties really cannot answer, and says what will happen.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import socket
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from prometheus_client import CollectorRegistry

from services.broker import ledger, registry
from services.broker.metrics import BrokerMetrics
from services.broker.migrate import SchemaUnknown, check_schema
from services.broker.port_steps import Stepper
from services.broker.rules import Limits
from services.broker.saga import (
    Alarm,
    CloseLanes,
    CommitEpoch,
    Decision,
    Effect,
    KeepExtension,
    OpenLanes,
    Owner,
    RecordEnd,
    RuleBroken,
    SagaState,
    Send,
    Settled,
    Timing,
    Verdict,
    step,
)
from services.broker.settings import BrokerSettings
from shared import exit_codes
from shared.config import CONFIG_VARIABLE, ConfigError, read_sources
from shared.errors import VmportError
from shared.exit_codes import ExitCode
from shared.parties import BROKER
from shared.store import Store, StoreUnusable, Transaction, open_store

PROGRAM = "vmport-broker settle"
ABOUT = """\
Settle who owns the VM of a port that waits for an operator: one in `resolving` (nobody reports whether the VM arrived),
in `finishing` (the completion is not confirmed), or in an abort whose parties contradict each other. Look at both hosts
first; what you found there is the evidence, and goes into the port's record with your name and the time.

  --owner recipient   the VM runs at the recipient, or its newest state lies there. The port finishes; what is not
                      confirmed within timing.finishing_s becomes a debt that the record and the tenant's message name.
  --owner donor       the VM is to run at the donor. The next epoch gives it back, and the port is aborted. What the
                      recipient may hold of the VM is destroyed as soon as its node answers.

Refused while both nodes answer: then they settle it themselves. It works while brokers run.
"""


class NotSettled(VmportError):
    """The decision is not taken; ``exit_code`` is the program's."""

    code = "not_settled"

    def __init__(self, reason: str, exit_code: ExitCode) -> None:
        self.exit_code = exit_code
        super().__init__(reason)


async def settle(
    store: Store, port_id: UUID, event: Settled, *, timing: Timing, answering_within: timedelta, dry_run: bool
) -> str:
    """Take the step, unless ``dry_run``; returns what it does, in lines. Raises `NotSettled`, or `StoreUnusable`."""
    # The process ends after this one step: what it counts is nobody's, and the brokers look for lanes themselves.
    stepper = Stepper(timing, Limits(), BrokerMetrics(CollectorRegistry()), wake_lanes=lambda: None)
    async with store.transaction() as tx:
        stored = await ledger.load(tx, port_id)
        if stored is None:
            raise NotSettled(f"there is no port {port_id}", ExitCode.NOT_FOUND)
        decision = step(stored.state, event, tx.now, timing)
        if decision.verdict is not Verdict.HANDLED:
            raise NotSettled(decision.note, ExitCode.REFUSED)
        await _refuse_while_both_answer(tx, stored.state, answering_within)
        if not dry_run:
            await stepper.step(tx, stored, event, None)
    return describe(stored.state, decision, tx.now)


async def _refuse_while_both_answer(tx: Transaction, state: SagaState, within: timedelta) -> None:
    ages = []
    for party in (state.donor_node, state.recipient_node):
        heard_at = await registry.node_heard_at(tx.connection, party) if party is not None else None
        if heard_at is None or heard_at < tx.now - within:
            return
        ages.append(f"{party} {_seconds(tx.now - heard_at)} ago")
    limit = _seconds(within)
    raise NotSettled(
        f"both nodes were heard within {limit}: {', '.join(ages)}. They say themselves who runs the VM, and the broker "
        "asks them again and again. If one of them gives no answer about this port, its log says why. To settle the "
        f"port all the same, stop the node agent of the side that does not have the VM, wait {limit}, and repeat this.",
        ExitCode.REFUSED,
    )


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():.0f} s"


def describe(before: SagaState, decision: Decision, now: datetime) -> str:
    """What the decision does, for the operator."""
    after = decision.state
    lines = [
        f"port {before.port_id}, VM {before.vm_name} ({before.request.vm_uuid})",
        f"  now:       {before.phase} for {_seconds(now - before.phase_since)}; {_ownership(before)}",
        f"  then:      {after.phase}; {_ownership(after)}",
        f"  evidence:  {after.settled.evidence}" if after.settled is not None else "",
        *(f"  effect:    {told}" for told in map(_told, decision.effects)),
    ]
    return "\n".join(line for line in lines if line)


def _ownership(state: SagaState) -> str:
    return f"{state.owner} owns the VM by epoch {state.epoch}"


def _told(effect: Effect) -> str:
    match effect:
        case Send():
            return f"{type(effect.message).__name__} to {effect.to}"
        case CommitEpoch():
            return f"epoch {effect.epoch} committed to {effect.owner}, node {effect.node}"
        case OpenLanes():
            return "the port's lanes are declared"
        case CloseLanes():
            return "the port's lanes are removed"
        case KeepExtension():
            return "the donor goes on helping with the VM's addresses"
        case RecordEnd():
            return f"the port ends: {effect.outcome}, {effect.code}"
        case Alarm():
            return f"alarm {effect.code}: {effect.detail}"
        case RuleBroken():
            return f"{effect.how} by a rule of {effect.regime}: {effect.detail}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=ABOUT,
        epilog="exit codes:\n" + exit_codes.table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    configured = os.environ.get(CONFIG_VARIABLE)
    parser.add_argument("port", type=UUID, metavar="PORT", help="the port's id")
    parser.add_argument("--owner", type=Owner, choices=list(Owner), required=True, help="which side owns the VM")
    parser.add_argument(
        "--evidence", required=True, metavar="TEXT", help="what you found on the hosts, in words that last"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what it would do, and change nothing")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=Path(configured) if configured else None,
        help=f"the broker's settings; default: the file that {CONFIG_VARIABLE} names",
    )
    return parser


def who_decides() -> str:
    """The person and the machine, as far as the operating system knows them."""
    user = os.environ.get("SUDO_USER") or getpass.getuser()
    return f"{user}@{socket.gethostname()}"


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not options.evidence.strip():
        parser.error("--evidence: say what you found")
    try:
        settings = read_sources(BrokerSettings, options.config, program="vmport-broker").settings()
        text = asyncio.run(_settle(settings, options))
    except SchemaUnknown as error:
        sys.stderr.write(f"{PROGRAM}: the ledger cannot be used: {error}\n")
        return ExitCode.CONFIG
    except ConfigError as error:
        sys.stderr.write(f"{PROGRAM}: the configuration cannot be used:\n{error}\n")
        return ExitCode.CONFIG
    except NotSettled as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return error.exit_code
    except ledger.LedgerConflict as error:
        sys.stderr.write(f"{PROGRAM}: {error}; look at the VM's epochs, then repeat this\n")
        return ExitCode.REFUSED
    except StoreUnusable as error:
        sys.stderr.write(f"{PROGRAM}: the ledger cannot be used: {error}\n")
        return ExitCode.CRASHED
    sys.stdout.write(text + "\n")
    sys.stdout.write("nothing was changed\n" if options.dry_run else "settled\n")
    return ExitCode.OK


async def _settle(settings: BrokerSettings, options: argparse.Namespace) -> str:
    event = Settled(owner=options.owner, by=who_decides(), evidence=options.evidence.strip())
    async with open_store(settings.store, BROKER) as store:
        await check_schema(store)
        return await settle(
            store,
            options.port,
            event,
            timing=settings.timing.timing(),
            answering_within=timedelta(seconds=settings.limits.provider_silent_s),
            dry_run=options.dry_run,
        )
