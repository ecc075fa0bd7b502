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
    left_out: tuple[str, ...] = ()
    """Tests that are not run. A long random walk kills a mutant on one day and not on the next; the figures are to be
    the same each time, and what a walk finds is to have a test of its own."""


TARGETS: Final[Mapping[str, Target]] = {
    "saga": Target(
        modules=tuple(
            f"services/broker/saga/{name}.py"
            for name in (
                "arrival",
                "choosing",
                "decision",
                "ending",
                "finishing",
                "machine",
                "moving",
                "quotes",
                "settling",
                "sla",
                "state",
                "switching",
                "table",
            )
        ),
        tests=("tests/services/broker/saga",),
        left_out=(
            "tests/services/broker/saga/test_machine_properties.py",
            "tests/services/broker/saga/test_quotes.py::test_same_choice_in_any_order",
        ),
    ),
    "machine": Target(
        modules=tuple(
            f"services/node_agent/transfers/machine/{name}.py"
            for name in ("donor", "engine", "recipient", "state", "table")
        ),
        tests=("tests/services/node_agent/transfers/machine",),
        left_out=tuple(
            f"tests/services/node_agent/transfers/machine/test_engine.py::{name}"
            for name in (
                "test_a_donors_guest_never_runs_by_its_own_word",
                "test_a_recipients_guest_is_not_removed_once_it_may_have_run",
            )
        ),
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
        modules=(
            "services/node_agent/state/journal.py",
            "services/node_agent/state/given_away.py",
            "services/node_agent/state/guest_ends.py",
        ),
        tests=(
            "tests/services/node_agent/state/test_journal.py",
            "tests/services/node_agent/state/test_given_away.py",
            "tests/services/node_agent/state/test_guest_ends.py",
        ),
    ),
}
