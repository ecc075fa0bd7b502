"""Promises and quotes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.recipient_agent.capacity import MIB
from services.recipient_agent.quote import Promise, make_quote, promised
from services.recipient_agent.testing import NOW, SMALL, make_vm
from shared.messages.service_change import PortLimits

PROMISE = Promise(
    bandwidth_bytes_per_s=10 * MIB,
    setup_s=10,
    margin=1.5,
    memory_passes=2,
    downtime_floor_ms=400,
    last_pass_bytes=4 * MIB,
)


def test_the_formula_by_hand() -> None:
    """256 MiB of disk and twice 512 MiB of memory at 10 MiB/s, half as much again, plus 10 s."""
    assert promised(make_vm(), PortLimits(), PROMISE) == (202.0, 800)


def test_what_a_disk_lies_on_is_part_of_the_promise() -> None:
    """It may have to be moved: 100 MiB more, half as much again, at 10 MiB/s."""
    vm = make_vm()
    (disk,) = vm.disks
    overlay = vm.model_copy(update={"disks": (disk.model_copy(update={"beneath_bytes": 100 * MIB}),)})

    assert promised(overlay, PortLimits(), PROMISE) == (217.0, 800)


def test_the_tenants_bandwidth_limit_makes_it_slower() -> None:
    """A promise is made for the bandwidth that may be used."""
    slow = PortLimits(bandwidth_bytes_per_s=5 * MIB, max_downtime_ms=10_000)

    assert promised(make_vm(), slow, PROMISE) == (394.0, 1200)


@pytest.mark.parametrize(("limit_ms", "downtime_ms"), [(10_000, 800), (600, 600), (400, 400), (100, 400)])
def test_downtime_is_held_below_the_limit_down_to_the_floor(limit_ms: int, downtime_ms: int) -> None:
    """A node waits for the last pass to fit the limit; below the floor it cannot be kept, and the quote says so."""
    assert promised(make_vm(), PortLimits(max_downtime_ms=limit_ms), PROMISE)[1] == downtime_ms


def test_a_quote_says_all_of_it() -> None:
    """Price, type, promise and expiry."""
    quote = make_quote(
        make_vm(), PortLimits(), provider="beta", instance_type=SMALL, promise=PROMISE, now=NOW, valid_s=60
    )

    assert quote.provider == "beta"
    assert (quote.price_per_month, quote.currency, quote.instance_type) == (SMALL.price_per_month, "EUR", "small")
    assert quote.valid_until == NOW + timedelta(seconds=60)
    assert (quote.promised_total_s, quote.promised_downtime_ms) == (202.0, 800)


@given(memory=st.integers(0, 1 << 40), bandwidth=st.integers(1024, 1 << 40), limit_ms=st.integers(1, 3_600_000))
def test_promises_fit_into_a_quote(memory: int, bandwidth: int, limit_ms: int) -> None:
    """Whatever the size, the promise is a positive time that grows with it."""
    promise = PROMISE.model_copy(update={"bandwidth_bytes_per_s": bandwidth})
    limits = PortLimits(max_downtime_ms=limit_ms)

    total_s, downtime_ms = promised(make_vm(memory_bytes=memory), limits, promise)

    assert promise.setup_s <= total_s <= promised(make_vm(memory_bytes=memory + MIB), limits, promise)[0]
    assert downtime_ms <= max(limit_ms, promise.downtime_floor_ms)
