"""Cron expressions, as robfig/cron reads them for Inngest's server (semantics §4.1, §4.12).

The libraries for Python read other dialects (seconds, L, #, 7 for Sunday), and so does Temporal:
there the fields of an expression must all match, while here a restricted day of month and a
restricted day of week are alternatives. And Temporal loses and invents times when clocks change in
a time zone; in UTC it is right. So schedules are given times in UTC.
"""

import functools
import itertools
import re
import zoneinfo
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from .models import parse_duration

YEARS_AHEAD = 5
"""How far ahead the offsets of a time zone from UTC are looked up."""
_DAY = 24 * 60
_MONTH_ENDS = frozenset({28, 29, 30, 31})


@dataclass(frozen=True)
class Times:
    """The minutes whose hour, day and so on are all among these numbers."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    """Days of the month, 1 to 31."""
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""

    def hold(self, moment: datetime) -> bool:
        """Whether a moment is the beginning of one of the minutes."""
        return (
            moment.second == 0
            and moment.minute in self.minutes
            and moment.hour in self.hours
            and moment.day in self.days
            and moment.month in self.months
            and moment.isoweekday() % 7 in self.weekdays
        )


@dataclass(frozen=True)
class Cron:
    """A parsed expression: `every`, or else alternative times."""

    zone: str | None = None
    """IANA time zone; None: UTC."""
    every: int | None = None
    """Seconds between two ticks, for `@every`."""
    times: tuple[Times, ...] = ()
    """The times in the time zone."""

    def matches(self, moment: datetime) -> bool:
        """Whether clocks in the time zone show a time of the expression at a moment."""
        local = moment.astimezone(zoneinfo.ZoneInfo(self.zone or "UTC"))
        return any(times.hold(local) for times in self.times)

    def in_utc(self) -> list[Times]:
        """Times in UTC that hold all those of the expression, with any offset from UTC that the
        zone has. They hold others too, where the zone has several offsets: see `is_due`."""
        return _merged(
            _moved(times, offset)
            for times in self.times
            for offset in sorted(_offsets(self.zone or "UTC", datetime.now(UTC).year))
        )

    def is_due(self, moment: datetime) -> bool:
        """Whether a tick of a schedule of `in_utc` counts: it is a time of the expression, or none
        of the schedule, because somebody asked for it."""
        at = moment.astimezone(UTC)
        return self.matches(at) or not any(times.hold(at) for times in self.in_utc())


@functools.cache
def _offsets(zone: str, year: int) -> frozenset[int]:
    """Minutes by which clocks in a time zone are ahead of UTC in that year or the next ones."""
    begin, known = datetime(year, 1, 1, tzinfo=UTC), zoneinfo.ZoneInfo(zone)
    days = (begin + timedelta(days=day) for day in range(366 * (YEARS_AHEAD + 1)))
    offsets = {day.astimezone(known).utcoffset() or timedelta() for day in days}
    return frozenset(round(offset.total_seconds()) // 60 for offset in offsets)


def _moved(times: Times, offset: int) -> Iterable[Times]:
    """These times, shown by clocks that are `offset` minutes ahead of UTC, as times in UTC."""
    for hour, minute in itertools.product(times.hours, times.minutes):
        day, of_day = divmod(hour * 60 + minute - offset, _DAY)
        at_hour, at_minute = divmod(of_day, 60)
        days, months, weekdays = times.days, times.months, times.weekdays
        if day:  # on the day before or after
            # The day before the first is the last of a month, which may be any of four.
            beyond = _MONTH_ENDS if day < 0 and 1 in days else frozenset[int]()
            beyond |= frozenset({1} if day > 0 and days & _MONTH_ENDS else ())
            days = frozenset(each + day for each in days if 1 <= each + day <= 31) | beyond
            months |= {(each - 1 + day) % 12 + 1 for each in months}
            weekdays = frozenset((each + day) % 7 for each in weekdays)
        yield Times(frozenset({at_minute}), frozenset({at_hour}), days, months, weekdays)


def _merged(parts: Iterable[Iterable[Times]]) -> list[Times]:
    """The same times, merged into few parts."""
    hours: dict[tuple[frozenset[int], ...], dict[int, set[int]]] = {}
    for times in itertools.chain.from_iterable(parts):
        by_minute = hours.setdefault((times.days, times.months, times.weekdays), {})
        for minute in times.minutes:
            by_minute.setdefault(minute, set()).update(times.hours)
    merged = []
    for (days, months, weekdays), by_minute in hours.items():
        minutes: dict[frozenset[int], set[int]] = {}
        for minute, at_hours in by_minute.items():
            minutes.setdefault(frozenset(at_hours), set()).add(minute)
        merged += [
            Times(frozenset(of_hour), at_hours, days, months, weekdays)
            for at_hours, of_hour in minutes.items()
        ]
    return merged


_ZONE = re.compile(r"(?:CRON_)?TZ=(\S*)\s+(.*)")
_PART = re.compile(r"([*?]|\w+)(?:-(\w+))?(?:/(\d+))?")
_WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    ("day of week", 0, 6, {name: number for number, name in enumerate(_WEEKDAYS)}),
)
_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def parse_cron(cron: str) -> Cron:
    """Read five fields or `@daily` and the like, with or without `TZ=<zone>` in front. Raises
    `ValueError`."""
    text, zone = cron.strip(), None
    if zoned := _ZONE.fullmatch(text):
        zone, text = zoned[1], zoned[2]
        _check_zone(zone)
    if text.startswith("@"):
        word, _, rest = text.partition(" ")
        if word == "@every":
            every = parse_duration(rest.strip())
            if every < 1000:
                raise ValueError("@every needs at least one second; use a longer time")
            return Cron(zone, every // 1000)
        if text not in _WORDS:
            raise ValueError(
                f"{word} is unknown; use @every 1h or one of {', '.join(sorted(_WORDS))}"
            )
        text = _WORDS[text]
    fields = text.split()
    if len(fields) != len(_FIELDS):
        names = ", ".join(name for name, *_ in _FIELDS)
        raise ValueError(
            f"it has {len(fields)} fields; use five ({names}), or a word such as @daily"
        )
    times = Times(*map(_read_field, fields, _FIELDS))
    if not (_is_any(fields[2]) or _is_any(fields[4])):  # one of both suffices
        any_day, any_weekday = frozenset(range(1, 32)), frozenset(range(7))
        alternatives = (replace(times, weekdays=any_weekday), replace(times, days=any_day))
        return Cron(zone, None, alternatives)
    if min(times.days) > max(_MONTH_DAYS[month - 1] for month in times.months):
        raise ValueError("it never happens: no such month has that day; change day or month")
    return Cron(zone, None, (times,))


def _is_any(field: str) -> bool:
    """Whether a field counts as unrestricted; as in robfig/cron, `*/2` does not."""
    return any(part in ("*", "?", "*/1", "?/1") for part in field.split(","))


def _check_zone(zone: str) -> None:
    if zone not in _zones():
        raise ValueError(f"{zone!r} is not a time zone; use a name such as Europe/Paris")


@functools.cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _read_field(text: str, field: tuple[str, int, int, dict[str, int]]) -> frozenset[int]:
    name, low, high, words = field
    values: set[int] = set()

    def number(value: str) -> int:
        found = words.get(value.lower())
        found = int(value) if found is None and value.isascii() and value.isdecimal() else found
        if found is None or not low <= found <= high:
            sunday = "; Sunday is 0" if words.get("sun") == 0 else ""
            raise ValueError(f"{name} {value!r} is out of range; use {low} to {high}{sunday}")
        return found

    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None or (match[1] in "*?" and match[2] is not None):
            raise ValueError(
                f"{name} {part!r} can't be read; use numbers, ranges (1-5), lists (1,3) and steps"
                " (*/5)"
            )
        first, last, step = match.groups()
        start, end = (
            (low, high) if first in "*?" else (number(first), high if step else number(first))
        )
        if last is not None:
            end = number(last)
        if start > end:
            raise ValueError(f"{name} {part!r} goes backwards; use {end}-{start}")
        if step is not None and int(step) == 0:
            raise ValueError(f"{name} {part!r} has a step of 0; use at least 1")
        values.update(range(start, end + 1, int(step or 1)))
    return frozenset(values)
