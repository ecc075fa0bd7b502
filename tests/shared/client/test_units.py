"""Values as a tenant types them."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.client.units import (
    BadValue,
    parse_downtime_ms,
    parse_drive,
    parse_duration,
    parse_months,
    parse_price,
    parse_rate_bytes_per_s,
    parse_time,
    parse_window,
    value_of,
)

BERLIN = timezone(timedelta(hours=2))
NOW = datetime(2026, 7, 1, 12, 0, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1s", 1), ("1.5 s", 1.5), ("15m", 900), ("2h", 7200), ("1d", 86400), (" 30S ", 30)],
)
def test_durations(text: str, seconds: float) -> None:
    """A number with its unit is a duration."""
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "ms", "-1s", "1w", "1e3s", "1s1s", "0x1s", "1.s"])
def test_bad_durations_are_rejected(text: str) -> None:
    """A number without unit is not guessed at."""
    with pytest.raises(BadValue, match="expected a number with ms"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "milliseconds"), [("1ms", 1), ("500ms", 500), ("1s", 1000), ("1h", 3_600_000)])
def test_downtimes(text: str, milliseconds: int) -> None:
    """A downtime is whole milliseconds within what a message can say."""
    assert parse_downtime_ms(text) == milliseconds


@pytest.mark.parametrize("text", ["0s", "0.1ms", "61m", "1d"])
def test_impossible_downtimes_are_rejected(text: str) -> None:
    """Zero and more than an hour are refused before anything is sent."""
    with pytest.raises(BadValue, match="between 1ms and 1h"):
        parse_downtime_ms(text)


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("50mbit", 6_250_000),
        ("1gbit/s", 125_000_000),
        ("800kbit", 100_000),
        ("6MB", 6_000_000),
        ("6MiB", 6 * 2**20),
        ("6 MB/s", 6_000_000),
        ("6MBps", 6_000_000),
        ("50Mbps", 6_250_000),
        ("50mbps", 6_250_000),
        ("50Mb/s", 6_250_000),
        ("50Mbit/s", 6_250_000),
        ("50 MBIT", 6_250_000),
        ("50Mbits", 6_250_000),
        ("8Mib/s", 2**20),
        ("0.5GiB", 2**29),
    ],
)
def test_rates(text: str, bytes_per_s: int) -> None:
    """bit and b per second are bits, B is bytes, with decimal or binary prefixes."""
    assert parse_rate_bytes_per_s(text) == bytes_per_s


@pytest.mark.parametrize("text", ["", "50", "50m", "mbit", "-5MB", "1TB", "10B", "5kbit", "2000GB", "50MBPS", "50mb/h"])
def test_bad_rates_are_rejected(text: str) -> None:
    """What has no unit, or is outside what a port can do, is refused."""
    with pytest.raises(BadValue):
        parse_rate_bytes_per_s(text)


@pytest.mark.parametrize("text", ["50mb", "50b", "50Mb", "0.5gib", "64kb"])
def test_rates_that_may_mean_bits_or_bytes_are_rejected(text: str) -> None:
    """A factor of eight is not guessed at; the error shows how to write either."""
    with pytest.raises(BadValue, match=r"bits or bytes.*50Mbps.*6MB/s"):
        parse_rate_bytes_per_s(text)


@pytest.mark.parametrize("text", ["99999999d", "9" * 400 + "s", "9" * 5000 + "ms", "36501d"])
def test_durations_beyond_all_dates_are_rejected(text: str) -> None:
    """By the same clear error, whichever number cannot hold them; a value of any length is named shortly."""
    with pytest.raises(BadValue, match="at most 36500d") as caught:
        parse_duration(text)
    assert len(str(caught.value)) < 120
    with pytest.raises(BadValue):
        parse_downtime_ms(text)
    for window in (f"+{text}", f"now/+{text}", f"2026-07-02/+{text}"):
        with pytest.raises(BadValue):
            parse_window(window, now=NOW)


@pytest.mark.parametrize(
    "text", ["9" * 400 + "MB/s", "9" * 5000 + "bit", "1" + "0" * 309 + "kbit/s", "\u0661\u0662MB/s"]
)
def test_rates_beyond_all_numbers_are_rejected(text: str) -> None:
    """And digits of other scripts are none that a message can repeat."""
    with pytest.raises(BadValue, match="a rate"):
        parse_rate_bytes_per_s(text)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00+12:00", "+36500d", "1999-01-01"])
def test_times_that_no_message_can_say_are_rejected(text: str) -> None:
    """What is added to a time that is accepted is still a date."""
    with pytest.raises(BadValue, match="between the years"):
        parse_time(text, now=NOW.replace(year=2150))


@given(number=st.text("0123456789.", min_size=1, max_size=500), unit=st.sampled_from(["ms", "d", "MB/s", "Gbit/s", ""]))
def test_any_number_is_a_value_or_a_clear_error(number: str, unit: str) -> None:
    """No other error leaves a parser."""
    for parse in (parse_duration, parse_downtime_ms, parse_rate_bytes_per_s, parse_price):
        with suppress(BadValue):
            parse(number + unit)
    for text in (f"+{number}{unit}", f"now/+{number}{unit}"):
        with suppress(BadValue):
            parse_window(text, now=NOW)


def test_the_option_is_named() -> None:
    """A command line has many values: the error says which one is wrong."""
    with pytest.raises(BadValue, match=r"^--max-downtime: '500' is not valid: expected a number with ms") as caught:
        value_of("--max-downtime", parse_downtime_ms, "500")
    assert caught.value.option == "--max-downtime"
    assert value_of("--max-downtime", parse_downtime_ms, "500ms") == 500


@pytest.mark.parametrize(("text", "price"), [("12.50", "12.50"), ("0", "0"), (" 7.5 ", "7.5")])
def test_prices(text: str, price: str) -> None:
    """A price is exact."""
    assert parse_price(text) == Decimal(price)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.005", "nan", "inf", "99999999999", "1E100"])
def test_bad_prices_are_rejected(text: str) -> None:
    """No fractions of cents, no negatives, no names of numbers."""
    with pytest.raises(BadValue, match="per month"):
        parse_price(text)


def test_times() -> None:
    """now, an offset from now, and ISO 8601; a time without an offset is the reader's own."""
    assert parse_time("now", now=NOW) == NOW
    assert parse_time("+2h", now=NOW) == NOW + timedelta(hours=2)
    assert parse_time("2026-07-02T03:00Z", now=NOW) == datetime(2026, 7, 2, 3, 0, tzinfo=UTC)
    assert parse_time("2026-07-02T03:00", now=NOW) == datetime(2026, 7, 2, 3, 0, tzinfo=BERLIN)
    with pytest.raises(BadValue, match="a time such as"):
        parse_time("tomorrow", now=NOW)


def test_windows() -> None:
    """now moves at once; a start waits; an end is a deadline, counted from the start when it is an offset."""
    start = datetime(2026, 7, 2, 2, 0, tzinfo=BERLIN)

    assert parse_window("now", now=NOW) == (None, None)
    assert parse_window("2026-07-02T02:00", now=NOW) == (start, None)
    assert parse_window("2026-07-02T02:00/+3h", now=NOW) == (start, start + timedelta(hours=3))
    assert parse_window("now/+1h", now=NOW) == (None, NOW + timedelta(hours=1))


@pytest.mark.parametrize("text", ["", "/", "now/", "2026-07-02T02:00/2026-07-02T01:00", "now/now"])
def test_bad_windows_are_rejected(text: str) -> None:
    """An end that is not after its start is no window."""
    with pytest.raises(BadValue):
        parse_window(text, now=NOW)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing that can be typed raises anything but `BadValue`."""
    for parse in (parse_duration, parse_downtime_ms, parse_price, parse_rate_bytes_per_s):
        try:
            parse(text)
        except BadValue as error:
            assert repr(text) in str(error)  # noqa: PT017  # most texts are refused, some are not


def test_a_drive_is_a_target_or_all() -> None:
    """Nothing that could be a path, nor a second line."""
    assert [parse_drive(text) for text in ("sda", "all", "vdaa")] == ["sda", "all", "vdaa"]
    for text in ("", "sd", "/dev/sda", "sda\n", "SDA"):
        with pytest.raises(BadValue):
            parse_drive(text)


def test_months() -> None:
    """Months or years; an empty horizon is none."""
    assert [parse_months(text) for text in ("12m", "1y", " 3M ")] == [12, 12, 3]
    for text in ("", "0m", "6y", "12", "12w", "-1m", "1.5y"):
        with pytest.raises(BadValue, match="a number of months or years"):
            parse_months(text)
