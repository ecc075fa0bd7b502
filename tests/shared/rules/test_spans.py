"""Spans and calendars: months, working days, zones, and what cannot be said."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.rules.spans import FARTHEST, Calendar, Span

START = datetime(2026, 1, 31, 12, 0, 30, tzinfo=UTC)


class TestSpan:
    """One number of one unit."""

    @pytest.mark.parametrize(
        ("span", "end"),
        [
            (Span(seconds=1), START + timedelta(seconds=1)),
            (Span(hours=2), START + timedelta(hours=2)),
            (Span(days=30), START + timedelta(days=30)),
            (Span(months=1), datetime(2026, 2, 28, 12, 0, 30, tzinfo=UTC)),
            (Span(months=25), datetime(2028, 2, 29, 12, 0, 30, tzinfo=UTC)),
            (Span(months=100_000), FARTHEST),
            (Span(days=100_000), FARTHEST),
        ],
    )
    def test_end(self, span: Span, end: datetime) -> None:
        """Months are calendar months; what is too far is the farthest time."""
        assert span.after(START) == end

    def test_working_days_end_with_the_last_of_them(self) -> None:
        """Saturday and Sunday do not count, nor does a holiday; the day of the start does not, either."""
        calendar = Calendar(zone="Europe/London", holidays=(date(2026, 2, 3),))
        # 31 January is a Saturday: Monday is the first day, Wednesday the second.
        assert Span(working_days=1).after(START, calendar) == datetime(2026, 2, 3, tzinfo=UTC)
        assert Span(working_days=2).after(START, calendar) == datetime(2026, 2, 5, tzinfo=UTC)

    def test_midnight_is_that_of_the_zone(self) -> None:
        """Half past five hours before UTC's, in India."""
        calendar = Calendar(zone="Asia/Kolkata", weekend=(7,))
        assert Span(working_days=1).after(START, calendar) == datetime(2026, 2, 2, 18, 30, tzinfo=UTC)

    def test_a_month_keeps_the_local_hour(self) -> None:
        """Also over the change to summer time."""
        start = datetime(2026, 3, 1, 12, tzinfo=UTC)
        assert Span(months=1).after(start, Calendar(zone="Europe/Brussels")) == datetime(2026, 4, 1, 11, tzinfo=UTC)

    @given(st.integers(0, 400), st.integers(0, 60))
    def test_more_working_days_never_end_earlier(self, day: int, count: int) -> None:
        """And each ends at a midnight."""
        start = START + timedelta(days=day)
        first, second = (Span(working_days=n).after(start) for n in (count, count + 1))
        assert start.date() <= first.date() < second.date()
        assert first.hour == first.minute == first.second == 0

    @pytest.mark.parametrize("fields", [{}, {"days": 1, "hours": 1}, {"days": -1}, {"days": "1"}, {"weeks": 1}])
    def test_bad_span(self, fields: dict[str, object]) -> None:
        """None, two, negative, no number, or no unit."""
        with pytest.raises(ValidationError):
            Span.model_validate(fields)

    def test_in_words(self) -> None:
        """For lists."""
        assert [str(Span(months=1)), str(Span(working_days=14))] == ["1 month", "14 working days"]


class TestCalendar:
    """Which days count."""

    @pytest.mark.parametrize(
        "fields", [{"zone": "Mars/Base"}, {"weekend": [6, 6]}, {"weekend": [1, 2, 3, 4, 5, 6, 7]}, {"weekend": [0]}]
    )
    def test_bad_calendar(self, fields: dict[str, object]) -> None:
        """No such zone, a day twice, a week without a working day, no day of the week."""
        with pytest.raises(ValidationError):
            Calendar.model_validate(fields)

    def test_a_day_is_that_of_the_zone(self) -> None:
        """Late in the evening in UTC it is the next day in India."""
        assert Calendar(zone="Asia/Kolkata").day(datetime(2026, 1, 1, 18, 30, tzinfo=UTC)) == date(2026, 1, 2)
