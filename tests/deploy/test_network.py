"""Reading rates and times as they are typed."""

import pytest

from deploy.labkit.network import LinkBytes, burst_bytes, parse_rate, parse_rtt


@pytest.mark.parametrize(
    ("text", "rate"), [("100mbit", "100mbit"), ("1gbit", "1gbit"), ("2.5gbit", "2.5gbit"), ("none", None)]
)
def test_a_rate_is_what_tc_understands(text: str, rate: str | None) -> None:
    """Rates pass through; none lifts the limit."""
    assert rate == parse_rate(text)


@pytest.mark.parametrize("text", ["", "fast", "100", "100Mbit", "100mbps", "-1mbit"])
def test_a_wrong_rate_is_rejected(text: str) -> None:
    """What tc would read in another way is refused."""
    with pytest.raises(ValueError, match="link rate"):
        parse_rate(text)


@pytest.mark.parametrize(("text", "ms"), [("20ms", 20.0), ("20", 20.0), ("0.5s", 500.0), ("500us", 0.5), ("none", 0.0)])
def test_a_round_trip_is_in_milliseconds(text: str, ms: float) -> None:
    """Units are understood; a bare number is milliseconds."""
    assert ms == parse_rtt(text)


def test_a_wrong_round_trip_is_rejected() -> None:
    """A time that is none is refused."""
    with pytest.raises(ValueError, match="round-trip"):
        parse_rtt("slow")


def test_the_bucket_holds_an_offloaded_segment_even_on_a_slow_link() -> None:
    """tbf would never send a segment larger than its bucket."""
    assert burst_bytes("1mbit") >= 65_536
    assert burst_bytes("1gbit") == 1_250_000


def test_link_bytes_are_counted_from_a_reading() -> None:
    """The difference of two readings is what crossed between them."""
    assert LinkBytes(5, 7) == LinkBytes(15, 27).since(LinkBytes(10, 20))
