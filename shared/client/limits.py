"""A tenant's limits: from the options as typed to `PortLimits`, and back to the words that a person checks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum

from shared.client.units import (
    parse_currency,
    parse_downtime_ms,
    parse_drive,
    parse_horizon_months,
    parse_hourly_cost,
    parse_price,
    parse_rate_bytes_per_s,
    parse_time,
    parse_window,
    value_of,
)
from shared.errors import VmportError
from shared.messages.network import NetworkMode
from shared.messages.quote_lines import Part
from shared.messages.service_change import PortLimits

MOST_EJECTED = 64
USUAL_HORIZON_MONTHS = PortLimits().horizon_months


class BadLimits(VmportError):
    """Two options do not fit together."""

    code = "bad_value"


class PostCopyChoice(StrEnum):
    """May the guest run at the recipient before all of its memory is there?"""

    NEVER = "never"
    IF_NEEDED = "if-needed"
    ALWAYS = "always"


class OverlaysChoice(StrEnum):
    """May a disk be an overlay on a base image of the recipient's?"""

    NEVER = "never"
    IF_KNOWN = "if-known"


class NetworkChoice(StrEnum):
    """How the VM keeps its addresses."""

    AUTO = "auto"
    JOINED = "joined"
    EXTEND = "extend"
    TRANSLATE = "translate"
    ANCHOR = "anchor"
    ANNOUNCE = "announce"


def limits_of(
    *,
    max_downtime: str = "1s",
    window: str = "now",
    deadline: str | None = None,
    max_price: str | None = None,
    bandwidth: str | None = None,
    post_copy: PostCopyChoice = PostCopyChoice.NEVER,
    stop_and_copy: bool = False,
    seed: bool = False,
    seed_bandwidth: str | None = None,
    overlays: OverlaysChoice = OverlaysChoice.IF_KNOWN,
    eject: Sequence[str] = (),
    require: Iterable[Part] = (),
    network_mode: NetworkChoice = NetworkChoice.AUTO,
    horizon: str = "12",
    downtime_cost: str = "0",
    currency: str | None = None,
    now: datetime,
) -> PortLimits:
    """A tenant's limits from what was typed; raises `BadValue`, which names the option, or `BadLimits`."""
    start, last = _times(window, deadline, now=now)
    if seed and start is None:
        raise BadLimits("--seed needs a --window that starts later: contents are sent before it")
    if seed_bandwidth and not seed:
        raise BadLimits("--seed-bandwidth is of use only with --seed")
    if len(eject) > MOST_EJECTED:
        raise BadLimits(f"--eject may be given {MOST_EJECTED} times at most; all is every drive")
    return PortLimits(
        max_downtime_ms=value_of("--max-downtime", parse_downtime_ms, max_downtime),
        window_start=start,
        deadline=last,
        max_price_per_month=value_of("--max-price", parse_price, max_price) if max_price else None,
        bandwidth_bytes_per_s=value_of("--bandwidth", parse_rate_bytes_per_s, bandwidth) if bandwidth else None,
        post_copy={"never": "never", "if-needed": "if_needed", "always": "always"}[post_copy],
        stop_and_copy=stop_and_copy,
        seed=seed,
        seed_bandwidth_bytes_per_s=(
            value_of("--seed-bandwidth", parse_rate_bytes_per_s, seed_bandwidth) if seed_bandwidth else None
        ),
        overlays={"never": "never", "if-known": "if_known"}[overlays],
        eject=tuple(dict.fromkeys(value_of("--eject", parse_drive, drive) for drive in eject)),
        require=tuple(dict.fromkeys(require)),
        network_mode="auto" if network_mode is NetworkChoice.AUTO else NetworkMode(network_mode.value),
        horizon_months=value_of("--horizon", parse_horizon_months, horizon),
        downtime_cost_per_hour=value_of("--downtime-cost", parse_hourly_cost, downtime_cost),
        currency=value_of("--currency", parse_currency, currency) if currency else None,
    )


def _times(window: str, deadline: str | None, *, now: datetime) -> tuple[datetime | None, datetime | None]:
    start, end = value_of("--window", lambda text: parse_window(text, now=now), window)
    until = value_of("--deadline", lambda text: parse_time(text, now=now), deadline) if deadline else None
    if end is not None and until is not None:
        raise BadLimits("--deadline: the --window has an end already; give one of them")
    last = end or until
    if last is not None and last <= (start or now):
        option = f"--deadline {deadline}" if until else f"--window {window}"
        raise BadLimits(f"{option}: the end must be later than now and than the start of the --window")
    return start, last


def rate_text(bytes_per_s: int) -> str:
    """``50 Mbit/s (6.3 MB/s)``: both units, so that neither is taken for the other."""
    return f"{_decimal(8 * bytes_per_s)}bit/s ({_decimal(bytes_per_s)}B/s)"


def _decimal(count: int) -> str:
    """``6.3 M``: one decimal at most, rounded half up."""
    exponent = next((power for power in (4, 3, 2, 1) if count >= 1000**power), 0)
    rounded = (Decimal(count) / 1000**exponent).quantize(Decimal("0.1"), ROUND_HALF_UP)
    return f"{rounded:f}".removesuffix(".0") + " " + ("", "k", "M", "G", "T")[exponent]


def limits_text(limits: PortLimits) -> str:
    """What a port is limited by, in one line, as vmport has understood it."""
    return "; ".join(_clauses(limits))


def _clauses(limits: PortLimits) -> Iterator[str]:
    yield f"downtime at most {limits.max_downtime_ms} ms"
    yield "bandwidth " + (
        "not limited" if limits.bandwidth_bytes_per_s is None else f"at most {rate_text(limits.bandwidth_bytes_per_s)}"
    )
    if limits.max_price_per_month is not None:
        yield f"price at most {limits.max_price_per_month} per month"
    if limits.currency is not None:
        yield f"paid in {limits.currency}"
    if limits.downtime_cost_per_hour:
        yield f"an hour of downtime counts {limits.downtime_cost_per_hour}"
    if limits.horizon_months != USUAL_HORIZON_MONTHS:
        yield f"compared over {limits.horizon_months} month{'s' if limits.horizon_months > 1 else ''}"
    yield f"from {zoned(limits.window_start)}" if limits.window_start else "starts at once"
    if limits.deadline:
        yield f"until {zoned(limits.deadline)}"
    if limits.seed and limits.seed_bandwidth_bytes_per_s is not None:
        yield f"seeding at most {rate_text(limits.seed_bandwidth_bytes_per_s)}"
    if limits.eject:
        yield f"media left behind: {', '.join(limits.eject)}"
    if limits.require:
        yield f"must stay as it is: {', '.join(limits.require)}"
    if limits.network_mode != "auto":
        yield f"addresses kept by {limits.network_mode}"


def zoned(moment: datetime) -> str:
    """A time in its own zone, with the offset: ``2026-07-01 02:00:00 +0200``."""
    return f"{moment:%Y-%m-%d %H:%M:%S %z}"
