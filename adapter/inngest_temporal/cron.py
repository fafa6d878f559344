"""Cron expressions, as robfig/cron reads them for Inngest's server (semantics §4.1, §4.12).

The libraries for Python read other dialects (seconds, L, #, 7 for Sunday), and so does Temporal:
there the fields of an expression must all match, while here a restricted day of month and a
restricted day of week are alternatives.
"""

import functools
import re
import zoneinfo
from dataclasses import dataclass

from .models import parse_duration


@dataclass(frozen=True)
class Cron:
    """A parsed expression: `every`, or else the times of day and the days."""

    zone: str | None = None
    """IANA time zone; None: UTC."""
    every: int | None = None
    """Seconds between two ticks, for `@every`."""
    minutes: frozenset[int] = frozenset()
    hours: frozenset[int] = frozenset()
    days: frozenset[int] = frozenset()
    """Of the month, 1 to 31."""
    months: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()
    """0 is Sunday."""
    either_day: bool = False
    """Whether one of `days` and `weekdays` suffices: both are restricted."""


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
    times, zone = cron.strip(), None
    if zoned := _ZONE.fullmatch(times):
        zone, times = zoned[1], zoned[2]
        _check_zone(zone)
    if times.startswith("@"):
        word, _, rest = times.partition(" ")
        if word == "@every":
            every = parse_duration(rest.strip())
            if every < 1000:
                raise ValueError("@every needs at least one second; use a longer time")
            return Cron(zone, every // 1000)
        if times not in _WORDS:
            raise ValueError(
                f"{word} is unknown; use @every 1h or one of {', '.join(sorted(_WORDS))}"
            )
        times = _WORDS[times]
    fields = times.split()
    if len(fields) != len(_FIELDS):
        names = ", ".join(name for name, *_ in _FIELDS)
        raise ValueError(
            f"it has {len(fields)} fields; use five ({names}), or a word such as @daily"
        )
    minutes, hours, days, months, weekdays = map(_read_field, fields, _FIELDS)
    either = not (_is_any(fields[2]) or _is_any(fields[4]))
    if not either and min(days) > max(_MONTH_DAYS[month - 1] for month in months):
        raise ValueError("it never happens: no such month has that day; change day or month")
    return Cron(zone, None, minutes, hours, days, months, weekdays, either)


def _is_any(field: str) -> bool:
    """Whether a field counts as not restricted: as in robfig/cron `*/2` does not."""
    return any(part in ("*", "?", "*/1", "?/1") for part in field.split(","))


def _check_zone(zone: str) -> None:
    known = _zones()
    if known and zone not in known:
        raise ValueError(f"{zone!r} is no time zone; use a name such as Europe/Paris")


@functools.cache
def _zones() -> frozenset[str]:
    """Every time zone; empty on a system without the database, where Temporal's server is left to
    know."""
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
