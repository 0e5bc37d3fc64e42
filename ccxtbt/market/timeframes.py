"""Timeframes: backtrader's pair, ccxt's text and the clock's milliseconds.

Bars lie on a grid in UTC: seconds to days count from 1970-01-01, weeks from Monday 1970-01-05, months and years
follow the calendar. All times are whole milliseconds since 1970 UTC; any int is allowed, also negative ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from backtrader import TimeFrame

from ccxtbt.errors import ConfigError, NotOfferedError

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS
# Months and years have no fixed length: these serve for estimates and for ordering, as ccxt reckons them.
MONTH_MS = 30 * DAY_MS
YEAR_MS = 365 * DAY_MS

# 1970-01-05, the first Monday: weeks are counted from here.
FIRST_MONDAY_MS = 4 * DAY_MS

# Length of each unit that has a fixed one.
_UNIT_MS = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "w": WEEK_MS}
_UNIT_MONTHS = {"M": 1, "y": 12}

# The unit a backtrader timeframe is written in; Minutes become hours or days in `from_backtrader`.
_UNIT_OF = {
    TimeFrame.Seconds: "s",
    TimeFrame.Minutes: "m",
    TimeFrame.Days: "d",
    TimeFrame.Weeks: "w",
    TimeFrame.Months: "M",
    TimeFrame.Years: "y",
}
_NAME_OF = {
    TimeFrame.Ticks: "Ticks",
    TimeFrame.MicroSeconds: "MicroSeconds",
    TimeFrame.Seconds: "Seconds",
    TimeFrame.Minutes: "Minutes",
    TimeFrame.Days: "Days",
    TimeFrame.Weeks: "Weeks",
    TimeFrame.Months: "Months",
    TimeFrame.Years: "Years",
}

# The pairs that scripts ask for by habit -> ccxt's text; what else an exchange lists is found by its length.
GRANULARITIES: dict[tuple[int, int], str] = {
    **{(TimeFrame.Minutes, n): f"{n}m" for n in (1, 3, 5, 15, 30, 90)},
    **{(TimeFrame.Minutes, 60 * n): f"{n}h" for n in (1, 2, 3, 4, 6, 8, 12)},
    **{(TimeFrame.Days, n): f"{n}d" for n in (1, 3)},
    **{(TimeFrame.Weeks, n): f"{n}w" for n in (1, 2)},
    **{(TimeFrame.Months, n): f"{n}M" for n in (1, 3, 6)},
    (TimeFrame.Years, 1): "1y",
}

# Six digits keep every length far inside 64 bits.
_TEXT = re.compile(r"([1-9][0-9]{0,5})([smhdwMyY])", re.ASCII)
_KNOWN = "a whole number and s, m, h, d, w, M (month) or y, such as '1s', '5m', '1h', '1d', '1w', '1M', '1y'"


@dataclass(frozen=True, slots=True)
class Timeframe:
    """One timeframe; make it with `parse`.

    Attributes
    ----------
    text : str
        As ccxt and the exchange write it, such as ``'5m'``.
    unit : str
        One of ``s m h d w M y``.
    amount : int
        How many units a bar lasts, at least 1.
    ms : int or None
        Length of a bar in ms; None for months and years, whose length the calendar decides.
    """

    text: str
    unit: str
    amount: int
    ms: int | None

    def __str__(self) -> str:
        return self.text

    @property
    def months(self) -> int:
        """Length of a bar in calendar months; 0 where it has a fixed length in ms."""
        return _UNIT_MONTHS.get(self.unit, 0) * self.amount

    @property
    def anchor_ms(self) -> int:
        """A time at which a bar of fixed length opens; the grid is counted from here."""
        return FIRST_MONDAY_MS if self.unit == "w" else 0

    @property
    def nominal_ms(self) -> int:
        """Length in ms, with 30 days a month and 365 a year: for estimates and for ordering timeframes."""
        if self.ms is not None:
            return self.ms
        return self.amount * (YEAR_MS if self.unit == "y" else MONTH_MS)


@lru_cache(maxsize=256)
def _parse_text(text: str) -> Timeframe:
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ConfigError(f"Unknown timeframe {text!r}: write {_KNOWN}.")
    amount = int(match[1])
    unit = "y" if match[2] == "Y" else match[2]
    unit_ms = _UNIT_MS.get(unit)
    return Timeframe(text, unit, amount, None if unit_ms is None else amount * unit_ms)


def parse(text: str | Timeframe) -> Timeframe:
    """Read ccxt's text; a `Timeframe` is handed back as it is.

    Parameters
    ----------
    text : str or Timeframe
        Such as ``'5m'``; ``'1Y'`` reads as ``'1y'``.

    Returns
    -------
    Timeframe

    Raises
    ------
    ConfigError
        If the text is no timeframe; the message names what is known.
    """
    if isinstance(text, Timeframe):
        return text
    if not isinstance(text, str):
        raise ConfigError(f"A timeframe is text, not {text!r}: write {_KNOWN}.")
    return _parse_text(text)


def readable(texts: Iterable[str]) -> list[Timeframe]:
    """Read those texts that are timeframes; exchanges list others too.

    Parameters
    ----------
    texts : iterable of str

    Returns
    -------
    list of Timeframe
    """
    return [_parse_text(text) for text in texts if _TEXT.fullmatch(text)]


def from_backtrader(timeframe: int, compression: int, offered: Iterable[str] | None = None) -> str:
    """Give the text of a backtrader timeframe, as the exchange spells it.

    Parameters
    ----------
    timeframe : int
        A member of ``bt.TimeFrame``, Seconds or coarser.
    compression : int
        How many of them a bar lasts, at least 1.
    offered : iterable of str, optional
        The texts that the exchange lists (``exchange.timeframes``); unreadable ones among them are passed over.
        The same unit is preferred (``'7d'`` for Days x 7), then one of the same length (``'1w'``). Without
        `offered` whole hours and days of Minutes are written as such (Minutes x 60 is ``'1h'``, x 90 is ``'90m'``).

    Returns
    -------
    str

    Raises
    ------
    ConfigError
        If the pair itself is not one.
    NotOfferedError
        If no exchange has such bars (Ticks, MicroSeconds), or this one does not list it.
    """
    name = _NAME_OF.get(timeframe)
    if name is None:
        raise ConfigError(
            f"Unknown backtrader timeframe {timeframe!r}: use bt.TimeFrame.Seconds to bt.TimeFrame.Years."
        )
    if type(compression) is not int or not 1 <= compression <= 999_999:
        raise ConfigError(f"Compression {compression!r} of {name} is not a whole number from 1 to 999999.")
    unit = _UNIT_OF.get(timeframe)
    if unit is None:
        raise NotOfferedError(
            f"No exchange has bars of {name}: ask for bt.TimeFrame.Seconds or coarser, or for bars built from trades."
        )
    wanted = _parse_text(f"{compression}{unit}")
    if offered is None:
        return _shortest(wanted)
    listed = list(offered)
    match = _match(wanted, listed)
    if match is None:
        raise NotOfferedError(
            f"The exchange has no bars of {name} x {compression} ({_shortest(wanted)}): "
            f"choose one of {', '.join(listed) or 'none at all'}, or resample a finer one."
        )
    return match


def _shortest(wanted: Timeframe) -> str:
    """Write whole minutes, hours and days as such; days never become weeks, nor months years."""
    if wanted.ms is not None and wanted.unit in "smh":
        for unit in "dhm":
            if wanted.ms % _UNIT_MS[unit] == 0:
                return f"{wanted.ms // _UNIT_MS[unit]}{unit}"
    return wanted.text


def _match(wanted: Timeframe, listed: list[str]) -> str | None:
    """Return the listed text of the same unit, else of the same length, else None."""
    same_length = None
    for text in listed:
        if _TEXT.fullmatch(text) is None:
            continue
        found = _parse_text(text)
        if (found.ms, found.months) == (wanted.ms, wanted.months):
            if found.unit == wanted.unit:
                return text
            same_length = same_length or text
    return same_length


def to_backtrader(text: str | Timeframe) -> tuple[int, int]:
    """Give the backtrader pair of a timeframe.

    Parameters
    ----------
    text : str or Timeframe
        Such as ``'5m'``.

    Returns
    -------
    tuple of int
        (timeframe, compression); hours are Minutes x 60.

    Raises
    ------
    ConfigError
        If the text is no timeframe.
    """
    parsed = parse(text)
    if parsed.unit == "h":
        return TimeFrame.Minutes, 60 * parsed.amount
    return next(timeframe for timeframe, unit in _UNIT_OF.items() if unit == parsed.unit), parsed.amount


def floor_ms(timeframe: str | Timeframe, ts_ms: int) -> int:
    """Give the open of the bar that holds a time.

    Parameters
    ----------
    timeframe : str or Timeframe
    ts_ms : int
        Any time, in ms UTC.

    Returns
    -------
    int
        The open, in ms UTC; `ts_ms` itself where a bar opens then.

    Raises
    ------
    ConfigError
        If the text is no timeframe.
    """
    parsed = parse(timeframe)
    if parsed.ms is not None:
        return ts_ms - (ts_ms - parsed.anchor_ms) % parsed.ms
    month = _month_of(ts_ms)
    return _month_open_ms(month - month % parsed.months)


def next_ms(timeframe: str | Timeframe, ts_ms: int) -> int:
    """Give the open of the first bar after the one that holds a time; always later than `ts_ms`.

    Parameters
    ----------
    timeframe : str or Timeframe
    ts_ms : int
        Any time, in ms UTC.

    Returns
    -------
    int
        The next open, in ms UTC.

    Raises
    ------
    ConfigError
        If the text is no timeframe.
    """
    parsed = parse(timeframe)
    if parsed.ms is not None:
        return floor_ms(parsed, ts_ms) + parsed.ms
    month = _month_of(ts_ms)
    return _month_open_ms(month - month % parsed.months + parsed.months)


def close_ms(timeframe: str | Timeframe, open_ts_ms: int) -> int:
    """Give the close of the bar that an exchange says opened at a time, which is the open of the bar after it.

    Exchanges need not keep to the grid (weeks from Thursday, days and months of another time zone), so the close
    is reckoned from the open itself: a month that opens at 16:00 UTC on the 31st closes at 16:00 UTC on the last day
    of the next month.

    Parameters
    ----------
    timeframe : str or Timeframe
    open_ts_ms : int
        The bar's open, in ms UTC.

    Returns
    -------
    int
        The close, in ms UTC; exclusive.

    Raises
    ------
    ConfigError
        If the text is no timeframe.
    """
    parsed = parse(timeframe)
    if parsed.ms is not None:
        return open_ts_ms + parsed.ms
    month = _month_of(open_ts_ms)
    before_ms, after_ms = _month_open_ms(month), _month_open_ms(month + 1)
    if open_ts_ms - before_ms > after_ms - open_ts_ms:
        month, before_ms = month + 1, after_ms
    return _month_open_ms(month + parsed.months) + open_ts_ms - before_ms


# The proleptic Gregorian calendar in whole numbers: datetime ends at the year 9999, a stray timestamp does not.
# Years are counted from March, so that the leap day is the last day of one.


def _month_of(ts_ms: int) -> int:
    """Count the months from January of year 0 to the one that holds `ts_ms`."""
    days = ts_ms // DAY_MS + 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    return (era * 400 + year_of_era) * 12 + (5 * day_of_year + 2) // 153 + 2


def _month_open_ms(month: int) -> int:
    """Give the first ms of a month that is counted as in `_month_of`."""
    year, month_of_year = divmod(month - 2, 12)
    era, year_of_era = divmod(year, 400)
    days = 365 * year_of_era + year_of_era // 4 - year_of_era // 100 + (153 * month_of_year + 2) // 5
    return (era * 146_097 + days - 719_468) * DAY_MS
