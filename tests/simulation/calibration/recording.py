"""``tests/simulation/calibration/record``: takes a lab's libvirt and QEMU through situations, and keeps their traces.

Brings up a lab of its own without vmport's processes, and takes it down. Needs root.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.labkit.errors import LabError
from tests.simulation.calibration.lab_player import LabPlayer
from tests.simulation.calibration.situations import SITUATIONS
from tests.simulation.calibration.trace import TRACES
from tests.simulation.calibration.watch import serve_events
from tests.support.two_hosts import two_hosts

LAB_NAME = "calibration"


def main(argv: Sequence[str] | None = None) -> int:
    """Record; 1 where a situation could not be."""
    parser = argparse.ArgumentParser(prog="tests/simulation/calibration/record", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SITUATIONS, default=list(SITUATIONS), metavar="SITUATION")
    parser.add_argument("--to", type=Path, default=TRACES, metavar="FOLDER", help="default: the kept traces")
    arguments = parser.parse_args(argv)
    serve_events()
    failed = 0
    with two_hosts(LAB_NAME) as hosts:
        for name in arguments.only:
            try:
                LabPlayer(hosts.lab, name).play().save(arguments.to)
            except (AssertionError, LabError) as error:  # others can be recorded all the same
                failed += 1
                sys.stdout.write(f"{name}: {error}\n")
            else:
                sys.stdout.write(f"{name}\n")
            sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
