"""Promised against measured."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from services.broker.saga import SagaBug
from services.broker.saga.sla import measure
from shared.messages.porting import VmProvisioned
from tests.support.broker_samples import NOW, PORT, Conversation, outbound_finished, request


def test_kept() -> None:
    """All within the promise: kept, without warnings."""
    measured = measure(Conversation.begin(request()).completed().moment)
    assert (measured.record.kept, measured.warnings) == (True, ())
    assert (measured.record.promised_total_s, measured.record.promised_downtime_ms) == (60.0, 500)


@pytest.mark.parametrize(("late_s", "downtime_ms", "kept"), [(60, 500, True), (61, 100, False), (5, 501, False)])
def test_each_figure_counts(late_s: int, downtime_ms: int, kept: bool) -> None:  # noqa: FBT001  # pytest passes it
    """Total time is from the window to the arrival; one broken promise is enough."""
    moment = (
        Conversation.begin(request())
        .completed()
        .moment.with_(
            moving_since=NOW,
            arrived_at=NOW + timedelta(seconds=late_s),
            outbound=outbound_finished().model_copy(update={"downtime_ms": downtime_ms}),
        )
    )
    measured = measure(moment)
    assert (measured.record.kept, measured.record.measured_total_s) == (kept, float(late_s))


@pytest.mark.parametrize("outage_ms", [None, 9000])
def test_outage_is_recorded_and_not_judged(outage_ms: int | None) -> None:
    """The donor's figure or none; however long, no promise is broken by it."""
    outbound = outbound_finished().model_copy(update={"outage_ms": outage_ms})
    measured = measure(Conversation.begin(request()).completed().moment.with_(outbound=outbound))
    assert (measured.record.measured_outage_ms, measured.record.kept) == (outage_ms, True)


def test_estimate_without_figures() -> None:
    """Without the donor's figures the downtime is the broker's estimate, and a warning says so."""
    moment = (
        Conversation.begin(request())
        .completed()
        .moment.with_(outbound=None, switchover_requested_at=NOW, arrived_at=NOW + timedelta(milliseconds=700))
    )
    measured = measure(moment)
    assert (measured.record.measured_downtime_ms, measured.record.measured_outage_ms) == (700, None)
    assert "estimate" in measured.warnings[0]


@pytest.mark.parametrize(
    ("paused_ms", "asked_ms", "downtime_ms"),
    [(100, None, 600), (None, 200, 500), (100, 200, 600), (300, 200, 500), (None, None, 700)],
)
def test_estimate_counts_from_the_first_word(paused_ms: int | None, asked_ms: int | None, downtime_ms: int) -> None:
    """The donor's or the recipient's; without both, from the opening of the window."""

    def after(milliseconds: int | None) -> datetime | None:
        return None if milliseconds is None else NOW + timedelta(milliseconds=milliseconds)

    moment = (
        Conversation.begin(request())
        .completed()
        .moment.with_(
            outbound=None,
            moving_since=NOW,
            guest_paused_at=after(paused_ms),
            switchover_requested_at=after(asked_ms),
            arrived_at=after(700),
        )
    )
    assert measure(moment).record.measured_downtime_ms == downtime_ms


def test_clocks_that_went_back() -> None:
    """No figure is below zero."""
    earlier = NOW - timedelta(seconds=1)
    moment = (
        Conversation.begin(request())
        .completed()
        .moment.with_(outbound=None, moving_since=NOW, switchover_requested_at=NOW, arrived_at=earlier)
    )
    record = measure(moment.with_(guest_paused_at=None)).record
    assert (record.measured_total_s, record.measured_downtime_ms) == (0.0, 0)


def test_downtime_at_the_limit() -> None:
    """It is within it."""
    outbound = outbound_finished().model_copy(update={"downtime_ms": 1000})
    moment = Conversation.begin(request(max_downtime_ms=1000)).completed().moment.with_(outbound=outbound)
    assert measure(moment).warnings == ()


def test_warnings() -> None:
    """A downtime above the tenant's limit, a changed identity and other addresses are told."""
    changed = VmProvisioned(
        port_id=PORT,
        identity_differences=("cpu: qemu64 became qemu32",),
        address_differences=("10.81.1.10 was agreed, and the guest does not have it",),
    )
    moment = (
        Conversation.begin(request(max_downtime_ms=1000))
        .completed()
        .moment.with_(provisioned=changed, outbound=outbound_finished().model_copy(update={"downtime_ms": 1200}))
    )
    warnings = measure(moment).warnings
    assert "limit is 1000 ms" in warnings[0]
    assert "qemu32" in warnings[1]
    assert "the guest does not have it" in warnings[2]


def test_nothing_moved() -> None:
    """A port that moved nothing has no record."""
    with pytest.raises(SagaBug, match="a port in approval has no agreement"):
        measure(Conversation.begin(request()).moment)
