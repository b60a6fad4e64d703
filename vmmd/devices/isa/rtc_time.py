# SPDX-License-Identifier: Apache-2.0
"""Calendar arithmetic of the MC146818: seconds since 1970 to registers and back, and when an alarm is due.

Plain integer arithmetic on the proleptic Gregorian calendar: every register value a guest can write means some time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    _Coder = Callable[[int, int], int]

SECONDS_PER_DAY = 86_400

# register B bits that select the format
FORMAT_BINARY = 0x04
FORMAT_24H = 0x02

HOUR_PM = 0x80
#: alarm registers from this value on match every value
ALARM_ANY = 0xC0


class Civil(NamedTuple):
    """Broken-down time. ``weekday`` is 1 on Sundays."""

    year: int
    month: int
    day: int
    hour: int
    minute: int
    second: int
    weekday: int


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01. Month and day may be out of range: they carry over."""
    year += (month - 1) // 12
    month = (month - 1) % 12 + 1
    if month <= 2:
        year -= 1
    era_year = year % 400
    month_from_march = (month + 9) % 12
    day_of_year = (153 * month_from_march + 2) // 5 + day - 1
    day_of_era = era_year * 365 + era_year // 4 - era_year // 100 + day_of_year
    return (year // 400) * 146_097 + day_of_era - 719_468


def to_seconds(civil: Civil) -> int:
    """Seconds since 1970-01-01 00:00:00 (the weekday does not count)."""
    days = days_from_civil(civil.year, civil.month, civil.day)
    return days * SECONDS_PER_DAY + civil.hour * 3600 + civil.minute * 60 + civil.second


def from_seconds(seconds: int) -> Civil:
    """Broken-down time of seconds since 1970."""
    days, rest = divmod(seconds, SECONDS_PER_DAY)
    shifted = days + 719_468
    era, day_of_era = divmod(shifted, 146_097)
    era_year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * era_year + era_year // 4 - era_year // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    year = era * 400 + era_year + (1 if month <= 2 else 0)
    hour, rest = divmod(rest, 3600)
    return Civil(year, month, day, hour, rest // 60, rest % 60, (days + 4) % 7 + 1)


def encode(value: int, control: int) -> int:
    """0..99 as a register, binary or BCD as register B (``control``) says."""
    return value if control & FORMAT_BINARY else (value // 10) << 4 | value % 10


def decode(register: int, control: int) -> int:
    """The number in a register; BCD digits above 9 count with their place value."""
    return register if control & FORMAT_BINARY else (register >> 4) * 10 + (register & 0x0F)


def encode_hour(hour: int, control: int) -> int:
    """0..23 as the hours register, in 12-hour mode with the PM bit."""
    if control & FORMAT_24H:
        return encode(hour, control)
    return encode(hour % 12 or 12, control) | (HOUR_PM if hour >= 12 else 0)


def decode_hour(register: int, control: int) -> int:
    """The hour in the hours register."""
    if control & FORMAT_24H:
        return decode(register, control)
    return decode(register & ~HOUR_PM, control) % 12 + (12 if register & HOUR_PM else 0)


class Alarm(NamedTuple):
    """What the alarm registers ask for; None: every value; -1: none, the register holds what no time looks like."""

    hour: int | None
    minute: int | None
    second: int | None

    @classmethod
    def from_registers(cls, hour: int, minute: int, second: int, control: int) -> Alarm:
        def wanted(register: int, from_register: _Coder, to_register: _Coder) -> int | None:
            if register >= ALARM_ANY:
                return None
            value = from_register(register, control)
            return value if to_register(value, control) == register else -1

        return cls(
            wanted(hour, decode_hour, encode_hour), wanted(minute, decode, encode), wanted(second, decode, encode)
        )

    def next_after(self, seconds: int) -> int | None:
        """The first second after ``seconds`` that matches, or None when none ever does."""
        start = seconds + 1
        hour, minute, second = start // 3600 % 24, start // 60 % 60, start % 60
        base = start - second - 60 * minute
        for hours in range(25):
            if self.hour in (None, (hour + hours) % 24):
                found = self._within_hour(minute * 60 + second if hours == 0 else 0)
                if found is not None:
                    return base + hours * 3600 + found
        return None

    def _within_hour(self, start: int) -> int | None:
        """The first matching second of an hour at or behind ``start``."""
        for minute in range(start // 60, 60):
            if self.minute not in (None, minute):
                continue
            first = start - minute * 60 if minute * 60 < start else 0
            if self.second is None:
                return minute * 60 + first
            if first <= self.second < 60:
                return minute * 60 + self.second
        return None
