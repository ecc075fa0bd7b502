"""The rate on the wire, from reported totals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from shared.client.wire_rate import WireRate
from shared.messages.service_change import PortAccepted, PortProgressed
from tests.support.scripted_broker import PORT, transferred

START = datetime(2026, 1, 1, tzinfo=UTC)


def report(wire_bytes: int) -> PortProgressed:
    return transferred(PORT, 1).model_copy(update={"wire_bytes": wire_bytes})


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_two_reports_make_a_rate() -> None:
    """Other events leave it as it is; a change shows in part at once."""
    rate = WireRate()
    assert rate.update(report(1000), at(0)) is None
    assert rate.update(report(3000), at(2)) == 1000
    assert rate.update(PortAccepted(port_id=PORT), at(2.5)) == 1000
    assert rate.update(report(5000), at(3)) == pytest.approx(1400)


def test_a_new_attempt_starts_over() -> None:
    """A total that falls belongs to other lanes: it is not compared with the one before."""
    rate = WireRate()
    rate.update(report(1000), at(0))
    rate.update(report(2000), at(1))
    assert rate.update(report(10), at(2)) is None
    assert rate.update(report(510), at(3)) == 500


def test_reports_of_one_instant() -> None:
    """They cannot be compared, and nothing of their bytes is lost for the next."""
    rate = WireRate()
    rate.update(report(0), at(0))
    assert rate.update(report(500), at(0)) is None
    assert rate.update(report(1000), at(1)) == 1000
