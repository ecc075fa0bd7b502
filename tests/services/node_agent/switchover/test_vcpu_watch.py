"""Whether a guest has run, by the CPU time of its vCPUs."""

from __future__ import annotations

import pytest

from services.node_agent.switchover.vcpu_watch import RAN_NS, VcpuWatch


@pytest.mark.parametrize(
    ("before_ns", "used_ns", "ran"),
    [
        (5, 5, False),
        (5, 5 + RAN_NS - 1, False),
        (5, 5 + RAN_NS, True),
        (5, None, True),
        (0, None, True),
        (None, 7 * RAN_NS, False),
        (None, None, False),
    ],
)
def test_what_was_used_since_the_beginning_counts(before_ns: int | None, used_ns: int | None, *, ran: bool) -> None:
    """A process that was there and is gone has ended by itself; without a beginning nothing is known."""
    watch = VcpuWatch()
    watch.begin(before_ns)
    assert watch.has_run(used_ns) is ran


def test_without_a_beginning_the_first_look_is_one() -> None:
    """A new process finds the guest's in the middle of its life."""
    watch = VcpuWatch()
    assert not watch.has_run(RAN_NS)
    assert not watch.has_run(RAN_NS)
    assert watch.has_run(2 * RAN_NS)


def test_what_libvirtd_has_answered_it_may_have_ended_itself() -> None:
    """Only what was used still shows that it ran."""
    watch = VcpuWatch()
    watch.begin(0)
    watch.answered()
    assert not watch.has_run(None)
    assert watch.has_run(RAN_NS)
