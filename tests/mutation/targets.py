"""What is mutated: the pure modules that decide who runs a VM, and the tests that must notice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Target:
    """Some modules, as glob patterns, and the test files or folders that are run against each mutant of them."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


TARGETS: Final[Mapping[str, Target]] = {
    "saga": Target(
        modules=tuple(
            f"services/broker/saga/{name}.py"
            for name in ("choosing", "decision", "ending", "machine", "moving", "quotes", "switching", "table")
        ),
        tests=("tests/services/broker/saga",),
    ),
    "verdict": Target(
        modules=("services/node_agent/switchover/verdict.py",),
        tests=("tests/services/node_agent/switchover/test_verdict.py",),
    ),
    "gate": Target(
        modules=(
            "services/node_agent/libvirt_rpc/gate.py",
            "services/node_agent/libvirt_rpc/gate_terms.py",
            "services/node_agent/libvirt_rpc/relay.py",
        ),
        tests=("tests/services/node_agent/libvirt_rpc",),
    ),
    "reservation": Target(
        modules=("services/recipient_agent/reservation.py",),
        tests=("tests/services/recipient_agent/test_reservation.py",),
    ),
    "journal": Target(
        modules=("services/node_agent/state/journal.py",),
        tests=("tests/services/node_agent/state/test_journal.py",),
    ),
}
