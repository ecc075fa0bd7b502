"""From options to limits, and from limits to words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from shared.client.limits import BadLimits, OverlaysChoice, PostCopyChoice, limits_of, limits_text, rate_text, zoned
from shared.client.units import BadValue
from shared.messages.quote_lines import Part
from shared.messages.service_change import PortLimits

NOW = datetime(2026, 7, 1, 12, 0, tzinfo=timezone(timedelta(hours=2)))


def test_defaults() -> None:
    """Without options: at once, one second of downtime, no other limit."""
    assert limits_of(now=NOW) == PortLimits()


def test_every_option_reaches_the_request() -> None:
    """What was typed is what is asked for."""
    limits = limits_of(
        max_downtime="300ms",
        window="+8h/+3h",
        max_price="20",
        bandwidth="50Mbps",
        post_copy=PostCopyChoice.IF_NEEDED,
        stop_and_copy=True,
        seed=True,
        seed_bandwidth="8mbit",
        overlays=OverlaysChoice.NEVER,
        eject=["sda", "all", "sda"],
        require=[Part.FILTER, Part.PINNING, Part.FILTER],
        now=NOW,
    )
    assert limits_text(limits).endswith("must stay as it is: filter, pinning")
    assert limits == PortLimits(
        max_downtime_ms=300,
        window_start=NOW + timedelta(hours=8),
        deadline=NOW + timedelta(hours=11),
        max_price_per_month=Decimal(20),
        bandwidth_bytes_per_s=6_250_000,
        post_copy="if_needed",
        stop_and_copy=True,
        seed=True,
        seed_bandwidth_bytes_per_s=1_000_000,
        overlays="never",
        eject=("sda", "all"),
        require=(Part.FILTER, Part.PINNING),
    )


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ({"max_downtime": "500"}, "--max-downtime: '500' is not valid"),
        ({"max_downtime": "2h"}, "--max-downtime: '2h' is not valid: expected a downtime between"),
        ({"bandwidth": "50mb"}, "--bandwidth: '50mb' is not valid: expected bits or bytes"),
        ({"window": "tomorrow"}, "--window: 'tomorrow' is not valid"),
        ({"deadline": "soon"}, "--deadline: 'soon' is not valid"),
        ({"max_price": "cheap"}, "--max-price: 'cheap' is not valid"),
        ({"window": "+1h", "seed": True, "seed_bandwidth": "8"}, "--seed-bandwidth: '8' is not valid"),
    ],
)
def test_the_wrong_option_is_named(options: dict[str, Any], begins: str) -> None:
    """Each value's error begins with its option."""
    with pytest.raises(BadValue) as caught:
        limits_of(**options, now=NOW)
    assert str(caught.value).startswith(begins)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": True}, "--seed needs a --window that starts later"),
        ({"seed_bandwidth": "8mbit"}, "--seed-bandwidth is of use only with --seed"),
        ({"window": "now/+1h", "deadline": "+2h"}, "--window has an end already"),
        ({"deadline": "2001-01-01T00:00Z"}, "--deadline 2001-01-01T00:00Z: the end must be later"),
        ({"window": "+2h", "deadline": "+1h"}, "--deadline +1h: the end must be later"),
        ({"eject": ["sda"] * 65}, "--eject may be given 64 times at most"),
    ],
)
def test_options_that_do_not_fit_together(options: dict[str, Any], words: str) -> None:
    """A value that can be read is not called unreadable: the sentence says what does not fit."""
    with pytest.raises(BadLimits) as caught:
        limits_of(**options, now=NOW)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("bytes_per_s", "text"),
    [
        (6_250_000, "50 Mbit/s (6.3 MB/s)"),
        (1_000_000, "8 Mbit/s (1 MB/s)"),
        (64 * 1024, "524.3 kbit/s (65.5 kB/s)"),
        (125_000_000, "1 Gbit/s (125 MB/s)"),
        (2**40, "8.8 Tbit/s (1.1 TB/s)"),
    ],
)
def test_rates_have_both_units(bytes_per_s: int, text: str) -> None:
    """Who meant bytes sees at once that bits were understood."""
    assert rate_text(bytes_per_s) == text


def test_limits_in_words() -> None:
    """Everything that bounds the port, the window with its offset from UTC."""
    limits = PortLimits(
        max_downtime_ms=500,
        window_start=NOW,
        deadline=NOW + timedelta(hours=3),
        max_price_per_month="12.50",
        bandwidth_bytes_per_s=6_250_000,
        seed=True,
        seed_bandwidth_bytes_per_s=1_000_000,
    )
    assert limits_text(limits) == (
        "downtime at most 500 ms; bandwidth at most 50 Mbit/s (6.3 MB/s); price at most 12.50 per month; "
        "from 2026-07-01 12:00:00 +0200; until 2026-07-01 15:00:00 +0200; seeding at most 8 Mbit/s (1 MB/s)"
    )
    assert limits_text(PortLimits()) == "downtime at most 1000 ms; bandwidth not limited; starts at once"
    assert zoned(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01 00:00:00 +0000"


def test_media_that_stay_behind_are_told() -> None:
    """They are the tenant's to judge before anything moves."""
    assert "media left behind: sda, sdb" in limits_text(PortLimits(eject=("sda", "sdb")))
    with pytest.raises(BadValue, match="--eject: 'sda1' is not valid: expected a drive"):
        limits_of(eject=["sda1"], now=NOW)
