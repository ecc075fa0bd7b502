"""Promised against measured: total time, downtime and price of a completed port. Pure.

*Total* is from the opening of the window until the broker hears that the VM runs at the recipient; seeding before the
window does not count. *Downtime* is the donor's measurement, an upper bound. Without one it is the broker's estimate,
and a warning says so: from the donor's or the recipient's word that the guest is paused, whichever came first, to the
report of the arrival.
*Outage* is the donor's measurement or nothing; it is recorded and not judged, since nobody promised it. The *price* is
the agreed one.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.broker.saga.decision import Moment
from shared.messages.service_change import SlaRecord


@dataclass(frozen=True, slots=True)
class Measured:
    """The record, and warnings for the tenant about what it says."""

    record: SlaRecord
    warnings: tuple[str, ...]


def measure(at: Moment) -> Measured:
    """The SLA record of a port whose VM has arrived."""
    state, agreement = at.state, at.agreement
    warnings: list[str] = []
    total_s = (at.arrived_at - at.moving_since).total_seconds()
    if state.outbound is not None:
        downtime_ms = state.outbound.downtime_ms
    else:
        words = [
            heard_at for heard_at in (state.guest_paused_at, state.switchover_requested_at) if heard_at is not None
        ]
        since = min(words, default=at.moving_since)
        downtime_ms = round((at.arrived_at - since).total_seconds() * 1000)
        warnings.append("The donor reported no figures: downtime is the broker's estimate, byte counts are missing.")
    kept = total_s <= agreement.promised_total_s and downtime_ms <= agreement.promised_downtime_ms
    if downtime_ms > agreement.limits.max_downtime_ms:
        warnings.append(f"Downtime was {downtime_ms} ms; the tenant's limit is {agreement.limits.max_downtime_ms} ms.")
    differences = state.provisioned.identity_differences if state.provisioned else ()
    if differences:
        warnings.append(f"The VM's identity differs from the donor's: {'; '.join(differences)}")
    if state.provisioned is not None and state.provisioned.address_differences:
        listed = "; ".join(state.provisioned.address_differences)
        warnings.append(f"The VM's addresses differ from the agreed ones: {listed}")
    record = SlaRecord(
        promised_total_s=agreement.promised_total_s,
        measured_total_s=max(0.0, total_s),
        promised_downtime_ms=agreement.promised_downtime_ms,
        measured_downtime_ms=max(0, downtime_ms),
        measured_outage_ms=state.outbound.outage_ms if state.outbound is not None else None,
        price_per_month=agreement.price_per_month,
        currency=agreement.currency,
        kept=kept,
    )
    return Measured(record, tuple(warnings))
