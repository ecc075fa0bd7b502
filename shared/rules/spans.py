"""Spans of time as laws write them, and the calendar that says which days are working days. Pure.

A span is one number of one unit. Months are calendar months: from 31 January one month ends on the last day of
February. Working days are counted from the day after the start; the span ends with the last of them, at midnight in the
calendar's zone.
"""

from __future__ import annotations

import calendar as months
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shared.messages.base import EARLIEST_YEAR, LATEST_YEAR

FARTHEST = datetime(LATEST_YEAR, 12, 31, tzinfo=UTC)
"""A span that would end later ends then."""
Amount = Annotated[int, Field(ge=0, le=100_000, strict=True)]


class Part(BaseModel):
    """A part of a regime: frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Calendar(Part):
    """Which days count, and in which zone a day begins."""

    zone: str = Field(default="UTC", description="IANA name of the time zone, such as Europe/London.")
    weekend: tuple[Annotated[int, Field(ge=1, le=7, strict=True)], ...] = Field(
        default=(6, 7), max_length=6, description="Days of the week that are no working days; 1 is Monday."
    )
    holidays: tuple[date, ...] = Field(default=(), max_length=2000, description="Other days that are none.")

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        _zone(zone)
        return zone

    @field_validator("weekend", "holidays")
    @classmethod
    def _once(cls, days: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(days)) != len(days):
            raise ValueError("a day is listed twice")
        return days

    def day(self, at: datetime) -> date:
        """The day in the calendar's zone."""
        return at.astimezone(_zone(self.zone)).date()

    def midnight(self, day: date) -> datetime:
        """The instant at which a day begins there, in UTC."""
        return datetime.combine(day, time(), _zone(self.zone)).astimezone(UTC)

    def works(self, day: date) -> bool:
        """Whether it is a working day."""
        return day.isoweekday() not in self.weekend and day not in self.holidays


USUAL = Calendar()


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"{name!r} is no time zone that this host knows") from error


class Span(Part):
    """So long: exactly one unit."""

    months: Amount | None = None
    days: Amount | None = None
    working_days: Annotated[int, Field(ge=0, le=2000, strict=True)] | None = None
    hours: Amount | None = None
    seconds: Annotated[int, Field(ge=0, le=10**9, strict=True)] | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if sum(value is not None for _, value in self) != 1:
            raise ValueError("give one of months, days, working_days, hours, seconds")
        return self

    def __str__(self) -> str:
        [(unit, count)] = [(unit, value) for unit, value in self if value is not None]
        words = unit.replace("_", " ")
        return f"{count} {words[:-1] if count == 1 else words}"

    def after(self, start: datetime, calendar: Calendar = USUAL) -> datetime:
        """When a span that begins at ``start`` ends; at most `FARTHEST`."""
        try:
            return min(self._after(start, calendar), FARTHEST)
        except OverflowError:
            return FARTHEST

    def _after(self, start: datetime, calendar: Calendar) -> datetime:
        if self.months is not None:
            local = start.astimezone(_zone(calendar.zone))
            day = _months_later(local.date(), self.months)
            return datetime.combine(day, local.timetz()).astimezone(UTC)
        if self.working_days is not None:
            return calendar.midnight(_working_days_later(calendar, calendar.day(start), self.working_days) + _DAY)
        return start + timedelta(days=self.days or 0, hours=self.hours or 0, seconds=self.seconds or 0)


_DAY = timedelta(days=1)


def _months_later(day: date, count: int) -> date:
    index = day.year * 12 + day.month - 1 + count
    year, month = divmod(index, 12)
    if not EARLIEST_YEAR <= year <= LATEST_YEAR:
        raise OverflowError
    return date(year, month + 1, min(day.day, months.monthrange(year, month + 1)[1]))


def _working_days_later(calendar: Calendar, day: date, count: int) -> date:
    while count > 0:
        day += _DAY
        count -= calendar.works(day)
    return day
