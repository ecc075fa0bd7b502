"""``vmport-node calibrate-energy``: measures what a port's work costs this host in energy, and keeps it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from services.node_agent.energy.fit import Fitted, NotFitted, Round, fit
from services.node_agent.energy.model_file import ModelFile
from services.node_agent.energy.rapl import POWERCAP, Meter, NoCounters, counters
from services.node_agent.energy.work import move
from services.node_agent.settings import node_section
from shared.config import CONFIG_VARIABLE, ConfigError
from shared.exit_codes import ExitCode
from shared.messages.costs import GB, EnergyModel

NAME = "vmport-node calibrate-energy"
RATES = (None, 0.5, 0.2)
"""Of the first round's rate; that one goes as fast as it can."""
_EPILOG = """\
Needs the CPU's energy counters (RAPL, /sys/class/powercap), which only root may read; few virtual machines have any.
Without them the node states the estimate of its settings, [energy], or nothing. Let the host be idle meanwhile: what
others use is counted, too. The node agent may run; it takes the new figures with its next heartbeat.

exit codes: 0 measured; 1 this host has no counters, or they did not tell; 78 the settings are wrong.
"""
Move = Callable[[float, float | None], int]


@dataclass(frozen=True, slots=True)
class Means:
    """Counters, work, idling and time; a test brings its own."""

    root: Path = POWERCAP
    work: Move = move
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


THIS_HOST = Means()


def main(argv: Sequence[str], means: Means = THIS_HOST) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(argv)
    try:
        settings = node_section(options.config, options.state_dir)
    except (ConfigError, ValueError) as error:
        sys.stderr.write(f"{NAME}: {error}\n")
        return ExitCode.CONFIG
    try:
        found = counters(means.root)
        sys.stdout.write(f"counters: {', '.join(counter.name for counter in found)}\n")
        fitted = measure(Meter(found), options.seconds, means)
        model = EnergyModel(
            joules_per_byte=fitted.joules_per_byte, joules_per_s=fitted.joules_per_s, measured_at=datetime.now(UTC)
        )
        if not options.dry_run:
            ModelFile(settings.state_dir, None).write(model)
    except (NoCounters, NotFitted, OSError, ValueError) as error:
        sys.stderr.write(f"{NAME}: {error}\n")
        return ExitCode.CRASHED
    worst = f"the worst round is {fitted.worst_error:.0%} off"
    sys.stdout.write(f"{model.joules_per_byte * GB:.1f} J per GB, {model.joules_per_s:.2f} W; {worst}\n")
    return ExitCode.OK


def measure(meter: Meter, seconds: float, means: Means) -> Fitted:
    """Idle first, then rounds of work at different rates. Raises `NotFitted`, OSError or ValueError."""
    idle = _timed(meter, partial(_idle, means.sleep, seconds), means.clock)
    rounds: list[Round] = []
    for share in RATES:
        rate = None if share is None else share * rounds[0].bytes / rounds[0].seconds
        rounds.append(_timed(meter, partial(means.work, seconds, rate), means.clock))
        each = rounds[-1]
        sys.stdout.write(f"{each.bytes / each.seconds / 1e6:8.1f} MB/s  {each.joules / each.seconds:8.2f} W\n")
    return fit(rounds, idle.joules / idle.seconds)


def _idle(sleep: Callable[[float], None], seconds: float) -> int:
    sleep(seconds)
    return 0


def _timed(meter: Meter, work: Callable[[], int], clock: Callable[[], float]) -> Round:
    joules, started_s = meter.joules(), clock()
    moved = work()
    seconds = max(clock() - started_s, 1e-6)
    return Round(moved, seconds, meter.joules() - joules)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="Measure what a port's work costs this host in energy, so that quotes and bills can state it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"the node's settings (env: {CONFIG_VARIABLE})")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="the node's state_dir, instead of its settings")
    parser.add_argument("--seconds", type=_seconds, default=20.0, help="how long each of the four rounds takes (20)")
    parser.add_argument("--dry-run", action="store_true", help="measure and say, but keep nothing")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 600:
        raise argparse.ArgumentTypeError("must be between 1 and 600")
    return seconds
