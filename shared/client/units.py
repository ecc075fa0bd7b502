"""What a tenant types on the command line, as the values of a request. Pure; the current time is an input."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import NamedTuple, TypeVar

from shared.currencies import CURRENCIES
from shared.errors import VmportError
from shared.messages.base import EARLIEST_YEAR, LATEST_YEAR
from shared.messages.demand import LONGEST_HORIZON_MONTHS

_SECONDS_PER = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$", re.ASCII)
LONGEST = timedelta(days=36_500)
"""A hundred years. No duration that a port knows is longer, and every time plus this one is still a date."""

_MONTHS = re.compile(r"^(\d{1,4})\s*(m|y)$", re.ASCII)
_DRIVE = re.compile(r"^(?:all|[a-z]{2,4}[a-z])\Z")

LONGEST_COMPARED_MONTHS = 120
_PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_RATE = re.compile(r"^(\d+(?:\.\d+)?)\s*([kKmMgG]i?)?((?i:bits?)|[bB])(/s|ps)?$", re.ASCII)
RATE_FORMS = "50Mbit/s, 50Mbps or 50mbit for bits; 6MB/s or 6MiB/s for bytes"


_MOST_SHOWN = 40
"""Characters of a wrong value that an error repeats."""


class BadValue(VmportError):
    """A value on the command line is not valid. ``option`` is the option that has it, where it is known."""

    code = "bad_value"

    def __init__(self, text: str, expected: str, *, option: str = "") -> None:
        self.text = text
        self.expected = expected
        self.option = option
        place = f"{option}: " if option else ""
        shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
        super().__init__(f"{place}{shown!r} is not valid: expected {expected}")


T = TypeVar("T")


def value_of(option: str, parse: Callable[[str], T], text: str) -> T:
    """Parse an option's value; a `BadValue` names the option."""
    try:
        return parse(text)
    except BadValue as error:
        raise BadValue(error.text, error.expected, option=option) from error


class Window(NamedTuple):
    """When a port may move: not before ``start`` (None: at once), switched over by ``end`` (None: no limit)."""

    start: datetime | None
    end: datetime | None


def parse_duration(text: str) -> timedelta:
    """``500ms``, ``30s``, ``15m``, ``2h``, ``1d``; raises `BadValue`."""
    match = _DURATION.match(text.strip().lower())
    if match is None:
        raise BadValue(text, "a number with ms, s, m, h or d, such as 500ms or 2h")
    seconds = float(match[1]) * _SECONDS_PER[match[2]]
    # Compared as numbers: what is beyond a float is inf, and no timedelta.
    if seconds > LONGEST.total_seconds():
        raise BadValue(text, f"a duration of at most {LONGEST.days}d")
    return timedelta(seconds=seconds)


def parse_months(text: str) -> int:
    """``12m`` or ``1y``, a number of months; raises `BadValue`."""
    months = _months(_MONTHS, text, LONGEST_HORIZON_MONTHS)
    if months is None:
        raise BadValue(text, f"a number of months or years such as 12m or 1y, 1 to {LONGEST_HORIZON_MONTHS} months")
    return months


def _months(form: re.Pattern[str], text: str, longest: int) -> int | None:
    match = form.match(text.strip().lower())
    months = int(match[1]) * (12 if (match[2] or "").startswith("y") else 1) if match is not None else 0
    return months if 1 <= months <= longest else None


def parse_drive(text: str) -> str:
    """``sda`` as the guest's host calls a drive, or ``all``; raises `BadValue`."""
    if _DRIVE.match(text) is None:
        raise BadValue(text, "a drive of the VM such as sda, or all")
    return text


def parse_downtime_ms(text: str) -> int:
    """A duration in whole milliseconds, at least 1; raises `BadValue`."""
    downtime_ms = round(parse_duration(text) / timedelta(milliseconds=1))
    if not 1 <= downtime_ms <= 3_600_000:
        raise BadValue(text, "a downtime between 1ms and 1h")
    return downtime_ms


def parse_rate_bytes_per_s(text: str) -> int:
    """``50Mbit/s``, ``50Mbps``, ``50mbit`` in bits, ``6MB/s`` or ``6MiB`` in bytes; raises `BadValue`.

    A lower-case ``b`` that nothing follows is refused: people write ``50mb`` for megabits and for megabytes.
    """
    match = _RATE.match(text.strip())
    if match is None:
        raise BadValue(text, f"a rate with its unit: {RATE_FORMS}")
    number, prefix, unit, per_second = match.groups()
    if unit == "b" and per_second is None:
        raise BadValue(text, f"bits or bytes, and this may mean either: {RATE_FORMS}")
    amount = float(number) * _PREFIXES[(prefix or "").lower()]
    rate = amount if unit == "B" else amount / 8
    # Compared before it is rounded: what is beyond a float is inf, which no whole number is.
    if not 64 * 1024 <= rate <= 2**40:
        raise BadValue(text, "a rate from 64KiB/s (0.53Mbit/s) to 1024GiB/s")
    return round(rate)


def parse_price(text: str) -> Decimal:
    """An amount per month with at most two decimals; raises `BadValue`."""
    try:
        price = Decimal(text.strip())
    except InvalidOperation as error:
        raise BadValue(text, "an amount per month, such as 12.50") from error
    # The bound first: what has more digits than decimal's precision cannot be quantized.
    if not price.is_finite() or not 0 <= price < 10**10 or price != price.quantize(Decimal("0.01")):
        raise BadValue(text, "an amount per month of at least 0 with at most two decimals, such as 12.50")
    return price


_HORIZON = re.compile(r"^([0-9]{1,4})\s*(m|months?|y|years?)?$", re.ASCII)


def parse_horizon_months(text: str) -> int:
    """``12``, ``12m`` or ``1y``: months, from 1 to 120; raises `BadValue`."""
    months = _months(_HORIZON, text, LONGEST_COMPARED_MONTHS)
    if months is None:
        raise BadValue(text, f"a time from 1 month to {LONGEST_COMPARED_MONTHS}, such as 12, 12m or 1y")
    return months


def parse_currency(text: str) -> str:
    """``EUR``; raises `BadValue` for one that ISO 4217 does not have."""
    code = text.strip().upper()
    if code not in CURRENCIES:
        raise BadValue(text, "a currency of ISO 4217, such as EUR or USD")
    return code


def parse_hourly_cost(text: str) -> Decimal:
    """An amount per hour with at most two decimals; raises `BadValue`."""
    try:
        return parse_price(text)
    except BadValue as error:
        raise BadValue(text, "an amount per hour of at least 0 with at most two decimals, such as 40") from error


def parse_time(text: str, *, now: datetime) -> datetime:
    """``now``, ``+2h``, or ISO 8601 such as ``2026-07-01T02:00+02:00``; without an offset it is in ``now``'s zone."""
    text = text.strip()
    if text.lower() == "now":
        return now
    try:
        moment = now + parse_duration(text[1:]) if text.startswith("+") else datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise BadValue(text, "now, +2h, or a time such as 2026-07-01T02:00+02:00") from error
    if not EARLIEST_YEAR < moment.year < LATEST_YEAR:
        raise BadValue(text, f"a time between the years {EARLIEST_YEAR} and {LATEST_YEAR}")
    return moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)


def parse_window(text: str, *, now: datetime) -> Window:
    """``now`` or ``START`` or ``START/END``; an END of ``+3h`` counts from START. Raises `BadValue`."""
    first, slash, last = text.partition("/")
    start = parse_time(first, now=now)
    end = parse_time(last, now=start) if slash else None
    if end is not None and end <= start:
        raise BadValue(text, "an end after the start")
    return Window(None if first.strip().lower() == "now" else start, end)


def told_of(options: Iterable[str] | None) -> dict[str, str]:
    """What ``--tell FIELD=VALUE`` says, by the field's name. Raises `BadValue`."""
    told: dict[str, str] = {}
    for option in options or ():
        name, equals, value = option.partition("=")
        if not equals or not value or not _FIELD.match(name):
            raise BadValue(option, "FIELD=VALUE, such as account_number=4711", option="--tell")
        if name in told:
            raise BadValue(option, f"{name} once", option="--tell")
        told[name] = value
    return told


_FIELD = re.compile(r"^[a-z][a-z0-9_]{0,63}$")
